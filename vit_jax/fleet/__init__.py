"""Several runs side by side, as one compiled program."""
