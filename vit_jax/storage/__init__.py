"""Checkpoints on disk: the parts of `checkpoint.py`."""
