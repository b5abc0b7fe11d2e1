"""Host batches to global arrays on the devices, ahead of their use."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_jax.data.batches import Batch


def prefetch_to_device(
    batches: Iterator[Batch], sharding: Any, size: int = 2
) -> DevicePrefetch:
    """Puts batches on the devices ahead of their use.

    Args:
        batches: TrainBatches, EvalBatches or any iterator of dicts of arrays.
        sharding: `jax.sharding.Sharding` of every array; its first axis is the batch.
        size: batches kept on the device, the current one included.

    Returns:
        Iterator of dicts of global `jax.Array`.
    """
    return DevicePrefetch(batches, sharding, size)


class DevicePrefetch:
    """Batches on the device, see `prefetch_to_device`.

    Attributes:
        next_index: state of the stream after the batches *delivered* so far; those
          that wait on the device do not count. None for evaluation batches.
    """

    def __init__(self, batches: Iterator[Batch], sharding: Any, size: int):
        if size < 1:
            raise ValueError(f"the prefetch needs room for 1 batch, got size={size}")
        self._batches, self._sharding, self._size = batches, sharding, size
        self._waiting: collections.deque = collections.deque()
        self.next_index: int | None = getattr(batches, "next_index", None)

    @property
    def skipped(self) -> list[str]:
        """Names of skipped records, those of waiting batches included."""
        return self._batches.skipped

    def __iter__(self) -> DevicePrefetch:
        return self

    def __next__(self) -> dict[str, Any]:
        while len(self._waiting) < self._size and self._fetch():
            pass
        if not self._waiting:
            raise StopIteration
        batch, self.next_index = self._waiting.popleft()
        return batch

    def _fetch(self) -> bool:
        # Imported here: worker processes import this module and need no JAX.
        import jax

        batch = next(self._batches, None)
        if batch is None:
            return False
        rows = getattr(self._batches, "rows", None)
        if rows is None:
            arrays = jax.device_put(batch, self._sharding)
        else:
            arrays = {
                key: self._global_array(value, rows) for key, value in batch.items()
            }
        self._waiting.append((arrays, getattr(self._batches, "next_index", None)))
        return True

    def _global_array(self, local: np.ndarray, rows: np.ndarray) -> Any:
        """An array of all processes, of which this one has the given rows."""
        import jax

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            first, last = index[0].start or 0, index[0].stop or shape[0]
            return local[np.searchsorted(rows, first) : np.searchsorted(rows, last)]

        shape = (self._batches.batch_size, *local.shape[1:])
        return jax.make_array_from_callback(shape, self._sharding, piece)

    def close(self) -> None:
        """Drops the waiting batches and closes the iterator below."""
        self._waiting.clear()
        self._batches.close()

    def __enter__(self) -> DevicePrefetch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
