"""Processes that end with the command, however it ends; with Python alone."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from benchmarks.gpu.results import RowKey

PR_SET_PDEATHSIG = 1


class Job(NamedTuple):
    """A process that measures some rows.

    Attributes:
        phase, names: keys of the rows that it writes.
        command: its command, without the last argument, the specification.
        seconds: its time limit.
        least: seconds that must be left to start it.
        gib: most memory of the card that it uses.
        alone: whether it is timed, so that nothing may run beside it.
        needs: rows that must have been measured before.
        after: rows that it waits for, whether they fail or not.
        proof: a file that the job makes on the machine, without which its rows are
            invalid; "" for none.
        options: settings in the specification.
    """

    phase: str
    names: tuple[str, ...]
    command: tuple[str, ...]
    seconds: float
    least: float = 5.0
    gib: float = 0.0
    alone: bool = False
    needs: tuple[RowKey, ...] = ()
    after: tuple[RowKey, ...] = ()
    proof: str = ""
    options: dict[str, Any] = {}

    @property
    def rows(self) -> tuple[RowKey, ...]:
        """Keys of the rows that the job writes."""
        return tuple((self.phase, name) for name in self.names)


def end_with_parent() -> None:
    """For `preexec_fn`: on Linux, the process is killed when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    command: Iterable[str], *, own_group: bool = True, **options: Any
) -> subprocess.Popen:
    """Starts a process that ends with this one.

    Args:
        own_group: whether `end` also ends the processes that it starts in turn.
        options: arguments of `subprocess.Popen`.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        start_new_session=own_group,
        preexec_fn=end_with_parent,
        **options,
    )


def end(processes: Iterable[subprocess.Popen], grace: float = 0.0) -> None:
    """Ends processes of `start` and their own child processes.

    Args:
        grace: seconds between a SIGTERM and the kill, for states to be saved.
    """
    processes = list(processes)
    if grace:
        for process in processes:
            signal_group(process, signal.SIGTERM)
        last = time.monotonic() + grace
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, last - time.monotonic()))
    for process in processes:
        signal_group(process, signal.SIGKILL)
        process.wait()


def signal_group(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a process of `start` and to its child processes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def how_it_ended(code: int) -> str:
    """A phrase for an exit code, such as `killed by SIGKILL; see the log`."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}; see the log"
    return f"ended with exit code {code}; see the log"
