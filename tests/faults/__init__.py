"""Breaks real training runs, starts them again, and compares how they end."""
