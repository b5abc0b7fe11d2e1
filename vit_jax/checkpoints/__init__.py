"""Checkpoints of a run: saved, verified, kept, restored."""
