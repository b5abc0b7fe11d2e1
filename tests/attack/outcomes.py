"""How a command ended under an attack, and whether that is good."""

import contextlib
import io
import logging
import os
import re
import resource
import runpy
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

LIMIT = 180  # seconds, of a machine that others use too; what takes longer hangs
MOST_MEMORY = 2 << 10  # MiB that one attack may add
OWN_WORDS = r"^(?:error: |.*: error: )"


class Outcome(Enum):
    """What came of an attack; those from TRACEBACK on are failures."""

    REFUSED = "refused"  # in one sentence, before anything was begun
    TOLD = "told"  # goes on, and says what is different
    SAME = "same"  # as without the attack
    TRACEBACK = "traceback"
    LATE = "found late"  # something was begun when the error came
    SILENT = "silent"  # nothing was said, and the result is another one
    HANG = "hang"
    MEMORY = "memory"
    UNCLEAR = "unclear"  # no sentence, or one that names neither key nor file


FAILURES = tuple(Outcome)[3:]


class Ending(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code; None for one that did not end in time.
        said: warnings, errors and what is printed, as a user sees them.
        trace: of an exception that a user would see as one; "" for none.
        grown: MiB that the process has grown by.
    """

    code: int | None
    said: str
    trace: str = ""
    seconds: float = 0.0
    grown: float = 0.0

    @property
    def error(self) -> str:
        """The sentence that the command ended with."""
        parts = re.split(OWN_WORDS, self.said, flags=re.M)
        return parts[-1].strip() if len(parts) > 1 else ""


class Attack(NamedTuple):
    """An attack of the catalogue.

    Attributes:
        kind: its row of the table.
        name: what is done.
        act: does it in an empty folder, and judges.
        good: what may come of it.
    """

    kind: str
    name: str
    act: Callable[[Path], tuple[Outcome, str]]
    good: tuple[Outcome, ...] = (Outcome.REFUSED,)


class Late(BaseException):
    """The time of a command is over; no `except Exception` stops it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Late in the main thread when the time is over."""

    def ring(*_: object) -> None:
        raise Late

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def as_a_process(arguments: list[str], said: io.StringIO) -> Iterator[None]:
    """Arguments, streams and log of a command of its own, which are put back."""
    root, ours = logging.getLogger(), logging.getLogger("vit_jax")
    before = sys.argv, sys.stdout, sys.stderr, root.handlers[:], root.level, ours.level
    sys.argv = arguments
    sys.stdout = sys.stderr = said
    root.handlers.clear()
    try:
        with warnings.catch_warnings():
            # What the command line of `python -m` does not say either.
            warnings.filterwarnings("ignore", message=".*found in sys.modules")
            yield
    finally:
        sys.argv, sys.stdout, sys.stderr, handlers, level, own = before
        root.handlers[:] = handlers
        root.setLevel(level)
        ours.setLevel(own)


def run(module: str, *arguments: str | Path, limit: float = LIMIT) -> Ending:
    """Runs `python -m module arguments` in this process, which spares its start."""
    said, begin, before = io.StringIO(), time.monotonic(), peak()
    code, trace = None, ""
    with as_a_process([module, *map(str, arguments)], said):
        try:
            with time_limit(limit):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
            said.write(f"\n{end.code}" if isinstance(end.code, str) else "")
        except Late:
            trace = ""
        except BaseException:
            code, trace = 1, traceback.format_exc()
    seconds, grown = time.monotonic() - begin, peak() - before
    return Ending(code, said.getvalue(), trace, seconds, grown)


def call(function: Callable[[], object], limit: float = LIMIT) -> Ending:
    """Calls a function of the library as a program of a user would."""
    said, begin, before = io.StringIO(), time.monotonic(), peak()
    code, trace, error = 0, "", ""
    with as_a_process(["python"], said):
        logging.basicConfig(stream=said, force=True)
        logging.getLogger("vit_jax").setLevel(logging.INFO)  # as commands do
        try:
            with time_limit(limit):
                function()
        except Late:
            code = None
        except (ValueError, OSError, ImportError, RuntimeError) as caught:
            code, error = 1, f"\nerror: {caught}"
        except BaseException:
            code, trace = 1, traceback.format_exc()
    seconds, grown = time.monotonic() - begin, peak() - before
    return Ending(code, said.getvalue() + error, trace, seconds, grown)


def judge(
    ending: Ending,
    *,
    names: tuple[str, ...] = (),
    begun: tuple[Path, ...] = (),
    same: bool = True,
    told: str = "",
) -> tuple[Outcome, str]:
    """The outcome, with what was said.

    Args:
        names: of which an error has to have one: the key, or the file.
        begun: paths that an error must find absent.
        same: whether the result, if there was no error, is that without the attack.
        told: a pattern of what is said where the result is another one.
    """
    text = ending.error or ending.said[-400:]
    if ending.code is None:
        return Outcome.HANG, text
    if ending.trace or "Traceback" in ending.said:
        return Outcome.TRACEBACK, (ending.trace or ending.said)[-1500:]
    if ending.grown > MOST_MEMORY:
        return Outcome.MEMORY, f"{ending.grown:.0f} MiB; {text}"
    if ending.code:
        if left := [str(path) for path in begun if os.path.lexists(path)]:
            return Outcome.LATE, f"{', '.join(left)} is there; {text}"
        named = any(name in text for name in names or ("",))
        first, *listed = text.splitlines() or [""]
        # A list of keys that differ, and what to do.
        is_list = len(listed) > 1 and all(x.startswith("  ") for x in listed[:-1])
        is_long = bool(listed) and not (is_list and first.endswith(":"))
        if not ending.error or not named or is_long:
            return Outcome.UNCLEAR, f"wanted one of {names} in: {text}"
        return Outcome.REFUSED, text
    if same:
        return Outcome.SAME, text
    if told and re.search(told, ending.said):
        return Outcome.TOLD, text
    return Outcome.SILENT, text


def safe(attack: Attack, folder: Path) -> tuple[Outcome, str]:
    """Tries an attack; an exception on its way is a traceback too."""
    try:
        return attack.act(folder)
    except Exception:
        return Outcome.TRACEBACK, traceback.format_exc()[-1500:]
