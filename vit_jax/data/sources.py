"""Random-access image sources: arrays, digits, folders, tensorflow-datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.cpus import usable_cpus
from vit_jax.data.decode import ImageError
from vit_jax.data.folder import stable_hash
from vit_jax.data.openers import opener, refuse_label
from vit_jax.data.source_types import (
    CachedSource,
    PartSource,
    Source,
    read_many,
)
from vit_jax.data.subsets import with_classes
from vit_jax.data.tfds_source import TfdsSource

_AUTO_CACHE_BYTES = 1 << 30
# Below this, threads that decode wait for each other: 50,000 images of 32x32 take
# 1.6 s with one thread and 7 s with two.
_SMALL_IMAGE_BYTES = 128 * 128 * 3
_SPLIT = re.compile(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


class ArraySource:
    """Images and labels in memory; a `Source`."""

    def __init__(
        self,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        label_names: Sequence[str],
        *,
        name: str = "array",
    ):
        """Checks and keeps the arrays.

        Args:
            images: uint8 (n, h, w, 3), or grey (n, h, w).
            labels: n integers in 0..len(label_names)-1.
            label_names: name of each class.
            name: prefix of the record names.

        Raises:
            ValueError: wrong type, shape, length, or a label out of range.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 in 0..255, got {images.dtype}")
        if images.ndim == 3:
            images = np.repeat(images[..., None], 3, axis=-1)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                "images must have the shape (n, h, w, 3) or (n, h, w), got "
                f"{images.shape}"
            )
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be {len(images)} integers, one an image, got "
                f"{labels.dtype} of shape {labels.shape}"
            )
        bad = np.flatnonzero((labels < 0) | (labels >= len(label_names)))
        if bad.size:
            raise ValueError(
                f"{name} record {bad[0]}: the label is {labels[bad[0]]}, not in "
                f"0..{len(label_names) - 1}; correct it or add the class's name"
            )
        self._images, self._labels, self._name = images, labels, name
        self.label_names: tuple[str, ...] = tuple(label_names)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self._images[index], "label": int(self._labels[index])}

    def labels(self) -> np.ndarray:
        """Labels of all records: integers (n,)."""
        return self._labels

    def record_name(self, index: int) -> str:
        """The given name and the number of the record."""
        return f"{self._name} record {index}"


def make_source(
    name: str,
    split: str,
    *,
    classes: Sequence[str] = (),
    label: str = "label",
    data_dir: str | None = None,
    stage: str = "",
    holdout: float = 0.1,
    cache: str = "auto",
) -> Source:
    """Opens one split of a data set, which is not empty.

    Args:
        name: "digits" (scikit-learn's 1797 images of 8x8 pixels; 80 % train, 20 %
          test), a name of tensorflow-datasets (TfdsSource), or a folder of images
          (FolderSource), tar shards (TarSource) or a prepared data set. It is a path if
          such a folder exists, or if it starts with ".", "~", "/" or has two
          separators. Shards and prepared sets can be in a bucket: "gs://bucket/folder".
        split: such as "train", "test", "train[:98%]", "train[100:200]".
        classes: keep only these, relabelled in this order: names, or numbers as text.
          A slice is taken of the remaining records.
        label: the field that is the class, or a rule, see TfdsSource and TarSource.
        data_dir: folder of prepared tensorflow-datasets, also in a bucket; None is its
          default.
        stage: local folder for copies of what is in buckets.
        holdout: share of each class in "val" of a folder without split folders.
        cache: keep the decoded images in memory: "auto" if they are estimated to take
          at most 1 GiB, "always", or "never".

    Raises:
        ValueError: unknown name, split, class, empty split, wrong layout.
        FileNotFoundError: missing folder, or a data set that is not prepared.
        ImportError: the library of an object store is missing.
        OSError: an object store cannot be read, or there is no room for the copy.
    """
    if name == "digits":
        refuse_label(name, label)
        return _slice(_digits, name, split, classes)
    open_split = opener(name, label, data_dir, stage, holdout)
    # The splits of tensorflow-datasets can be more than a slice: "train+test".
    if classes or open_split.func is not TfdsSource:
        source = _slice(open_split, name, split, classes)
    else:
        source = open_split(split)
    image_bytes = _mean_image_bytes(source) if cache != "never" else 0
    if cache == "never" or (
        cache == "auto" and image_bytes * len(source) > _AUTO_CACHE_BYTES
    ):
        return source
    threads = 1 if image_bytes < _SMALL_IMAGE_BYTES else usable_cpus()
    return CachedSource(source, threads=threads)


def _slice(open_split, name: str, split: str, classes: Sequence[str]) -> Source:
    """Opens the split before the bracket, keeps classes, cuts out the part in it."""
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise ValueError(
            f"cannot read the split {split!r} of {name}; write it as in "
            '"train", "train[:98%]", "train[98%:]" or "train[100:200]"'
        )
    source = open_split(match[1])
    if classes:
        source = with_classes(source, classes, name)
    start = _position(match[2], len(source), 0)
    stop = _position(match[3], len(source), len(source))
    if start >= stop:
        raise ValueError(
            f"split {split!r} of {name} is empty; {match[1]} has {len(source)} images"
        )
    if (start, stop) == (0, len(source)):
        return source
    return PartSource(source, range(start, stop), source.label_names)


def _position(text: str | None, length: int, default: int) -> int:
    if not text:
        return default
    if text.endswith("%"):
        position = round(int(text[:-1]) * length / 100)
    else:
        position = int(text)
    return min(max(position + length if position < 0 else position, 0), length)


def _digits(split: str) -> ArraySource:
    # Imported here: it takes seconds and the other sources do not need it.
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"digits has no split {split!r}; its splits are train, test")
    digits: Any = load_digits()
    order = sorted(range(len(digits.target)), key=lambda i: stable_hash(f"digit {i}"))
    chosen = []
    for label in range(10):
        members = [index for index in order if digits.target[index] == label]
        count = round(0.2 * len(members))
        chosen += members[:count] if split == "test" else members[count:]
    chosen.sort(key=order.index)
    images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return ArraySource(images, digits.target[chosen], names, name=f"digits {split}")


def _mean_image_bytes(source: Source) -> float:
    """Estimate from sixteen records spread over the source; bad ones do not count."""
    places = np.linspace(0, len(source) - 1, min(16, len(source))).astype(int)
    records = read_many(source, places.tolist())
    sizes = [r["image"].nbytes for r in records if not isinstance(r, ImageError)]
    return float(np.mean(sizes)) if sizes else 0.0
