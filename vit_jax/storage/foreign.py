"""Files that others made: opened only if regular, unpacked only if of a sane size."""

from __future__ import annotations

import io
import os
import stat
import zipfile

# Raise these two for archives that you trust. Weights and pictures hardly shrink; a
# bomb, which is made to fill memory or disk, shrinks to a thousandth.
MAX_RATIO = 200
MAX_SMALL_ARCHIVE = 256 << 20  # unpacked bytes below which no ratio is looked at


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


def check_archive(archive: zipfile.ZipFile, name: str | os.PathLike) -> int:
    """Bytes that an archive unpacks to, of what its own table says.

    `zipfile` reads no more of a member than this table says.

    Raises:
        ValueError: they are so many for its size that it must be a bomb.
    """
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if unpacked > max(MAX_SMALL_ARCHIVE, MAX_RATIO * packed):
        raise ValueError(
            f"{name} unpacks from {packed / 2**20:.1f} MiB to {unpacked / 2**20:,.0f} "
            f"MiB, more than {MAX_RATIO} times its size, as no weights and pictures "
            "do; unpack it yourself if you trust it, or raise MAX_RATIO in "
            "vit_jax/storage/foreign.py"
        )
    return unpacked
