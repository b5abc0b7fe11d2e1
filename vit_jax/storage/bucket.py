"""Run folders in a bucket, where nothing can be renamed: markers say what counts.

`disk.py` has the same functions for disks. A step counts while it has Orbax's commit
marker, written last, or our manifest. Both are removed first, so that a half-removed
step is not taken for whole; what a kill leaves has neither and is tidied.
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

from vit_jax.storage.disk import is_step
from vit_jax.storage.errors import StoreError

MEDIUM = "bucket"
MANIFEST, COMMITTED = "manifest.json", "commit_success.txt"
UPLOAD_EVERY = 30  # seconds, of files that grow
# In a folder of checkpoints: the process that last opened it for a training.
OPENED = "opened_by"
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def store_errors(path: Path, action: str = "read") -> Iterator[None]:
    """Turns the client's errors into one kind; FileNotFoundError stays as it is.

    Raises:
        StoreError: the store did not answer, or refused.
    """
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        if action != "written":
            raise
        raise StoreError(
            f"{path} could not be written: there is no such bucket, or none that these "
            "credentials may see"
        ) from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = "; ".join(line.strip() for line in lines[:2])
        raise StoreError(f"{path} could not be {action}: {reason}") from error


def client() -> Any:
    """The client of the store, which is safe in several threads."""
    return fsspec.filesystem("gcs")


def folders(directory: Path) -> list[Path]:
    """What is directly in a folder; empty if there is no folder."""
    with store_errors(directory), contextlib.suppress(FileNotFoundError):
        names = client().ls(str(directory), detail=False)
        return [directory / name.rstrip("/").rpartition("/")[2] for name in names]
    return []


def is_committed(folder: Path) -> bool:
    """Whether a step was committed, and its removal has not begun."""
    return exists(folder / COMMITTED) or exists(folder / MANIFEST)


def steps(directory: Path) -> list[int]:
    """The committed steps in a folder of checkpoints, oldest first."""
    paths = [path for path in folders(directory) if is_step(path.name)]
    return sorted(int(path.name) for path in paths if is_committed(path))


def make_folder(folder: Path) -> None:
    """Does nothing: a folder exists where objects are."""


def open_folder(directory: Path) -> None:
    """Marks a folder of checkpoints as the one that this process trains in."""
    write_atomically(directory / OPENED, f"{platform.node()} {os.getpid()}\n")


def unfinished(directory: Path) -> list[Path]:
    """Saves and removals that were cut short, or are under way."""
    paths = [path for path in folders(directory) if is_step(path.name)]
    return [path for path in paths if not is_committed(path)]


def tidy(directory: Path) -> str:
    """Removes saves and removals that were cut short; returns their names."""
    removed = unfinished(directory)
    for path in removed:
        remove(path)
    return ", ".join(path.name for path in removed)


def move(folder: Path, target: Path) -> None:
    """Moves a step to a place that is empty."""
    with store_errors(folder, "copied"):
        for name in files(folder):
            client().cp_file(str(folder / name), str(target / name))
    remove(folder)


def remove(folder: Path) -> None:
    """Removes a step, first its markers, without which it does not count."""
    with store_errors(folder, "removed"):
        for name in (MANIFEST, COMMITTED):
            with contextlib.suppress(FileNotFoundError):
                client().rm_file(str(folder / name))
        with contextlib.suppress(FileNotFoundError):
            client().rm(str(folder), recursive=True)


def files(folder: Path) -> dict[str, int]:
    """The bytes of each object in a folder, by its path from there."""
    with store_errors(folder):
        objects = client().find(str(folder), detail=True)
    prefix = f"{str(folder).removeprefix('gs://')}/"
    return {
        name.removeprefix(prefix): int(entry["size"])
        for name, entry in sorted(objects.items())
        if not name.endswith("/")
    }


def modified(folder: Path) -> float:
    """When an object of a folder was last changed, in seconds since 1970."""
    with store_errors(folder):
        objects = client().find(str(folder), detail=True).values()
        return max((entry["mtime"].timestamp() for entry in objects), default=0.0)


def exists(path: Path) -> bool:
    """Whether there is an object, or one below it."""
    with store_errors(path):
        return client().exists(str(path))


def read_text(path: Path) -> str:
    """Reads a text."""
    return read_bytes(path).decode()


def read_bytes(path: Path) -> bytes:
    """Reads an object."""
    with store_errors(path):
        return client().cat_file(str(path))


def sha256(path: Path) -> str:
    """The SHA-256 of an object, in hexadecimal; read in parts."""
    with store_errors(path), client().open(str(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kvstore(folder: Path) -> Any:
    """A folder as TensorStore's specs name it."""
    name, _, path = str(folder).removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": name, "path": f"{path}/"}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces an object, which the store does in one step.

    Raises:
        StoreError: it cannot be written; the old object is unchanged.
    """
    with store_errors(path, "written"):
        data = content.encode() if isinstance(content, str) else content
        client().pipe_file(str(path), data)


def upload(source: Path, target: Path) -> None:
    """Replaces an object by the content of a file."""
    with store_errors(target, "written"):
        client().pipe_file(str(target), source.read_bytes())


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives a local folder to write files in; at the end they go to `folder`."""
    with tempfile.TemporaryDirectory(prefix="vit_jax-") as name:
        yield Path(name)
        for path in sorted(Path(name).iterdir()):
            upload(path, folder / path.name)


class Held:
    """A folder that was marked by `open_folder`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def is_there(self) -> bool:
        """Whether the mark is there; True if the store does not answer."""
        try:
            return exists(self.directory / OPENED)
        except StoreError:
            return True

    def close(self) -> None:
        """Does nothing: the mark may stay."""


class Lock:
    """An object that names its holder, made only where none is; see `lock.py`."""

    taken = works = False  # There is no kernel that all share.

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = ""

    def take(self, text: str) -> str:
        """Takes the lock and returns "", or returns what its holder wrote."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                return read_text(self.path)
            with store_errors(self.path, "written"):
                try:
                    client().pipe_file(str(self.path), text.encode(), mode="create")
                except FileExistsError:
                    continue  # Somebody else was quicker.
            self._text = text
            return ""

    def take_over(self, other: str) -> None:
        """Removes the lock of a dead holder, unless it is another's by now."""
        with contextlib.suppress(FileNotFoundError):
            if read_text(self.path) == other:
                with store_errors(self.path, "removed"):
                    client().rm_file(str(self.path))

    def sign(self) -> str:
        """What changes with each sign of life."""
        return str(modified(self.path))

    def beat(self) -> str:
        """Gives a sign of life and returns "", or returns what another holder wrote."""
        other = read_text(self.path)
        if other == self._text:
            write_atomically(self.path, self._text)
            return ""
        return other

    def release(self) -> None:
        """Removes the object, if it is ours; one that stays is taken over."""
        if self._text:
            with contextlib.suppress(StoreError):
                self.take_over(self._text)


class Growing(threading.Thread):
    """Files that grow during a run: written to a disk, uploaded whole as they change.

    A thread uploads them every half a minute, and `push` at once, before a checkpoint.

    Args:
        workdir: folder of the run.
        names: files that a resumed run appends to, which are fetched if they exist.

    Attributes:
        folder: where the files are written; deleted in the end.

    Raises:
        StoreError: the files cannot be fetched.
        OSError: the folder cannot be made.
    """

    def __init__(self, workdir: Path, names: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self.workdir = workdir
        # Of one name for a run and process, as its next start removes what a kill left.
        digest = hashlib.sha256(f"{workdir} {names}".encode()).hexdigest()[:16]
        name = f"vit_jax-{os.getuid()}-{digest}"
        self.folder = Path(tempfile.gettempdir(), name)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
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
                logger.warning("%s; the upload is tried again", error)

    def push(self) -> None:
        """Uploads what has changed.

        Raises:
            StoreError: a file cannot be uploaded.
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
        """Uploads the rest; what cannot be uploaded stays on the disk, with a warning.

        Nothing is tried again, since a store that does not answer takes long.
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
