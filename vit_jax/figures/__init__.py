"""Figures of what models do, each as PNG, SVG and a CSV of the numbers drawn."""
