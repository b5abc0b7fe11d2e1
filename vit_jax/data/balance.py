"""Classes of unequal size: weights of the loss, and an order that levels them."""

from __future__ import annotations

import functools

import numpy as np
from grain.experimental import index_shuffle

from vit_jax.data.stream import epoch_seed

# A class with c images counts as one with c ** POWER.
POWER = {"sqrt": 0.5, "balanced": 0.0}
# Grain's shuffle tries numbers below 65,536 until one is small enough: 30 ms for 3.
SMALL = 4096


def class_weights(counts: np.ndarray, kind: str) -> np.ndarray:
    """Weights of the images of each class, whose mean over all images is 1.

    "balanced" is scikit-learn's n / (k count), "sqrt" goes half of the way.

    Args:
        counts: images of each class, none 0.
    """
    powers = counts.astype(float) ** (POWER[kind] - 1)
    return powers * (counts.sum() / (counts * powers).sum())


def shares(counts: np.ndarray, kind: str, total: int) -> np.ndarray:
    """How many of the places of an epoch each class has.

    What is left of whole numbers goes to the largest remainders.
    """
    sizes = np.where(counts > 0, counts.astype(float) ** POWER[kind], 0)
    exact = total * sizes / sizes.sum()
    places = np.floor(exact).astype(int)
    rest = total - places.sum()
    places[np.argsort(places - exact, kind="stable")[:rest]] += 1
    return places


class BalancedOrder:
    """Which record stands at a global position of the stream, with levelled classes.

    An epoch has as many places as there are images. `shares` of them belong to each
    class, in an order that is shuffled anew for each epoch. A class goes through its
    images in a shuffled order, and begins another one, across epochs, when all were
    there: so those of a small class come several times an epoch, and of those of a
    large one none is left out for ever. All depends on (seed, position) alone.
    """

    def __init__(self, labels: np.ndarray, kind: str, seed: int, copies: int) -> None:
        """Counts the classes; records without a label are never drawn.

        Args:
            labels: one for each record, negative without one.
            kind: "balanced" or "sqrt".
            copies: places in a row that hold the same record.
        """
        known = np.flatnonzero(labels >= 0)
        self._members = known[np.argsort(labels[known], kind="stable")]
        self._counts = np.bincount(labels[known])
        self._starts = np.cumsum(self._counts) - self._counts
        self._length, self._seed, self._copies = len(labels), seed, copies
        self._places = shares(self._counts, kind, self._length)
        self._ends = np.cumsum(self._places)

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self._length)
        number = shuffled(
            place // self._copies, self._length, epoch_seed(self._seed, epoch)
        )
        label = int(np.searchsorted(self._ends, number, side="right"))
        count, places = int(self._counts[label]), int(self._places[label])
        drawn = epoch * places + number - (int(self._ends[label]) - places)
        turn, number = divmod(drawn, count)
        member = shuffled(number, count, turn_seed(self._seed, label, turn))
        return int(self._members[self._starts[label] + member])


def shuffled(number: int, count: int, seed: int) -> int:
    """The place of a number in a permutation of so many."""
    if count <= SMALL:
        return int(small_permutation(count, seed)[number])
    return index_shuffle(number, max_index=count - 1, seed=seed, rounds=4)


@functools.lru_cache(maxsize=1024)
def small_permutation(count: int, seed: int) -> np.ndarray:
    """A permutation of so many numbers, by a hash of the seed: int32 (count,)."""
    keys = np.random.SeedSequence(seed).generate_state(count, np.uint64)
    return np.argsort(keys, kind="stable").astype(np.int32)


@functools.lru_cache(maxsize=4096)
def turn_seed(seed: int, label: int, turn: int) -> int:
    """The seed of a class's order, a number of 32 bits."""
    return int(np.random.SeedSequence((seed, label, turn)).generate_state(1)[0])
