"""Run folders on a disk, where renaming makes a change atomic.

`bucket.py` has the same functions for `gs://`.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.storage.foreign import Refused, kind, open_regular

MEDIUM = "disk"
# Folders of saves by Orbax, and of removals by us, that did not finish.
UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.removing")


def steps(directory: Path) -> list[int]:
    """The committed steps in a folder of checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if is_step(name))


def is_step(name: str) -> bool:
    """Whether a folder of a step has this name: other spellings, as 007, are none."""
    return re.fullmatch(r"0|[1-9][0-9]*", name) is not None


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Turns an error into one that names what could not be written."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise type(error)(f"{path} could not be written: {reason}") from error


def make_folder(folder: Path) -> None:
    """Makes a folder, if need be."""
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)


def open_folder(directory: Path) -> None:
    """Makes a folder of checkpoints, if need be."""
    make_folder(directory)


def folders(directory: Path) -> list[Path]:
    """What is directly in a folder; empty if there is no folder."""
    return list(directory.glob("*"))


def unfinished(directory: Path) -> list[Path]:
    """Saves and removals that were cut short, or are under way."""
    return [path for name in UNFINISHED for path in directory.glob(name)]


def tidy(directory: Path) -> str:
    """Removes saves and removals that were cut short; returns their names."""
    removed = unfinished(directory)
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        for path in directory.glob("*/*.json.tmp"):
            path.unlink()
    return ", ".join(path.name for path in removed)


def move(folder: Path, target: Path) -> None:
    """Moves a step to a place that is empty."""
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)


def remove(folder: Path) -> None:
    """Removes a step, at once for every reader: renamed first, deleted then."""
    removing = folder.with_name(f"{folder.name}.removing")
    folder.rename(removing)
    shutil.rmtree(removing)


def files(folder: Path) -> dict[str, int]:
    """The bytes of each file in a folder, by its path from there."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def modified(folder: Path) -> float:
    """When a folder was last changed, in seconds since 1970."""
    return folder.stat().st_mtime


def exists(path: Path) -> bool:
    """Whether there is a file or folder."""
    return path.exists()


def read_text(path: Path) -> str:
    """Reads a regular text file."""
    return read_bytes(path).decode()


def read_bytes(path: Path) -> bytes:
    """Reads a regular file."""
    with open_regular(path) as file:
        return file.readall()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kvstore(folder: Path) -> Any:
    """A folder as TensorStore's specs name it."""
    return {"driver": "file", "path": f"{folder}/"}


def missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step: a killed process leaves the old one or the new.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with written(path):
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives a folder to write files in: `folder` itself."""
    make_folder(folder)
    yield folder


class Held:
    """A folder held open, so that no other one can be taken for it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._folder: int | None = os.open(directory, os.O_RDONLY)

    def is_there(self) -> bool:
        """Whether the folder of this name is still the same one."""
        try:
            status = os.stat(self.directory)
            return os.path.samestat(status, os.fstat(self._folder))  # pyright: ignore[reportArgumentType]
        except OSError:
            return False

    def close(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


class Growing:
    """Files that grow during a run, written where they stay.

    Attributes:
        folder: where they are written.
    """

    def __init__(self, workdir: Path, names: tuple[str, ...]) -> None:  # noqa: ARG002
        self.folder = workdir

    def push(self) -> None:
        """Does nothing: the files are in place."""

    def close(self) -> None:
        """Does nothing."""


class Lock:
    """A file that the kernel locks, and that names its holder; see `lock.py`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken, self.works = False, True
        self._file: int | None = None
        self._text, self._dead = "", ""

    def take(self, text: str) -> str:
        """Takes the lock and returns "", or returns what its holder wrote."""
        while not self._open():
            pass  # The last holder removed the file meanwhile.
        other = os.pread(self._file, 4096, 0).decode(errors="replace")  # pyright: ignore[reportArgumentType]
        if self.taken or (other and other != self._dead):
            return other or "{}"
        os.ftruncate(self._file, 0)  # pyright: ignore[reportArgumentType]
        os.pwrite(self._file, text.encode(), 0)  # pyright: ignore[reportArgumentType]
        self._text = text
        return ""

    def _open(self) -> bool:
        """Opens and locks the file; whether it is still the one of its name."""
        self._close()
        with written(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
            self._file = os.open(self.path, flags, 0o644)
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(self.path, f"is {kind(status.st_mode)} and no regular file")
        self.taken = False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.taken = True
        except OSError:  # Some file systems have no locks: signs of life have to do.
            self.works = False
        try:
            return os.path.samestat(status, os.stat(self.path))
        except FileNotFoundError:
            return False

    def take_over(self, other: str) -> None:
        """Lets the next `take` take it from a dead holder."""
        self._dead = other

    def sign(self) -> str:
        """What changes with each sign of life."""
        return str(os.stat(self.path).st_mtime_ns)

    def beat(self) -> str:
        """Gives a sign of life and returns "", or returns what another holder wrote."""
        other = self.path.read_text(errors="replace")
        if other == self._text:
            os.utime(self.path)
            return ""
        return other

    def release(self) -> None:
        """Removes the file, if it is still ours."""
        with contextlib.suppress(OSError):
            if self._text and self.beat() == "":
                self.path.unlink()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
