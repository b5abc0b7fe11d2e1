"""Several processes that train one model: start, agreement, an end without hangs.

The engine is JAX's distributed runtime. Process 0 is its coordinator and the only one
that prints and writes metrics; all run the same program on their own devices.
"""

import argparse
import faulthandler
import os
import re
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

# Set by launchers that JAX understands, with the number of processes.
TASK_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# EX_TEMPFAIL, "try again later": a scheduler is to start the same command again.
TRY_AGAIN = 75
# Before the first step, several processes ask for a stop so often, and at most so many
# times: two hours. Asking the rest at once takes milliseconds.
POLL_SECONDS = 0.5
EARLY = 2**14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `start`."""
    from vit_jax.flags import Number, Positive, Seconds, flag

    group = parser.add_argument_group("several processes (docs/scale.md)")
    group.add_argument(
        "--distributed",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto: on under srun, mpirun, GKE, with JAX_COORDINATOR_ADDRESS or "
        "--coordinator; on: as JAX finds it, needed on Cloud TPU VMs",
    )
    group.add_argument("--coordinator", help="HOST:PORT of process 0")
    for word, kind in (("num-processes", Positive), ("process-id", Number)):
        name = "JAX_" + word.upper().replace("-", "_")
        default = os.environ.get(name)
        group.add_argument(f"--{word}", type=flag(kind), default=default)
    group.add_argument(
        "--heartbeat-timeout",
        type=flag(Seconds),
        default=100,
        help="seconds after which the others give up on a process that is gone",
    )


def start(arguments: argparse.Namespace) -> None:
    """Joins the other processes, if there are any; before JAX touches a device.

    Raises:
        ValueError: the flags or the environment do not say who and where we are.
        RuntimeError: the coordinator does not answer.
    """
    # Also for the abort by which JAX's runtime ends a process whose peers are gone.
    # A notebook's sys.stderr has no file to write to in an abort.
    faulthandler.enable(sys.__stderr__)  # pyright: ignore[reportArgumentType]
    if not wanted(arguments):
        return
    coordinator = arguments.coordinator
    if coordinator is not None and not re.fullmatch(r"\S+:\d+", coordinator):
        raise ValueError(
            f"--coordinator is {coordinator!r}: wanted HOST:PORT, as 10.0.0.1:1234"
        )
    try:
        jax.distributed.initialize(
            coordinator,
            arguments.num_processes,
            arguments.process_id,
            heartbeat_timeout_seconds=arguments.heartbeat_timeout,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"cannot join a distributed run: {error} Give --coordinator HOST:PORT, "
            "--num-processes and --process-id, or --distributed off"
        ) from error
    say(
        f"{jax.process_count()} processes, {jax.device_count()} devices, "
        f"{jax.local_device_count()} of them here"
    )


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether flags or environment tell of more than one process.

    Raises:
        ValueError: they do, but not where the others are: each would train alone.
    """
    if arguments.distributed != "auto":
        return arguments.distributed == "on"
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    several = (
        arguments.coordinator is not None
        or "JAX_COORDINATOR_ADDRESS" in os.environ
        or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
        or len(hosts) > 1
        or any((number(name) or 1) > 1 for name in TASK_COUNTS)
    )
    count, place = arguments.num_processes, arguments.process_id
    if not several and ((count or 1) > 1 or (place is not None and count is None)):
        flag = f"--num-processes {count}" if count else f"--process-id {place}"
        raise ValueError(
            f"{flag} needs --coordinator HOST:PORT, the address of process 0; without "
            "it each process would train alone"
        )
    return several


def number(name: str) -> int | None:
    """An environment variable as a number; None if it is not set."""
    text = os.environ.get(name)
    return None if text is None else int(text)


def is_primary() -> bool:
    """Whether this process prints and writes."""
    return jax.process_index() == 0


def say(*text: Any) -> None:
    """Prints, in process 0 only."""
    if is_primary():
        print(*text, flush=True)


class StopSignals:
    """Asks, after each step, whether SIGTERM or Ctrl-C is to end the run.

    One process answers for itself. Of several, JAX's preemption service notices a
    SIGTERM to any of them, and lets all stop at the same, later step.

    Args:
        may_exit: until it is asked for the first time no step is done and nothing is
            new, so that a SIGTERM then ends the process at once, with exit code
            TRY_AGAIN: what it is busy with may be a compilation of minutes, which no
            handler of Python's can interrupt. For commands that have nothing else to
            put in order.
    """

    def __init__(self, *, may_exit: bool = False) -> None:
        self._received: list[signal.Signals] = []
        self._previous: dict[signal.Signals, Any] = {}
        self._several = False
        self._early, self._lock = may_exit, threading.Lock()
        self._begun, self._asked = time.monotonic(), 0
        self._pipe: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "StopSignals":
        self._several = jax.process_count() > 1
        # SIGTERM of several processes is the preemption service's.
        caught = (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT)
        handler = self._pass_on if self._several else self._note
        self._previous = {number: signal.signal(number, handler) for number in caught}
        if self._early:
            self._watch()
        return self

    def _watch(self) -> None:
        if not self._several:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup = signal.set_wakeup_fd(
                self._pipe[1], warn_on_full_buffer=False
            )
        work = self._poll if self._several else self._listen
        self._thread = threading.Thread(target=work, name="stop signals", daemon=True)
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._begin_to_save()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.write(self._pipe[1], b"\0")
            self._thread.join()
            for end in self._pipe:
                os.close(end)

    def _note(self, number: int, _: Any) -> None:
        self._received.append(signal.Signals(number))
        if not self._early or number == signal.SIGINT:
            print("Saving before stopping; Ctrl-C stops at once", flush=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _pass_on(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _listen(self) -> None:
        """Hears of signals while the main thread is in a compilation."""
        while (number := os.read(self._pipe[0], 1)[0]) != 0:
            with self._lock:
                if self._early and number == signal.SIGTERM:
                    leave_early()

    def _poll(self) -> None:
        """Asks the preemption service instead of the main thread."""
        while True:
            with self._lock:
                if not self._early:
                    return
                seconds = time.monotonic() - self._begun
                if self._reached(int(seconds / POLL_SECONDS)):
                    leave_early()
            time.sleep(POLL_SECONDS)

    def _reached(self, number: int) -> bool:
        """Whether one of the questions up to this one is where all are to stop.

        Every process asks all of them, one after the other. The first EARLY belong to
        the time before the first step, so that all agree on whether to save.
        """
        while self._asked < min(number, EARLY):
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                return True
        return False

    def _begin_to_save(self) -> None:
        with self._lock:
            self._early = False

    def stop(self) -> signal.Signals | None:
        """The signal to stop for, None to go on; to be called once a step by all."""
        if self._early:
            self._begin_to_save()
            if self._several and self._reached(EARLY):
                leave_early()
        if not self._several:
            return self._received[0] if self._received else None
        self._asked += 1
        reached = multihost_utils.reached_preemption_sync_point(self._asked)
        return signal.SIGTERM if reached else None


def leave_early() -> NoReturn:
    """Ends a process that has nothing to save, whatever its threads are doing."""
    say(
        "Stopped by SIGTERM before the first step of this start; there is nothing new "
        "to save. To go on, start the same command again"
    )
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_count() > 1 and is_primary():
        # The others ask it; without it they would end as after a loss.
        time.sleep(10 * POLL_SECONDS)
    os._exit(TRY_AGAIN)


def leave(code: int) -> NoReturn:
    """Ends this process for an error of its own.

    Of several processes, one that fails must not wait for the others, which wait for
    it: without its heartbeat they end, too.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
