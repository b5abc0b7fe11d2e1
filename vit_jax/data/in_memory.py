"""A split as two arrays, and the order in which training walks through it."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from vit_jax.data.cpus import usable_cpus
from vit_jax.data.decode import ADVICE, ImageError
from vit_jax.data.pipeline import Data
from vit_jax.data.source_types import read_many
from vit_jax.data.stream import epoch_order

# Limit for one split: half the memory of the smallest GPU that one would use.
MAX_BYTES = 8 << 30
_CHUNK = 256


class Images(NamedTuple):
    """A split in memory: image uint8 (n, h, w, 3), label int32 (n,)."""

    image: np.ndarray
    label: np.ndarray


@functools.lru_cache(maxsize=16)
def shared(data: Data) -> Data:
    """The first of equal data sections, so that its files are listed once."""
    return data


@functools.lru_cache(maxsize=6)
def training_images(data: Data) -> Images:
    """The training split, its images as `Data.stored_transform` leaves them.

    Raises:
        ValueError: images of several sizes, or too many bytes.
        ImageError: an image that cannot be read.
    """
    return _read(data, data.split, data.stored_transform)


@functools.lru_cache(maxsize=6)
def eval_images(data: Data, split: str) -> Images:
    """A split as the model gets it in evaluation; raises as `training_images`."""
    return _read(data, split, data.eval_transform)


# Enough for a grid that trains one model after the other on the same seeds: drawing
# the order of 50,000 examples takes 0.2 s.
@functools.lru_cache(maxsize=512)
def _order(length: int, seed: int, epoch: int) -> np.ndarray:
    return epoch_order(length, seed, epoch).astype(np.int32)


def examples(start: int, stop: int, length: int, seed: int) -> np.ndarray:
    """Numbers of the records at positions start..stop-1 of the stream: int32 (n,).

    The same as `stream.example_at`, for a data set of `length` records.
    """
    parts = []
    while start < stop:
        epoch, place = divmod(start, length)
        taken = min(stop - start, length - place)
        parts.append(_order(length, seed, epoch)[place : place + taken])
        start += taken
    return np.concatenate(parts)


def _read(
    data: Data, split: str, transform: Callable[[np.ndarray], np.ndarray]
) -> Images:
    source = data.source(split)

    def read(start: int) -> tuple[list[np.ndarray], list[int]]:
        chunk = range(start, min(start + _CHUNK, len(source)))
        images, labels = [], []
        for record in read_many(source, chunk):
            if isinstance(record, ImageError):
                raise ImageError(f"{record}; {ADVICE}")
            images.append(transform(record["image"]))
            labels.append(record["label"])
        return images, labels

    first = read(0)[0][0]
    _check_size(data, split, first.nbytes * len(source))
    image = np.empty((len(source), *first.shape), np.uint8)
    label = np.empty(len(source), np.int32)
    # As in `make_source`: small images are read faster by one thread.
    threads = 1 if first.nbytes < 128 * 128 * 3 else usable_cpus()
    cv2.setNumThreads(1)  # its own threads would compete with these
    starts = range(0, len(source), _CHUNK)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start, (images, labels) in zip(starts, pool.map(read, starts), strict=True):
            for place, (pixels, number) in enumerate(
                zip(images, labels, strict=True), start
            ):
                if pixels.shape != first.shape:
                    raise ValueError(
                        f"{source.record_name(place)} is {pixels.shape[:2]} pixels and "
                        f"other images of {data.name} are {first.shape[:2]}: in memory "
                        'all need one size; set data.crop to "resize" or '
                        '"resize_random_crop", or train with vit_jax.train'
                    )
                image[place], label[place] = pixels, number
    return Images(image, label)


def _check_size(data: Data, split: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(
            f"the split {split!r} of {data.name} takes {size / 2**30:.1f} GiB in "
            f"memory, more than {MAX_BYTES / 2**30:.0f} GiB: train with vit_jax.train, "
            "which reads it piece by piece"
        )
