"""Files that others made: opened only if they are regular."""

from __future__ import annotations

import io
import os
import stat


class NotRegular(OSError):
    """A name that stands for no regular file: a folder, a FIFO, a device."""

    def __init__(self, path: str | os.PathLike, mode: int):
        super().__init__(f"{os.fspath(path)} is {kind(mode)} and no regular file")
        self.strerror = f"it is {kind(mode)} and no regular file"


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
    """Opens a file to be read, unbuffered, if it or what it links to is regular.

    Raises:
        NotRegular: a FIFO would block for ever, a device have no end.
        OSError: it cannot be opened.
    """
    # Without waiting for a FIFO's writer, and without a terminal taking us over.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    number = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise NotRegular(path, mode)
    return io.FileIO(number)


def check_regular(path: str | os.PathLike) -> None:
    """Raises as `open_regular`, for a library that opens the file by its name."""
    open_regular(path).close()


def read_regular(path: str | os.PathLike, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it is larger, is not regular, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            # A file with a hole may claim more bytes than any memory has.
            error = OSError(f"{os.fspath(path)} has {size:,} bytes, more than {most:,}")
            error.strerror = f"it has {size:,} bytes, more than {most:,}"
            raise error
        return file.read()
