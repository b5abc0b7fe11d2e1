"""One writer a run folder: a lock that says who holds it.

On a disk the kernel keeps it (`flock`), and lets go of it when its holder dies. Where
the holder is on another machine, or the folder in a bucket, the holder also gives signs
of life; one that has given none for a while is dead, and its lock is taken over. If it
was only asleep, or without a network, it ends when it finds that out: at its next sign
of life, and in any case before its next save.
"""

import contextlib
import datetime
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Protocol, TypedDict

from vit_jax.storage import disk
from vit_jax.storage.json_files import parse
from vit_jax.storage.paths import in_bucket, medium
from vit_jax.values import Range

LOCK = "in_use.json"
BEAT = 10  # seconds between signs of life
MOST_PID = 2**31 - 1  # that a kernel takes; 0 and less mean several processes
SHOWN = 200  # characters of who holds a lock
SILENCE = 45  # seconds without one, after which a holder is dead
logger = logging.getLogger(__name__)


class FolderInUse(OSError):
    """Another process writes to the folder; the message says which."""


class Holder(TypedDict):
    """Who holds a lock."""

    host: str
    pid: Annotated[int, Range(1, MOST_PID)]
    started: str


class Lock(Protocol):
    """What the two media have.

    Attributes:
        taken: whether the kernel says that the holder is alive.
        works: whether the kernel knows of all holders on this machine.
    """

    taken: bool
    works: bool

    def take(self, text: str) -> str:
        """Takes the lock and returns "", or returns what its holder wrote."""
        ...

    def take_over(self, other: str) -> None:
        """Lets the next `take` take it from a dead holder."""
        ...

    def sign(self) -> str:
        """What changes with each sign of life."""
        ...

    def beat(self) -> str:
        """Gives a sign of life and returns "", or returns what another holder wrote."""
        ...

    def release(self) -> None:
        """Removes it, if it is still ours."""
        ...


class Hold:
    """A folder whose lock is held.

    Args:
        beat: of the lock.
    """

    def __init__(self, folder: Path, beat: Callable[[], str]) -> None:
        self._folder, self._beat = folder, beat
        self._taker: Holder | None = None

    def renew(self) -> None:
        """Gives a sign of life, unless another process has taken the folder over."""
        with contextlib.suppress(OSError):  # the next one may come through
            if not self._taker:
                self._taker = parse_holder(self._beat())

    def check(self) -> None:
        """Raises FolderInUse if the last sign of life found another holder."""
        if self._taker:
            raise FolderInUse(
                f"{self._folder} was taken over by {in_words(self._taker)}, since this "
                f"process gave no sign of life for {SILENCE} s: it writes no more there"
            )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Hold]:
    """Holds the lock of a folder, which is made if need be, and goes if it stays empty.

    Raises:
        FolderInUse: another process, which is alive, holds it.
        OSError: it cannot be written.
    """
    made = [] if in_bucket(folder) else disk.missing(Path(os.path.abspath(folder)))
    medium(folder).make_folder(folder)
    lock: Lock = medium(folder).Lock(folder / LOCK)
    now = datetime.datetime.now().isoformat(" ", "seconds")
    text = json.dumps({"host": platform.node(), "pid": os.getpid(), "started": now})
    try:
        while other := lock.take(text + "\n"):
            holder = parse_holder(other)
            if not is_dead(holder, lock):
                raise FolderInUse(
                    f"{folder} is in use by {in_words(holder)}: wait for its end, or "
                    "take another folder"
                )
            lock.take_over(other)
        hold = Hold(folder, lock.beat)
        with renewed(hold):
            yield hold
    finally:
        lock.release()
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def parse_holder(text: str) -> Holder | None:
    """The holder that a lock names; None if it is damaged, or not written yet."""
    with contextlib.suppress(ValueError):
        return parse(text, Holder, LOCK)
    return None


def in_words(holder: Holder | None) -> str:
    """Which process a holder is, in a line for a terminal."""
    from vit_jax.storage.output import printable  # seldom needed

    if holder is None:
        return "another process"
    who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
    return printable(who)[:SHOWN]


def is_dead(holder: Holder | None, lock: Lock) -> bool:
    """Whether the holder of a lock has gone without releasing it."""
    if lock.taken:
        return False
    if holder and holder["host"] == platform.node():
        if lock.works or not is_running(holder["pid"]):
            return True
    # Also here: in a container that was started again, another process, this one even,
    # has the number of the dead.
    logger.info("waiting up to %d s, whether %s is alive", SILENCE, in_words(holder))
    return is_silent(lock.sign)


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_silent(sign: Callable[[], str]) -> bool:
    """Whether no sign of life comes for a while; no two clocks are compared."""
    first, end = sign(), time.monotonic() + SILENCE
    while time.monotonic() < end:
        if sign() != first:
            return False
        time.sleep(min(1.0, SILENCE / 5))
    return True


@contextlib.contextmanager
def renewed(hold: Hold) -> Iterator[None]:
    """Gives signs of life, in a thread."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(BEAT):
            hold.renew()

    thread = threading.Thread(target=work, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
