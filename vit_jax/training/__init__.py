"""The training step, and everything that a run does around it."""
