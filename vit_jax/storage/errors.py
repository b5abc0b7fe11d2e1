"""The error of object stores."""


class StoreError(OSError):
    """The object store did not answer, or refused; the data may be whole."""
