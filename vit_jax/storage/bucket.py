"""Run folders in a bucket, where nothing can be renamed: markers say what counts.

`disk.py` has the same functions for disks. A step counts while it has Orbax's commit
marker, written last, or our manifest. It is removed from the manifest on, so that no
half-removed one is taken for whole; what a kill leaves has neither and is tidied.
"""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from vit_jax.storage.errors import StoreError

MEDIUM = "bucket"
MANIFEST, COMMITTED = "manifest.json", "commit_success.txt"
UPLOAD_EVERY = 30  # seconds, of files that grow
# In a folder of checkpoints: which process last opened it for a training.
OPENED = "opened_by"
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def asked(path: Path, wanted: str = "read") -> Iterator[None]:
    """Makes one kind of what the client raises; a missing object stays as it is.

    Raises:
        StoreError: in a sentence.
    """
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        if wanted != "written":
            raise
        raise StoreError(
            f"{path} could not be written: there is no such bucket, or none that these "
            "credentials may see"
        ) from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = "; ".join(line.strip() for line in lines[:2])
        raise StoreError(f"{path} could not be {wanted}: {reason}") from error


def client() -> Any:
    """The client of the store, which is safe in several threads."""
    return fsspec.filesystem("gcs")


def folders(directory: Path) -> list[Path]:
    """What is directly in a folder, and nothing where there is none."""
    with asked(directory), contextlib.suppress(FileNotFoundError):
        names = client().ls(str(directory), detail=False)
        return [directory / name.rstrip("/").rpartition("/")[2] for name in names]
    return []


def counts(folder: Path) -> bool:
    """Whether a step was committed, and is not half removed."""
    return exists(folder / COMMITTED) or exists(folder / MANIFEST)


def steps(directory: Path) -> list[int]:
    """The committed steps in a folder of checkpoints, oldest first."""
    found = [path for path in folders(directory) if path.name.isdigit()]
    return sorted(int(path.name) for path in found if counts(path))


def make_folder(folder: Path) -> None:
    """Nothing is to be done: a folder is where objects are."""


def open_folder(directory: Path) -> None:
    """Marks a folder of checkpoints as the one that this process trains in."""
    write_atomically(directory / OPENED, f"{platform.node()} {os.getpid()}\n")


def unfinished(directory: Path) -> list[Path]:
    """Saves and removals that were cut short, or are under way."""
    found = [path for path in folders(directory) if path.name.isdigit()]
    return [path for path in found if not counts(path)]


def tidy(directory: Path) -> str:
    """Removes saves and removals that were cut short; returns their names."""
    found = unfinished(directory)
    for path in found:
        remove(path)
    return ", ".join(path.name for path in found)


def move(folder: Path, target: Path) -> None:
    """Moves a step to a place where nothing is."""
    with asked(folder, "copied"):
        for name in files(folder):
            client().cp_file(str(folder / name), str(target / name))
    remove(folder)


def remove(folder: Path) -> None:
    """Removes a step: it counts no more when its markers are gone, which go first."""
    with asked(folder, "removed"):
        for name in (MANIFEST, COMMITTED):
            with contextlib.suppress(FileNotFoundError):
                client().rm_file(str(folder / name))
        with contextlib.suppress(FileNotFoundError):
            client().rm(str(folder), recursive=True)


def files(folder: Path) -> dict[str, int]:
    """The bytes of each object in a folder, by its path from there."""
    with asked(folder):
        found = client().find(str(folder), detail=True)
    prefix = f"{str(folder).removeprefix('gs://')}/"
    return {
        name.removeprefix(prefix): int(entry["size"])
        for name, entry in sorted(found.items())
        if not name.endswith("/")
    }


def modified(folder: Path) -> float:
    """When an object of a folder was last changed, in seconds since 1970."""
    with asked(folder):
        found = client().find(str(folder), detail=True).values()
        return max((entry["mtime"].timestamp() for entry in found), default=0.0)


def exists(path: Path) -> bool:
    """Whether there is an object, or one below it."""
    with asked(path):
        return client().exists(str(path))


def read_text(path: Path) -> str:
    """All of a text."""
    with asked(path):
        return client().cat_file(str(path)).decode()


def sha256(path: Path) -> str:
    """The SHA-256 of an object, in hexadecimal; read in parts."""
    with asked(path), client().open(str(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kvstore(folder: Path) -> Any:
    """A folder as TensorStore's specs name it."""
    name, _, path = str(folder).removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": name, "path": f"{path}/"}


def write_atomically(path: Path, text: str) -> None:
    """Replaces an object, which the store does in one step.

    Raises:
        StoreError: it cannot be written, in a sentence; the old one is as it was.
    """
    with asked(path, "written"):
        client().pipe_file(str(path), text.encode())


def upload(source: Path, target: Path) -> None:
    """Replaces an object by what is in a file now."""
    with asked(target, "written"):
        client().pipe_file(str(target), source.read_bytes())


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Where files are written that are to be in a folder in the end."""
    with tempfile.TemporaryDirectory(prefix="vit_jax-") as name:
        yield Path(name)
        for path in sorted(Path(name).iterdir()):
            upload(path, folder / path.name)


class Held:
    """A folder that was marked by `open_folder`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def is_there(self) -> bool:
        """Whether the mark is; where the store does not answer, nothing is known."""
        try:
            return exists(self.directory / OPENED)
        except StoreError:
            return True

    def close(self) -> None:
        """Nothing is to be done: the mark stays, and means nothing then."""


class Growing(threading.Thread):
    """Files that grow during a run: written to a disk, uploaded whole as they change.

    A thread does it every half a minute; `push` does at once, before a checkpoint.

    Args:
        workdir: folder of the run.
        names: of those that a run goes on with, which are fetched if they are there.

    Attributes:
        folder: where they are written; deleted in the end.

    Raises:
        StoreError: they cannot be fetched.
    """

    def __init__(self, workdir: Path, names: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self.workdir = workdir
        self.folder = Path(tempfile.mkdtemp(prefix="vit_jax-"))
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._failed = False
        self._lock, self._closed = threading.Lock(), threading.Event()
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                text = read_text(workdir / name)
                (self.folder / name).write_text(text)
        self.start()

    def run(self) -> None:
        while not self._closed.wait(UPLOAD_EVERY):
            try:
                self.push()
            except StoreError as error:
                logger.warning("%s; it is tried again", error)

    def push(self) -> None:
        """Uploads what has changed.

        Raises:
            StoreError: it cannot.
        """
        with self._lock:
            self._failed = True
            for path in sorted(self.folder.rglob("*")):
                if not path.is_file() or path.suffix == ".tmp":
                    continue
                if "wandb" in path.parts:  # uploads its files itself
                    continue
                stat = path.stat()
                version = (stat.st_size, stat.st_mtime_ns)
                if self._uploaded.get(path) == version:
                    continue
                upload(path, self.workdir / str(path.relative_to(self.folder)))
                self._uploaded[path] = version
            self._failed = False

    def close(self) -> None:
        """Uploads the rest; what cannot be is left on the disk, with a warning.

        Nothing is tried again, since each try at a store that is away takes long.
        """
        self._closed.set()
        self.join()
        try:
            if self._failed:
                raise StoreError(f"{self.workdir} was not reached")
            self.push()
        except StoreError as error:
            logger.warning("%s; what is missing there is in %s", error, self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
