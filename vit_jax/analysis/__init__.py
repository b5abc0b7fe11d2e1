"""Measures of trained models: pure functions on arrays."""
