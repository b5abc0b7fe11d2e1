"""Reads blocks ahead with Grain, in threads or processes, and gives whole batches."""

from __future__ import annotations

import os
import signal
import weakref
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from vit_jax.data.decode import ADVICE, ImageError
from vit_jax.data.stream import EvalBlocks, TrainBlocks

Batch = dict[str, np.ndarray]


class Batches:
    """Joins blocks to batches and keeps the list of bad records; an iterator.

    Attributes:
        batch_size: images in the global batch.
        rows: rows of the global batch that this process delivers; None for all.
        skipped: names of the records that could not be used so far, each once.
    """

    def __init__(
        self,
        blocks: TrainBlocks | EvalBlocks,
        *,
        num_threads: int,
        workers: int,
        on_error: str,
        max_errors: int,
    ):
        self.skipped: list[str] = []
        self.batch_size, self.rows = blocks.batch_size, blocks.rows
        self._blocks, self._on_error, self._max_errors = blocks, on_error, max_errors
        # OpenCV's own threads would fight with ours for the same cores.
        cv2.setNumThreads(1)
        # Blocks that are read ahead: those of two batches, or one for each thread.
        ahead = max(2 * blocks.per_batch, num_threads)
        reading = grain.ReadOptions(
            num_threads=0 if workers else num_threads,
            prefetch_buffer_size=0 if workers else ahead,
        )
        source: Any = blocks  # Grain asks for more than it uses
        dataset = grain.MapDataset.source(source).to_iter_dataset(reading)
        if workers:
            if not flags.FLAGS.is_parsed():
                # Grain reads absl flags when it starts a worker, and fails where
                # nobody parsed them (a notebook, a test).
                flags.FLAGS.mark_as_parsed()
            from vit_jax.data.parent import announce

            announce()
            options = grain.MultiprocessingOptions(
                num_workers=workers,
                per_worker_buffer_size=max(1, -(-2 * blocks.per_batch // workers)),
            )
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        # A list, so that closing can empty it. The finalizer closes it where nobody
        # calls `close`: left to the interpreter's exit, Grain prints a page of errors.
        self._open = [iter(dataset)]
        self._closing = weakref.finalize(self, _close_all, self._open)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if not self._open:
            raise ValueError("these batches are closed; make new ones to go on")
        parts = [next(self._open[0]) for _ in range(self._blocks.per_batch)]
        for part in parts:
            self._count(part.pop("errors"))
        if "batch" in parts[0]:
            return parts[0]["batch"]
        # Always a copy: arrays from workers lie in shared memory that Grain frees.
        return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}

    def _count(self, errors: list[tuple[str, str]]) -> None:
        for name, message in errors:
            if self._on_error == "raise":
                raise ImageError(f"{message}; {ADVICE}")
            if name not in self.skipped:
                self.skipped.append(name)
        total = len(self._blocks.source)
        if errors and len(self.skipped) > min(self._max_errors, total - 1):
            raise ImageError(
                f"{len(self.skipped)} of {total} records cannot be read, more than "
                f"data.max_errors={self._max_errors} allows; the last one: "
                f"{errors[-1][1]}"
            )

    def close(self) -> None:
        """Stops threads and worker processes; the iterator cannot be used after."""
        self._closing()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class TrainBatches(Batches):
    """Endless training batches of one process.

    Yields {"image": uint8 (local_batch, h, w, 3), "label": int32 (local_batch,)}.

    Attributes:
        next_index: global position after the batches delivered so far. This is the
          whole state: `train_batches(start_index=next_index)` goes on exactly.
        skipped: names of bad records met since this iterator was made.
    """

    def __init__(self, blocks: TrainBlocks, *, start_index: int, **reading):
        super().__init__(blocks, **reading)
        self.next_index = start_index

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.next_index += self._blocks.batch_size
        return batch


class EvalBatches(Batches):
    """Evaluation batches of one process; `len` is their number.

    Yields {"image": uint8 (local_batch, h, w, 3), "label": int32 (local_batch,),
    "mask": bool (local_batch,), "index": int64 (local_batch,)}; `mask` is False for
    padding (whose index is the split's length or more) and for skipped records.
    """

    def __len__(self) -> int:
        return self._blocks.num_batches  # pyright: ignore[reportAttributeAccessIssue]


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    while iterators:
        iterators.pop().close()


def _start_worker(_worker: int, _workers: int) -> None:
    """Sets a worker process up; with whom it ends: `parent.follow`."""
    # A terminal sends Ctrl-C, and schedulers send SIGTERM, to all processes: the
    # trainer needs its workers until it has saved and closes them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
    # Grain imports JAX; a worker that touched the accelerator would take its memory.
    os.environ["JAX_PLATFORMS"] = "cpu"
