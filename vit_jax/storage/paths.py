"""What a path is: on a disk, or `gs://bucket/folder` on Google Cloud Storage.

All paths of commands go through `as_path`, or `on_disk` where an object store will not
do, so that none becomes a local folder called `gs:`.
"""

import functools
import importlib.util
import logging
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from vit_jax.storage import disk

# The scheme of a path; one slash is what pathlib leaves of two.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?(.*)", re.DOTALL)


def as_path(text: str | Path) -> Path:
    """A path from a user, on a disk or in a bucket.

    Returns:
        A `pathlib.Path`, or for `gs://bucket/folder` its counterpart of `etils.epath`,
        whose files are objects.

    Raises:
        ValueError: another `scheme://`, no bucket, or characters of a pattern.
        ImportError: what reads buckets is not installed.
    """
    match = SCHEME.match(str(text))
    if match is None:
        return expanded(text)
    scheme, rest = match.groups()
    if scheme != "gs":
        mounted = "; mount the bucket and give its folder" if scheme == "s3" else ""
        raise ValueError(
            f"{scheme}:// is not supported: {text} should be a path on a disk, or "
            f"gs://bucket/folder{mounted}"
        )
    if not rest.partition("/")[0]:
        raise ValueError(f"{text} names no bucket: wanted gs://bucket/folder")
    if wild := re.search(r"[*?#%[\]].*", rest):
        raise ValueError(
            f"{text} has characters that buckets' clients take for others, from "
            f"{wild[0]} on: wanted a folder without * ? # % [ ]"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ImportError(f'{text} needs: pip install "vit_jax[gcs]"')
    return _epath().Path(f"gs://{rest.rstrip('/')}")


def on_disk(text: str | Path) -> Path:
    """A path from a user where only a disk will do.

    Raises:
        ValueError: it is a `scheme://`.
    """
    if match := SCHEME.match(str(text)):
        raise ValueError(
            f"{match[1]}:// is not supported here: {text} should be a path on a disk"
        )
    return expanded(text)


def expanded(text: str | Path) -> Path:
    """A path on a disk, with the home folder for "~", which shells leave in --flag=~/x.

    A name of no user, as in "~0/x", stays as it is.
    """
    return Path(os.path.expanduser(text))


def in_bucket(path: str | Path) -> bool:
    """Whether a path is in a bucket."""
    return str(path).startswith("gs://")


def medium(path: Path) -> ModuleType:
    """The module that reads and writes there: `disk` or `bucket`."""
    if not in_bucket(path):
        return disk
    # Imported when needed: it needs a client that most machines do not have.
    from vit_jax.storage import bucket

    return bucket


def absolute(path: Path) -> Path:
    """The absolute path; one in a bucket has no other form."""
    return path if in_bucket(path) else path.absolute()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step: a killed process leaves the old one or the new.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    medium(path).write_atomically(path, content)


@functools.cache
def _epath() -> Any:
    """`etils.epath`, with which Orbax reads and writes too, on gcsfs."""
    # TensorFlow, where it is installed, has its own client for buckets; one client with
    # one set of credentials is enough. epath reads this at the first path.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec.config
    from etils import epath

    # Other processes write to the folder, so that a cached list is out of date.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    # It logs a traceback for every error, which it raises as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return epath
