"""What goes wrong with a bucket."""


class StoreError(OSError):
    """The object store did not answer, or refused: which says nothing about data."""
