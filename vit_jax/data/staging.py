"""Data sets in a bucket: copied to a folder of the host, and checked, before reading.

The order of training is random over the whole data set, and each record is some 100 KB:
read from a bucket one by one, 20,000 images/s would be as many requests a second, of
tens of milliseconds each, and the readers of ArrayRecord open local files only. Whole
files are copied at the speed of the network, once a host.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import errno
import fcntl
import glob
import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

# Schemes, and the extras that bring their libraries.
EXTRAS = {"gs": "gcs", "s3": "s3"}
# Parallel copies: one stream gives a tenth of what a host's network carries.
_STREAMS = 16
_LOCK = ".staging.lock"


def is_url(name: str) -> bool:
    """Whether a name is one of an object store, or of anything else with `://`."""
    return "://" in name


class Bucket:
    """The objects below a URL, and the folder of this host that they are copied to.

    Attributes:
        url: such as "gs://bucket/tfds/cifar10".
        folder: the local counterpart, STAGE/bucket/tfds/cifar10.
        names: sorted paths of all objects relative to the URL.
    """

    def __init__(self, url: str, stage: str):
        """Lists the objects.

        Args:
            stage: the local folder of all copies, made if need be.

        Raises:
            ValueError: an unknown scheme, or no `stage`.
            ImportError: the library of the store is not installed.
            FileNotFoundError: there is nothing at the URL.
            OSError: the store cannot be reached, or refuses.
        """
        scheme, _, path = url.partition("://")
        if scheme not in EXTRAS:
            raise ValueError(
                f"{url}: data can be read from gs:// and s3://, not from {scheme}://; "
                "mount it and give the path of the folder"
            )
        if not stage:
            raise ValueError(
                f"{url} is in a bucket, and records are read from local files: give "
                "--config.data.stage=FOLDER on a disk with room for the splits that "
                "are used, or mount the bucket and give the path"
            )
        self.url = url.rstrip("/")
        self.folder = os.path.join(os.path.expanduser(stage), path.strip("/"))
        self._files, objects = _list(self.url)
        root = path.strip("/") + "/"
        self._objects = {
            name.removeprefix(root): info
            for name, info in objects.items()
            if name.startswith(root) and not name.endswith("/")
        }
        self.names = sorted(self._objects)
        if not self.names:
            raise FileNotFoundError(f"there are no objects below {self.url}")

    def fetch(self, names: Iterable[str]) -> None:
        """Copies the objects whose local files are missing or differ in size or time.

        A file appears under its name when it is whole, with the time of the object, so
        that a stopped copy goes on file by file. Processes of one host wait for the one
        that copies.

        Raises:
            OSError: the disk is full, an object cannot be read or came damaged.
        """
        os.makedirs(self.folder, exist_ok=True)
        with folder_lock(self.folder):
            missing = [name for name in names if not self._is_here(name)]
            if missing:
                self._copy(missing)

    def _is_here(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            local, info = os.stat(self._path(name)), self._objects[name]
            same_time = int(local.st_mtime) == int(_modified(info))
            return local.st_size == info["size"] and same_time
        return False

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, *name.split("/"))

    def _copy(self, names: list[str]) -> None:
        total = sum(self._objects[name]["size"] for name in names)
        free = shutil.disk_usage(self.folder).free
        if total > free:
            raise OSError(
                f"{len(names)} files of {self.url} need {total / 2**30:.2f} GiB, and "
                f"{self.folder} has {free / 2**30:.2f} GiB free; make room, or give "
                "another --config.data.stage",
            )
        amount = f"{len(names)} files, {total / 2**30:.2f} GiB"
        print(f"copying {amount}, of {self.url} to {self.folder}", flush=True)
        start, done = time.monotonic(), 0
        bar = tqdm(
            total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
        )
        with bar, concurrent.futures.ThreadPoolExecutor(_STREAMS) as pool:
            copies = [pool.submit(self._copy_one, name) for name in names]
            try:
                for copy in concurrent.futures.as_completed(copies):
                    bar.update(copy.result())
                    done += 1
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if not isinstance(error, OSError):
                    raise
                raise OSError(
                    f"{_cause(error)}; {done} of {len(names)} files have been copied, "
                    "the same command goes on from there"
                ) from error
        seconds = time.monotonic() - start
        rate = total / 1e6 / seconds
        print(f"copied in {seconds:.1f} s, {rate:.1f} MB/s", flush=True)

    def _copy_one(self, name: str) -> int:
        """Copies and checks one object: its size in bytes."""
        info, path = self._objects[name], self._path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for leftover in glob.glob(f"{glob.escape(path)}.*.part"):
            os.remove(leftover)
        part = f"{path}.{os.getpid()}.part"
        try:
            try:
                self._files.get_file(info["name"], part)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise OSError(f"no space left for {path}") from error
                raise OSError(f"{self.url}/{name}: {_cause(error)}") from error
            # The libraries of the stores have errors of their own.
            except Exception as error:
                raise OSError(f"{self.url}/{name}: {_cause(error)}") from error
            _check(part, info, f"{self.url}/{name}")
            os.utime(part, (time.time(), _modified(info)))
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)
        return info["size"]


def _list(url: str) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The file system of a URL, and the store's facts of each object below it."""
    # fsspec comes with the extras.
    try:
        import fsspec

        # It logs a traceback for every error, which it raises as well.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        # A line for each object where there are no credentials and none are needed.
        logging.getLogger("google.auth").setLevel(logging.ERROR)
        files, root = fsspec.url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS[url.split("://")[0]]
        raise ImportError(
            f"{url} needs a library that is not installed ({error}); run "
            f'`pip install "vit_jax[{extra}]"`'
        ) from error
    try:
        # An earlier listing by this process may be out of date.
        files.invalidate_cache()
        objects = files.find(root, detail=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no bucket or folder {url}") from error
    # No common class: HttpError of gcsfs, BotoCoreError of s3fs, of google.auth, ...
    except Exception as error:
        raise OSError(
            f"{url} cannot be listed ({_cause(error)}); look at its spelling, and "
            "whether this host has credentials for it: `gcloud auth "
            "application-default login`, or the AWS_* variables"
        ) from error
    return files, {name: {**info, "name": name} for name, info in objects.items()}


def _modified(info: dict[str, Any]) -> float:
    # The names in gcsfs and in s3fs.
    return (info.get("mtime") or info["LastModified"]).timestamp()


def _check(path: str, info: dict[str, Any], name: str) -> None:
    """Compares a copy with the size and checksum in the store.

    Composite objects of Google's store have a CRC and no MD5. S3 has an MD5 of some
    objects, without saying of which: there the size alone is compared.
    """
    size = os.path.getsize(path)
    if size != info["size"]:
        raise OSError(f"{name} has {info['size']} bytes, and {size} came")
    expected, got = "", ""
    if "md5Hash" in info:
        expected = base64.b64decode(info["md5Hash"]).hex()
        with open(path, "rb") as file:
            got = hashlib.file_digest(file, "md5").hexdigest()
    elif "crc32c" in info:
        expected, got = info["crc32c"], _crc32c(path)
    if got != expected:
        raise OSError(f"{name} came damaged: its checksum is not {expected}, but {got}")


def _crc32c(path: str) -> str:
    import google_crc32c  # comes with gcsfs

    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()


@contextlib.contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Holds the lock of a folder, which the system releases when a process dies."""
    with open(os.path.join(folder, _LOCK), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that works in {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
