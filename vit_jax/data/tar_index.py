"""Where each image of a set of tar shards lies, and of which class it is."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tqdm import tqdm

from vit_jax.data.layout import SPLIT_NAMES
from vit_jax.data.listing import EXTENSIONS
from vit_jax.data.staging import folder_lock
from vit_jax.storage import output
from vit_jax.storage.archives import DAMAGES
from vit_jax.storage.foreign import check_regular, open_regular, read_text
from vit_jax.storage.json_files import MOST_BYTES, parse, read_json
from vit_jax.values import Condition, Name, problem

CLASS_FILES = ("classes.txt", "classes.json")
ClassNames = Annotated[
    list[Name],
    Condition(
        "a list of names, one for each class, none twice",
        lambda names: names and len(set(names)) == len(names),
    ),
]
RECORD = np.dtype(
    [
        ("shard", "<u4"),
        ("header", "<i8"),  # where the image's member of the tar file begins
        ("offset", "<i8"),  # where the bytes of the image begin
        ("size", "<i8"),
        ("label", "<i4"),
    ]
)
# A label of a record that may have several: the number of the record, and the class.
PAIR = np.dtype([("record", "<i8"), ("label", "<i4")])
# Codes in place of a label.
NO_LABEL, BAD_LABEL, NO_IMAGE, SEVERAL = -1, -2, -3, -4
_FOLDER = ".index"
_CHECKSUM = 4  # bytes
_END = bytes(1024)  # the end of every tar file that was closed


def list_names(root: str) -> list[str]:
    """Names in a folder, and in its sub-folders that have the name of a split."""
    names = os.listdir(root)
    for split in set(names) & set(SPLIT_NAMES):
        folder = os.path.join(root, split)
        if os.path.isdir(folder):
            names += [f"{split}/{name}" for name in os.listdir(folder)]
    return sorted(names)


def is_shard(name: str) -> bool:
    """Whether a file is a tar shard by its extension, and not hidden."""
    return name.endswith(".tar") and not any(x.startswith(".") for x in name.split("/"))


def find_shards(names: Sequence[str], split: str, root: str) -> list[str]:
    """The sorted shards of a split.

    Args:
        names: paths of files relative to `root`; others than shards are ignored.

    Raises:
        ValueError: no such split, or only some shards name one.
    """
    splits: dict[str, list[str]] = {}
    for name in sorted(filter(is_shard, names)):
        splits.setdefault(_split_of(name), []).append(name)
    unnamed = splits.pop("", [])
    if unnamed and splits:
        raise ValueError(
            f"{root}/{unnamed[0]} is of no split, and other shards are, such as "
            f"{next(iter(splits.values()))[0]}; name the split of every shard, as in "
            "train-000000.tar or train/000000.tar"
        )
    splits = splits or {"train": unnamed}
    if split not in splits:
        raise ValueError(
            f"{root} has no split {split!r}; the splits of its shards are "
            f"{', '.join(sorted(splits))}"
        )
    return splits[split]


def _split_of(shard: str) -> str:
    """The split that a shard's path names, or ""."""
    folder, _, name = shard.rpartition("/")
    if folder in SPLIT_NAMES:
        return folder
    words = [word for word in re.split(r"[-_.]", name) if word in SPLIT_NAMES]
    return words[0] if words else ""


def find_class_file(names: Sequence[str], root: str) -> str:
    """Name of the file that has the names of the classes.

    Raises:
        ValueError: there is none.
    """
    for name in CLASS_FILES:
        if name in names:
            return name
    raise ValueError(
        f"{root} holds tar shards, but neither {' nor '.join(CLASS_FILES)}: write the "
        "names of the classes there, one a line, in the order of their numbers"
    )


def read_classes(path: str) -> tuple[str, ...]:
    """Names of the classes, in the order of the labels.

    Raises:
        ValueError: not a list of names, a name twice, or an empty one.
    """
    if path.endswith(".json"):
        return tuple(read_json(Path(path), ClassNames))
    names = read_text(path, MOST_BYTES).splitlines()
    if sentence := problem("", names, ClassNames):
        raise ValueError(f"{path}: {sentence}")
    return tuple(names)


def index_path(
    root: str, shards: Sequence[str], label: str, label_names: Sequence[str]
) -> str:
    """The file of the index, an array of RECORD; made if it is not there, or damaged.

    Where records may have several labels, `pairs_path` of it has an array of PAIR.

    It is in `root/.index`, or in the user's cache folder if nothing can be written
    there. Shards of other names, sizes or times have another index.

    Raises:
        ValueError: a shard is damaged.
        OSError: a shard cannot be read.
    """
    facts = ["several labels", label, *EXTENSIONS, *label_names]
    for shard in shards:
        status = os.stat(os.path.join(root, shard))
        facts += [shard, str(status.st_size), str(status.st_mtime_ns)]
    name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:20] + ".npy"
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    folder, other = os.path.join(root, _FOLDER), os.path.join(cache, "vit_jax", "tar")
    for place in (folder, other):
        if _is_index(os.path.join(place, name)):
            return os.path.join(place, name)
    if not os.access(folder if os.path.exists(folder) else root, os.W_OK):
        folder = other
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    with folder_lock(folder):
        if not _is_index(path):
            numbers = {name: number for number, name in enumerate(label_names)}
            records, pairs = _index(root, shards, label, numbers)
            if (records["label"] == SEVERAL).any():
                _save(pairs_path(path), pairs)
            _save(path, records)
    return path


def pairs_path(path: str) -> str:
    """The file of the labels of records that may have several, beside an index."""
    return path.removesuffix(".npy") + ".labels.npy"


def _save(path: str, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    content.write(_checksum(content.getbuffer()))
    output.write(Path(path), content.getvalue())


def _is_index(path: str) -> bool:
    """Whether an index is there, and all of it is as it was written."""
    if not _is_whole(path):
        return False
    several = (np.load(path, mmap_mode="r")["label"] == SEVERAL).any()
    return not several or _is_whole(pairs_path(path))


def _is_whole(path: str) -> bool:
    """Whether an array is there, and is as it was written: all labels are from it."""
    try:
        check_regular(path)
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):  # the latter if it is empty
        return False
    end = len(content) - _CHECKSUM
    return end > 0 and content[end:].tobytes() == _checksum(content.data[:end])


def _checksum(content: memoryview) -> bytes:
    """Stands behind an array, where NumPy does not look."""
    return zlib.crc32(content).to_bytes(_CHECKSUM)


def _index(
    root: str, shards: Sequence[str], label: str, numbers: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of RECORD and of PAIR."""
    bar = tqdm(shards, "indexing", unit="shard", disable=not sys.stderr.isatty())
    records: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    count = 0
    for number, shard in enumerate(bar):
        path = os.path.join(root, shard)
        try:
            rows = []
            for *place, labels in _images(path, label, numbers):
                code = SEVERAL if isinstance(labels, list) else labels
                rows.append((number, *place, code))
                if isinstance(labels, list):
                    pairs += [(count, one) for one in labels]
                count += 1
        except OSError:  # names the shard, which may be whole
            raise
        except DAMAGES as error:
            raise ValueError(
                f"the shard {path} is damaged ({error}); get it again"
            ) from error
        records.append(np.array(rows, RECORD))
    return np.concatenate(records), np.array(pairs, PAIR)


def _images(
    path: str, label: str, numbers: dict[str, int]
) -> Iterator[tuple[int, int, int, int | list[int]]]:
    """(header, offset, size, label or labels) of each image in a shard."""
    # Buffered, since headers are 512 bytes each.
    with (
        io.BufferedReader(open_regular(path)) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        members = (member for member in iter(tar.next, None) if member.isfile())
        for key, group in groupby(members, lambda member: _parts(member.name)[0]):
            files = {_parts(member.name)[1]: member for member in group}
            # tarfile keeps all members that it has seen.
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
            images = [files[end] for end in files if f".{end}" in EXTENSIONS]
            if len(images) > 1:
                raise tarfile.ReadError(f"{key} has {len(images)} images")
            if images:
                number = _label_of(tar, files, label, numbers)
                yield images[0].offset, images[0].offset_data, images[0].size, number
            elif "cls" in files or "json" in files:
                yield next(iter(files.values())).offset, 0, 0, NO_IMAGE
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(_END)))
        if file.read() != _END:
            raise tarfile.ReadError("its end is missing")


def _parts(name: str) -> tuple[str, str]:
    """Key and lower-case extension: "a.b/c" and "seg.png" of "a.b/c.seg.png"."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def _label_of(
    tar: tarfile.TarFile,
    files: dict[str, tarfile.TarInfo],
    field: str,
    numbers: dict[str, int],
) -> int | list[int]:
    """The class of a record, or a code; a list where it may have several."""
    if field == "label" and "cls" in files:
        value = tar.extractfile(files["cls"]).read().decode(errors="replace").strip()
        if re.fullmatch(r"\d{1,9}([\s,]+\d{1,9})+", value):
            value = re.split(r"[\s,]+", value)
    elif "json" in files:
        try:
            text = tar.extractfile(files["json"]).read(MOST_BYTES)
            value = parse(text, dict[str, Any], files["json"].name)[field]
        except (ValueError, KeyError):
            return NO_LABEL
    else:
        return NO_LABEL
    if not isinstance(value, list):
        return _class_of(value, numbers)
    labels = [_class_of(one, numbers) for one in value]
    return BAD_LABEL if BAD_LABEL in labels else labels


def _class_of(value: Any, numbers: dict[str, int]) -> int:
    # int() would also take "1_0", " 7", 0.5 and True.
    text = str(value)
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    return numbers.get(text, BAD_LABEL)
