"""A reader, what is tried on it, and what it may do: a value or one sentence."""

import contextlib
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from vit_jax.storage.output import printable

MOST_SECONDS = 10  # of all threads together, for a file of kilobytes
MOST_BYTES = 1 << 30  # of memory, beyond what the process had
MOST_CHARACTERS = 2000  # of an error, beside the name in it
HANGS = 300  # seconds after which a reader is waiting for something


class Reader(NamedTuple):
    """A reader of foreign bytes.

    Attributes:
        cases: a strategy, such as for the bytes of a file; made when it is used.
        check: writes a case into an empty folder, reads it, and raises if the reader
            did anything else than to give a right value or to tell what is wrong.
        examples: how many the suite tries.
    """

    name: str
    cases: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Any, Path], None]
    examples: int = 25


class Finding(AssertionError):
    """What a reader should not do."""


@contextlib.contextmanager
def telling(*names: str | Path, errors: Any = ValueError) -> Iterator[None]:
    """Lets errors pass that are one sentence with one of the names in it."""
    try:
        yield
    except errors as error:
        check_sentence(str(error), *names)


def check_sentence(text: str, *names: str | Path) -> None:
    """Raises Finding if a text is no sentence, or names none of these."""
    if not text.strip() or "\n" in printable(text, lines=True):
        raise Finding(f"no sentence: {text!r}")
    if not any(str(name) in text for name in names):
        raise Finding(f"does not name {' or '.join(map(str, names))}: {text!r}")
    if len(text) > MOST_CHARACTERS + sum(len(str(name)) for name in names):
        raise Finding(f"{len(text)} characters: {text[:200]!r} ...")


def equal(found: Any, wanted: Any, what: str) -> None:
    """Raises Finding unless two values are equal."""
    if found != wanted:
        raise Finding(f"{what}: {found!r} in the place of {wanted!r}")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raises Finding for what takes too long, or too much memory."""
    before, start = peak_bytes(restart=True), time.process_time()
    with warnings.catch_warnings(), interrupted():
        warnings.simplefilter("ignore")
        yield
    seconds, taken = time.process_time() - start, peak_bytes() - before
    if seconds > MOST_SECONDS:
        raise Finding(f"took {seconds:.0f} s")
    if taken > MOST_BYTES:
        raise Finding(f"took {taken / 2**20:.0f} MiB of memory")


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Ends a wait that lasts too long, in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Finding(f"waited for {HANGS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes(*, restart: bool = False) -> int:
    """The most memory that this process has had, where Linux counts it from now on."""
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def run(reader: Reader, case: Any, folder: Path) -> None:
    """Gives a case to a reader; raises for whatever is not as it should be."""
    with bounded():
        reader.check(case, folder)
