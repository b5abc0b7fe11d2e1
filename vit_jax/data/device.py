"""Host batches to global arrays on the devices, ahead of their use, by a thread."""

from __future__ import annotations

import functools
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.batches import Batch

# Seconds that closing waits for a batch that is being made.
PATIENCE = 10.0


def prefetch_to_device(
    batches: Iterator[Batch], sharding: Any, size: int = 2
) -> DevicePrefetch:
    """Puts batches on the devices ahead of their use.

    A thread copies them, so that the thread that trains never waits for a copy.

    Args:
        batches: TrainBatches, EvalBatches or any iterator of dicts of arrays.
        sharding: `jax.sharding.Sharding` of every array; its first axis is the batch.
        size: batches kept on the device, the current one included.

    Returns:
        Iterator of dicts of global `jax.Array`; close it, or use it in a `with`.
    """
    return DevicePrefetch(batches, sharding, size)


class _Item(NamedTuple):
    """What the thread hands over.

    Attributes:
        batch: arrays of the batch; None at the end.
        next_index: `next_index` of the iterator after this batch.
        skipped: number of records skipped so far.
        error: the exception that ended the thread.
    """

    batch: dict[str, Any] | None
    next_index: int | None = None
    skipped: int = 0
    error: BaseException | None = None


class DevicePrefetch:
    """Batches on the device, see `prefetch_to_device`.

    An exception of the thread is raised by the next call of `next`.

    Attributes:
        next_index: state of the stream after the batches *delivered* so far; those
          that wait on the device do not count. None for evaluation batches.
    """

    def __init__(self, batches: Any, sharding: Any, size: int):
        if size < 1:
            raise ValueError(f"the prefetch needs room for 1 batch, got size={size}")
        self._batches = batches
        self.next_index: int | None = getattr(batches, "next_index", None)
        self._skipped = len(getattr(batches, "skipped", ()))
        self._begun, self._end = False, None
        self._ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._room, closing = threading.Semaphore(size), threading.Event()
        # The thread must not refer to this object, which may be dropped unclosed.
        place = functools.partial(
            _place, sharding, getattr(batches, "rows", None), batches
        )
        thread = threading.Thread(
            target=_produce,
            args=(batches, place, self._room, self._ready, closing),
            name="prefetch to device",
            daemon=True,
        )
        self._close = weakref.finalize(
            self, _stop, thread, closing, self._room, self._ready, batches
        )
        thread.start()

    @property
    def skipped(self) -> list[str]:
        """Names of skipped records, of the batches delivered so far."""
        return self._batches.skipped[: self._skipped]

    def __iter__(self) -> DevicePrefetch:
        return self

    def __next__(self) -> dict[str, Any]:
        if not self._close.alive:
            raise ValueError("these batches are closed; make new ones to go on")
        item = self._end
        if item is None:
            if self._begun:  # the batch before is given up
                self._room.release()
            self._begun = True
            item = self._ready.get()
        if item.batch is None:
            self._end = item
            self._skipped = max(self._skipped, item.skipped)
            raise item.error or StopIteration
        self.next_index, self._skipped = item.next_index, item.skipped
        return item.batch

    def close(self) -> None:
        """Drops the waiting batches and closes the iterator below."""
        self._close()

    def __enter__(self) -> DevicePrefetch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _produce(
    batches: Iterator[Batch],
    place: Callable[[Batch], dict[str, Any]],
    room: threading.Semaphore,
    ready: queue.SimpleQueue[_Item],
    closing: threading.Event,
) -> None:
    """The thread. It runs no program on the devices, which training may be using."""
    try:
        while room.acquire() and not closing.is_set():
            batch = next(batches, None)
            arrays = None if batch is None else place(batch)
            index = getattr(batches, "next_index", None)
            ready.put(_Item(arrays, index, len(getattr(batches, "skipped", ()))))
            if batch is None:
                return
            # Otherwise they would be kept until there is room for the next batch.
            del batch, arrays
    except BaseException as error:  # noqa: BLE001 - raised where a batch is asked for
        ready.put(_Item(None, error=error))


def _place(
    sharding: Any, rows: np.ndarray | None, batches: Any, batch: Batch
) -> dict[str, Any]:
    # Imported here: worker processes import this module and need no JAX.
    import jax

    if rows is None:
        return jax.device_put(batch, sharding)

    def global_array(local: np.ndarray) -> Any:
        """An array over all processes, of which this one holds the given rows."""
        shape = (batches.batch_size, *local.shape[1:])

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            first, last = index[0].start or 0, index[0].stop or shape[0]
            return local[np.searchsorted(rows, first) : np.searchsorted(rows, last)]

        return jax.make_array_from_callback(shape, sharding, piece)  # pyright: ignore[reportArgumentType]

    return {key: global_array(value) for key, value in batch.items()}


def _stop(
    thread: threading.Thread,
    closing: threading.Event,
    room: threading.Semaphore,
    ready: queue.SimpleQueue[_Item],
    batches: Any,
) -> None:
    closing.set()
    room.release()
    # The garbage collector may call this in the thread itself.
    if thread is not threading.current_thread():
        thread.join(PATIENCE)
    while not ready.empty():
        ready.get()
    batches.close()
