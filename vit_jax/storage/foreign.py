"""Files that others made: opened only if they are regular."""

from __future__ import annotations

import io
import os
import stat

# Without waiting for a FIFO's writer, and without a terminal taking us over.
_FLAGS = os.O_RDONLY
for _name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):  # where there are any
    _FLAGS |= getattr(os, _name, 0)


class Refused(OSError):
    """A file that is not read: a folder, a FIFO, a device, or one that is too large."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(path)} {reason}")
        self.strerror = f"it {reason}"


def kind(mode: int) -> str:
    """What a file's mode says that it is, in words."""
    for test, words in (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return words
    return "of an unknown kind"


def open_regular(path: str | os.PathLike) -> io.FileIO:
    """Opens a file to be read, unbuffered; raises as `read_regular`."""
    return io.FileIO(_open(path)[0])


def check_regular(path: str | os.PathLike) -> None:
    """Raises as `open_regular`, for a library that opens the file by its name."""
    open_regular(path).close()


def read_regular(path: str | os.PathLike, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        Refused: it is larger, or not regular: a FIFO would block for ever, a device
            have no end.
        OSError: it cannot be read.
    """
    number, size = _open(path)
    try:
        if size > most:
            # A file with a hole may claim more bytes than any memory has.
            raise Refused(path, f"has {size:,} bytes, more than {most:,}")
        data = os.read(number, size)
        while len(data) < size and (more := os.read(number, size - len(data))):
            data += more
        return data
    finally:
        os.close(number)


def read_text(path: str | os.PathLike, most: int) -> str:
    """The text of such a file.

    Raises:
        ValueError: it is not in UTF-8.
        OSError: as `read_regular`.
    """
    try:
        return read_regular(path, most).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{os.fspath(path)} is no text in UTF-8: {error.reason} at byte "
            f"{error.start}"
        ) from None


def _open(path: str | os.PathLike) -> tuple[int, int]:
    """The descriptor and the size of a regular file, or of what it links to."""
    number = os.open(path, _FLAGS)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        os.close(number)
        raise Refused(path, f"is {kind(status.st_mode)} and no regular file")
    return number, status.st_size
