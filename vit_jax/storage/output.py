"""What commands write: whole files, and never over what they have read.

Every output goes through here: `check` before the work for it begins, then `write`,
`replacing` or `filling`. A file is written beside its place and renamed, so that a full
disk or a kill leaves the old file or the new one.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from vit_jax.storage import disk
from vit_jax.storage.paths import in_bucket, medium

TEMPORARY = ".vit_jax-"  # beginning of the names of files that are not whole yet
# Folders in that of a run which nothing but the run writes.
OF_RUNS = ("checkpoints", "tensorboard", "wandb", "profile")
# What is read along with a file of weights beside it.
BESIDE = ("config.json", "preprocessor_config.json", "adapter_config.json")
# Control characters, those that turn the direction of text, and bytes of names that are
# not UTF-8, which Python has as surrogates.
CONTROLS = r"\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
UNPRINTABLE = re.compile(rf"[\x00-\x1f{CONTROLS}]")
UNPRINTABLE_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{CONTROLS}]")


class OutputError(OSError):
    """An output that cannot be written, or must not be; the message names it."""


class DiskError(OutputError):
    """An output that the disk did not take."""


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with escapes, such as `\x1b`, for what no terminal should get.

    Args:
        lines: keeps newlines and tabs; without it, the result is one line.
    """
    pattern = UNPRINTABLE_IN_LINES if lines else UNPRINTABLE
    return pattern.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def check(
    path: Path,
    read: Iterable[str | Path] = (),
    *,
    is_folder: bool = False,
    results: bool = False,
) -> None:
    """Checks a place for an output, and that it can be written; leaves no trace there.

    Args:
        read: checkpoints, data and images that the command reads; a name that is no
            path counts for nothing.
        is_folder: several files are written directly into `path`.
        results: a run may have the folder in its own, as it has its `evaluation`.

    Raises:
        OutputError: it is or lies in what is read, or in a run; or no file can be
            written there.
    """
    with naming(path):
        check_place(path, read, is_folder=is_folder, results=results)
        if in_bucket(path):
            return
        check_kind(path, is_folder=is_folder)
        folder = path if is_folder else path.parent
        while not folder.exists():
            folder = folder.parent
        probe = temporary_in(folder)
        probe.touch(exist_ok=False)
        probe.unlink()


def check_place(
    path: Path, read: Iterable[str | Path], *, is_folder: bool, results: bool
) -> None:
    """Raises OutputError if a place is in what is read, or in a run."""
    sources = [place for source in read for place in read_by(source)]
    real = path if in_bucket(path) else Path(os.path.realpath(path))
    for source in sources:
        # A file is read together with what lies beside it.
        inside = is_folder and source.parent == real and not source.is_dir()
        if real == source or source in real.parents or inside:
            if not (results and is_own_folder(real, source)):
                raise OutputError(
                    f"{path} cannot be the output, since {source} is read: name "
                    "another file or folder, outside of it"
                )
    if in_bucket(path):
        return
    for folder in (real, *real.parents):
        if is_run(folder) and not (results and is_own_folder(real, folder)):
            raise OutputError(
                f"{path} cannot be the output, since {folder} is the folder of a run: "
                "name a place outside of it"
            )


def read_by(source: str | Path) -> list[Path]:
    """The real files and folders that are read of a path, as of `file.npz:part`."""
    if in_bucket(source):
        return [Path(source) if isinstance(source, str) else source]
    before, _, _ = str(source).rpartition(":")
    found = [place for place in (str(source), before) if place and Path(place).exists()]
    if not found:
        return []
    path = Path(os.path.realpath(found[0]))
    if path.is_dir():
        return [path]
    if path.name.endswith(".index.json"):
        return [path.parent]
    return [path, *(path.parent / name for name in BESIDE)]


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "checkpoints").is_dir() and (folder / "config.json").is_file()


def is_own_folder(place: Path, run: Path) -> bool:
    """Whether a place is in a folder of a run's folder that the run does not use."""
    if run not in place.parents or not (in_bucket(run) or is_run(run)):
        return False
    return place.relative_to(run).parts[0] not in OF_RUNS


def check_kind(path: Path, *, is_folder: bool = False) -> None:
    """Raises OutputError unless a file, or a folder, can take the place of a path."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if is_folder:
        if not path.is_dir():
            raise OutputError(f"{path} is no folder: name another place")
    elif stat.S_ISLNK(mode):
        raise OutputError(
            f"{path} is a link to {path.readlink()}, which is not followed: name the "
            "file itself, or another one"
        )
    elif stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a folder: wanted the name of a file")
    elif not stat.S_ISREG(mode):
        raise OutputError(
            f"{path} is a pipe or a device and no regular file: name another place"
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives another path to write to, which takes the place of `path` at the end.

    Raises:
        OutputError: it cannot be written; what was there before is unchanged.
    """
    with naming(path):
        check_kind(path)
        with made(path.parent):
            temporary = temporary_in(path.parent)
            try:
                # Where the umask is set, and no link is followed.
                temporary.touch(exist_ok=False)
                yield temporary
                sync(temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all.

    What is not UTF-8 in text, such as file names, is written as an escape, which is an
    escape of JSON too.

    Raises:
        OutputError: it cannot be written; what was there before is unchanged.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    if in_bucket(path):
        medium(path).make_folder(path.parent)
        medium(path).write_atomically(path, content)
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives an empty folder, whose files are moved to `folder` when all are written.

    Raises:
        OutputError: they cannot be written; `folder` is as it was.
    """
    if in_bucket(folder):
        with medium(folder).filling(folder) as local:
            yield local
        return
    with naming(folder), made(folder):
        temporary = temporary_in(folder)
        temporary.mkdir()
        try:
            yield temporary
            files = sorted(temporary.iterdir())
            for file in files:
                check_kind(folder / file.name)
            for file in files:
                os.replace(file, folder / file.name)
        except OutputError as error:
            text = str(error).replace(str(temporary), str(folder))
            raise type(error)(text) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def temporary_in(folder: Path) -> Path:
    """A path for a file that is not whole yet; the name is nobody else's."""
    return folder / f"{TEMPORARY}{secrets.token_hex(6)}.tmp"


def sync(path: Path) -> None:
    """Waits until a file is on its disk, which may turn out to be full only then."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder, which goes again if the writing fails."""
    new = disk.missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns errors of the disk into an OutputError that names the output."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise DiskError(f"{path} could not be written: {reason}") from error
