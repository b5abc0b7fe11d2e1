"""What frozen features are worth, and metrics on other test sets."""
