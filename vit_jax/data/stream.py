"""The order of examples: which one stands at which place of the stream, on any host.

Global position i of the training stream belongs to epoch e = i // n and holds example
`permutation(seed, e)[i % n // copies]`, augmented with a generator that depends on
(seed, i) only. Global batch t holds the positions [t B, (t + 1) B), counted from the
start index; a process delivers the rows that its devices hold. None of this depends on
the number of threads, worker processes or hosts, so they cannot change what is
delivered.

`copies` is 1, or that of repeated augmentation: with 3, an epoch has as many examples,
three of each of a third of the images, as in DeiT.

Grain reads ahead, in threads or worker processes, in blocks of a batch. A block is one
random-access element for Grain, whose cost for an element is that of the whole
augmentation at 32x32 pixels. Grain keeps the order of the blocks; their content
depends on their number alone.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from grain.experimental import index_shuffle

from vit_jax.data.decode import ImageError
from vit_jax.data.source_types import Source, is_multi_label

# Images in a block: enough to hide Grain's cost, few enough to spread over threads.
_BLOCK = 64
# What an evaluation batch has besides `columns`: shapes of a row and dtypes.
EVAL_COLUMNS: dict[str, tuple[tuple, Any]] = {
    "mask": ((), bool),
    "index": ((), np.int64),
}
# Streams are as good as endless; Grain needs a length.
_ENDLESS = 1 << 60


def example_at(position: int, length: int, seed: int, copies: int = 1) -> int:
    """Number of the record at a global position of the shuffled, endless stream.

    Args:
        length: number of records.
        copies: places in a row that hold the same record.
    """
    epoch, place = divmod(position, length)
    return index_shuffle(
        place // copies, max_index=length - 1, seed=epoch_seed(seed, epoch), rounds=4
    )


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """`example_at` of all positions of an epoch: int64 (length,)."""
    first = epoch * length
    places = range(first, first + length)
    return np.array([example_at(place, length, seed) for place in places])


def spread(positions: np.ndarray, length: int, copies: int) -> np.ndarray:
    """The positions of a batch in an order in which copies are far apart.

    MixUp and CutMix mix neighbours, which must not be the same image: first come all
    first copies, then all second ones. Takes and returns int64 (b,).
    """
    return positions[np.argsort(positions % length % copies, kind="stable")]


@functools.lru_cache(maxsize=64)
def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's order, a number of 32 bits."""
    # Hashed, not added: with seed + epoch, epoch 1 of seed 0 is epoch 0 of seed 1.
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def generator_at(position: int, seed: int) -> np.random.Generator:
    """The random generator for the augmentation at a global position."""
    return np.random.Generator(np.random.Philox(key=(seed, position)))


class Filling:
    """The arrays of whole batches, of which each block fills its own rows.

    This saves joining the blocks, which takes one thread 37 ms for 1,024 images of 224
    pixels, as long as eight good GPUs need for a step.
    """

    def __init__(self, per_batch: int):
        self._per_batch = per_batch
        self._lock = threading.Lock()
        # Batches by number, with how many of their blocks have not asked for them yet.
        self._begun: dict[int, tuple[dict, int]] = {}

    def batch(self, number: int, make: Callable[[], dict]) -> dict:
        """The arrays of a batch; each of its blocks asks for them once."""
        with self._lock:
            arrays, left = self._begun.pop(number, None) or (make(), self._per_batch)
            if left > 1:
                self._begun[number] = arrays, left - 1
        return arrays


class _Blocks:
    """Blocks of one process's share of the batches, by number; pickled to workers.

    A block is a dict of the arrays of its rows and "errors", (name, message) of each
    unreadable record; in threads also "batch", the arrays of the whole batch.
    """

    def __init__(
        self,
        source: Source,
        *,
        start: int,
        batch_size: int,
        rows: np.ndarray | None,
    ):
        self.source = source
        self.batch_size = batch_size
        self._start = start
        self.rows = rows
        self._rows = np.arange(batch_size) if rows is None else rows
        self.per_batch = -(-len(self._rows) // _BLOCK)
        self._filling: Filling | None = Filling(self.per_batch)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process does not have all blocks of a batch, and sends each alone.
        return {**self.__dict__, "_filling": None}

    def positions(self, block: int) -> list[int]:
        """Global positions of the examples in a block."""
        batch, place = divmod(block, self.per_batch)
        first = self._start + batch * self.batch_size
        return [first + int(row) for row in self._rows[self._slice(place)]]

    def _slice(self, place: int) -> slice:
        """The rows of the block at a place, in this process's share of a batch."""
        count = len(self._rows)
        start, stop = ((place + i) * count // self.per_batch for i in (0, 1))
        return slice(start, stop)

    def _empty(self, block: int, columns: dict[str, tuple[tuple, Any]]) -> dict:
        """A block of zeros to be filled; `columns` has shapes of a row and dtypes."""

        def zeros(count: int) -> dict[str, np.ndarray]:
            return {
                name: np.zeros((count, *shape), dtype)
                for name, (shape, dtype) in columns.items()
            }

        number, place = divmod(block, self.per_batch)
        rows = self._slice(place)
        if self._filling is None:
            return {**zeros(rows.stop - rows.start), "errors": []}
        batch = self._filling.batch(number, lambda: zeros(len(self._rows)))
        own = {name: array[rows] for name, array in batch.items()}
        return {**own, "batch": batch, "errors": []}


class TrainBlocks(_Blocks):
    """Shuffled, augmented blocks without end; a Grain data source."""

    def __init__(
        self,
        source: Source,
        transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
        image_size: tuple[int, int],
        *,
        seed: int,
        tries: int,
        copies: int = 1,
        order: Callable[[int], int] | None = None,
        **batches: Any,
    ):
        """The arguments of `_Blocks`, and:

        tries: records tried for one place before it is left black.
        copies: of each image, one near the other, each augmented anew.
        order: the record at a global position; None for `example_at`.
        """
        super().__init__(source, **batches)
        self._copies = copies
        self._order = order or functools.partial(
            example_at, length=len(source), seed=seed, copies=copies
        )
        self._transform, self._image_size = transform, image_size
        self._seed, self._tries = seed, tries

    def __len__(self) -> int:
        return _ENDLESS

    def positions(self, block: int) -> list[int]:
        if self._copies == 1:
            return super().positions(block)
        batch, place = divmod(block, self.per_batch)
        first = self._start + batch * self.batch_size
        whole = np.arange(first, first + self.batch_size)
        whole = spread(whole, len(self.source), self._copies)
        return whole[self._rows[self._slice(place)]].tolist()

    def __getitem__(self, block: int) -> dict:
        filled = self._empty(block, columns(self._image_size, self.source))
        for row, position in enumerate(self.positions(block)):
            record = self._readable(position, filled["errors"])
            if record is not None:
                rng = generator_at(position, self._seed)
                filled["image"][row] = self._transform(record["image"], rng)
                filled["label"][row] = record["label"]
        return filled

    def _readable(self, position: int, errors: list[tuple[str, str]]) -> dict | None:
        length, first = len(self.source), self._order(position)
        for attempt in range(min(self._tries, length)):
            index = (first + attempt) % length
            try:
                return self.source[index]
            except ImageError as error:
                errors.append((self.source.record_name(index), str(error)))
        return None


class EvalBlocks(_Blocks):
    """Every record once, in order, the last batch padded; a Grain data source."""

    def __init__(
        self,
        source: Source,
        transform: Callable[[np.ndarray], np.ndarray],
        image_size: tuple[int, int],
        **batches: Any,
    ):
        super().__init__(source, start=0, **batches)
        self._transform, self._image_size = transform, image_size

    @property
    def num_batches(self) -> int:
        """Number of global batches, equal on all processes."""
        return -(-len(self.source) // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches * self.per_batch

    def __getitem__(self, block: int) -> dict:
        shapes = columns(self._image_size, self.source) | EVAL_COLUMNS
        filled = self._empty(block, shapes)
        for row, index in enumerate(self.positions(block)):
            filled["index"][row] = index
            if index >= len(self.source):
                continue
            try:
                record = self.source[index]
            except ImageError as error:
                name = self.source.record_name(index)
                filled["errors"].append((name, str(error)))
                continue
            filled["image"][row] = self._transform(record["image"])
            filled["label"][row], filled["mask"][row] = record["label"], True
        return filled


def columns(
    image_size: tuple[int, int], source: Source
) -> dict[str, tuple[tuple, Any]]:
    """Shape and dtype of an example's image and label, or labels."""
    label = ((), np.int32)
    if is_multi_label(source):
        label = ((len(source.label_names),), np.uint8)
    return {"image": ((*image_size, 3), np.uint8), "label": label}
