"""Metrics written by a thread, so that training never waits for a file system."""

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Any

from vit_jax.training.metrics import Writer


class WriterThread:
    """A `Writer` that does in a thread what it is called for, in that order.

    A row takes a tenth of a millisecond on a local disk, and seconds where that is a
    busy one of a network. An error of the thread is raised by the next call.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "metrics")
        self._calls: collections.deque[concurrent.futures.Future] = collections.deque()
        self._skipped: set[str] = set()

    def progress(self, step: int) -> None:
        """As `Writer.progress`, which touches no file and is cheap: done here."""
        self._writer.progress(step)

    def train(self, step: int, values: dict[str, float]) -> None:
        """As `Writer.train`."""
        self._call(self._writer.train, step, values)

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """As `Writer.evaluation`."""
        # A copy: the loop adds to its results what other evaluators find.
        self._call(self._writer.evaluation, step, dict(results))

    def skipped(self, names: list[str]) -> None:
        """As `Writer.skipped`."""
        if new := set(names) - self._skipped:
            self._skipped |= new
            self._call(self._writer.skipped, sorted(new))

    def faults(self, steps: list[tuple[int, str]]) -> None:
        """As `Writer.faults`."""
        if steps:
            self._call(self._writer.faults, steps)

    def flush(self) -> None:
        """Waits until all is written, as it has to be before a checkpoint is."""
        self._call(self._writer.flush)
        while self._calls:
            self._calls.popleft().result()

    def close(self) -> None:
        """Writes what is left and closes the files."""
        try:
            self.flush()
        finally:
            self._pool.shutdown()
            self._writer.close()

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        while self._calls and self._calls[0].done():
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(call, *arguments))
