"""Tar shards in the layout of webdataset, read at any place, without unpacking."""

from __future__ import annotations

import hashlib
import os
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.data.decode import ImageError, decode_image
from vit_jax.data.listing import EXTENSIONS
from vit_jax.data.source_types import multi_hot
from vit_jax.data.tar_index import (
    BAD_LABEL,
    NO_IMAGE,
    NO_LABEL,
    PAIR,
    SEVERAL,
    find_class_file,
    find_shards,
    index_path,
    list_names,
    pairs_path,
    read_classes,
)
from vit_jax.storage.archives import DAMAGES
from vit_jax.storage.foreign import open_regular

if TYPE_CHECKING:
    from vit_jax.data.staging import Bucket


class TarSource:
    """The images of one split of a folder of tar shards; a `Source`.

    A record is the files of one name up to its first dot, which stand side by side in a
    shard: an image (one of EXTENSIONS) and its class, a number from 0 as text
    in `cls`, or the field `label` of `json`; or the name of a class in either. Several
    numbers in a `cls`, or a list in the field, are several labels: then each record may
    have any number of them. Other files are ignored. The names of the classes stand
    beside the shards, in `classes.txt`, one a line, or `classes.json`, a list.

    The split of a shard is its sub-folder (`train/000000.tar`), or else in its name
    (`imagenet1k-train-0000.tar`); where no name has one, all are "train". Records come
    in the order of the shards' names, and within a shard as they were written.

    Where each image lies is found once, in a pass over all shards, and kept in a file.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        label: str = "label",
        bucket: Bucket | None = None,
    ):
        """Finds the shards, and the records in them.

        Args:
            root: folder of the shards.
            split: name of a split, without a slice.
            label: a field of the records' `json`; "label" is `cls` where there is one.
            bucket: the bucket that `root` is copied from.

        Raises:
            ValueError: no such split, no names of classes, a damaged shard, no records.
            OSError: a shard cannot be read, or not be copied.
        """
        names = bucket.names if bucket else list_names(root)
        self._root = root
        self._shards = find_shards(names, split, bucket.url if bucket else root)
        classes = find_class_file(names, bucket.url if bucket else root)
        if bucket:
            bucket.fetch([classes, *self._shards])
        self.label_names = read_classes(os.path.join(root, classes))
        self._path = index_path(root, self._shards, label, self.label_names)
        self._load()
        if not len(self._records):
            raise ValueError(f"the shards of split {split!r} of {root} hold no images")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        """Reads and decodes one image; raises ImageError if that is not possible."""
        record = self._records[index]
        numbers, size = self._numbers(index), int(record["size"])
        for label in numbers:
            if not 0 <= label < len(self.label_names):
                raise ImageError(f"{self.record_name(index)}: {self._problem(label)}")
        path = self._shard(index)
        try:
            # Opened for each: there may be more shards than a process may hold open,
            # and opening is a hundredth of the work on an image.
            with open_regular(path) as file:
                data = os.pread(file.fileno(), size, int(record["offset"]))
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            image = decode_image(data, path)
        except ImageError:
            # Decoded again for the name, which only a bad record needs.
            image = decode_image(data, self.record_name(index))
        if not self.multi_label:
            return {"image": image, "label": numbers[0]}
        return {"image": image, "label": multi_hot(numbers, len(self.label_names))}

    def _numbers(self, index: int) -> list[int]:
        """The classes of a record, or the code for what is wrong with them."""
        label = int(self._records[index]["label"])
        if label != SEVERAL:
            return [label]
        first, last = np.searchsorted(self._owners, [index, index + 1])
        return self._classes[first:last].tolist()

    def _problem(self, label: int) -> str:
        if label == NO_IMAGE:
            return f"there is no image beside it ({', '.join(EXTENSIONS)})"
        if label == NO_LABEL:
            return "it has no label"
        if label == BAD_LABEL:
            return "its label is neither a number nor the name of a class"
        return f"the label is {label}, not in 0..{len(self.label_names) - 1}"

    def labels(self) -> np.ndarray:
        """Labels of all records, negative where there is none: int32 (n,).

        Where a record may have several, uint8 (n, classes).
        """
        if not self.multi_label:
            return np.asarray(self._records["label"])
        count = len(self.label_names)
        rows = (self._numbers(index) for index in range(len(self)))
        known = ([x for x in numbers if 0 <= x < count] for numbers in rows)
        return np.stack([multi_hot(numbers, count) for numbers in known])

    def checksum(self) -> str:
        """Of where each record lies, its size and labels: all that the index has."""
        # As views: the index of a large set is half a gigabyte.
        digest = hashlib.sha256(self._records.view(np.uint8))
        digest.update(self._owners.data)
        digest.update(self._classes.data)
        return digest.hexdigest()

    def record_name(self, index: int) -> str:
        """Path of the shard, and name of the image in it."""
        path, header = self._shard(index), int(self._records[index]["header"])
        try:
            with open_regular(path) as file:
                file.seek(header)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    return f"{path}/{tar.next().name}"
        except DAMAGES:  # since it was indexed
            return f"{path}, the image at byte {header}"

    def _shard(self, index: int) -> str:
        return os.path.join(self._root, self._shards[self._records[index]["shard"]])

    def __getstate__(self) -> dict[str, Any]:
        # Workers map the file too: in memory it is there once for all of them.
        return {**self.__dict__, "_records": None, "_owners": None, "_classes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def _load(self) -> None:
        """Maps the index."""
        self._records = np.load(self._path, mmap_mode="r")
        pairs = pairs_path(self._path)
        self.multi_label = os.path.exists(pairs)
        table = np.load(pairs) if self.multi_label else np.empty(0, PAIR)
        # Contiguous: a search in one field of an array would copy it each time.
        self._owners, self._classes = (table[name].copy() for name in PAIR.names or ())
