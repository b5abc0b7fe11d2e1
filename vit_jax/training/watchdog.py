"""Says where the program hangs when a step takes too long."""

import faulthandler
import sys
import threading


class Watchdog:
    """Dumps the stacks of all threads when a step takes longer than `timeout` seconds.

    Again after each further `timeout`; 0 is off. The program is not ended: it may be
    slow only, and what hangs in one process is often seen in another.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._step: int | None = None
        self._progress = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.timeout:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._progress.set()

    def step_begins(self, step: int) -> None:
        """The clock starts again. The first step, which compiles, is never watched."""
        self._step = step
        self._progress.set()

    def pause(self) -> None:
        """Nothing is watched until the next step begins."""
        self._step = None
        self._progress.set()

    def _watch(self) -> None:
        while not self._closed:
            in_time = self._progress.wait(self.timeout)
            self._progress.clear()
            if in_time or self._step is None:
                continue
            print(
                f"step {self._step} takes longer than train.step_timeout="
                f"{self.timeout:g} s; what all threads are doing:",
                file=sys.stderr,
            )
            faulthandler.dump_traceback(all_threads=True)
