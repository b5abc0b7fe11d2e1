"""Figures of models, each as PNG, SVG and a CSV of the numbers drawn."""
