"""One writer a run folder: a lock that says who holds it.

On a disk the kernel keeps it (`flock`), and lets go of it when its holder dies. Where
the holder is on another machine, or the folder in a bucket, the holder also gives signs
of life; one that has given none for a while is dead, and its lock is taken over.
"""

import contextlib
import datetime
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypedDict

from vit_jax.storage.paths import medium
from vit_jax.storage.schema import mismatch, parse

LOCK = "in_use.json"
BEAT = 10  # seconds between signs of life
MOST_PID = 2**31 - 1  # that a kernel takes; 0 and less mean several processes
SHOWN = 200  # characters of who holds a lock
SILENCE = 45  # seconds without one, after which a holder is dead


class FolderInUse(OSError):
    """Another process writes to the folder; the message says which."""


class Holder(TypedDict):
    """Who holds a lock."""

    host: str
    pid: int
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

    def beat(self) -> None:
        """Gives a sign of life."""
        ...

    def release(self) -> None:
        """Removes it, if it was taken."""
        ...


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if need be.

    Raises:
        FolderInUse: another process, which is alive, holds it.
        OSError: it cannot be written.
    """
    medium(folder).make_folder(folder)
    lock: Lock = medium(folder).Lock(folder / LOCK)
    now = datetime.datetime.now().isoformat(" ", "seconds")
    text = json.dumps({"host": platform.node(), "pid": os.getpid(), "started": now})
    try:
        while other := lock.take(text + "\n"):
            holder = parse_holder(other)
            if not is_dead(holder, lock):
                raise FolderInUse(in_use(folder, holder))
            lock.take_over(other)
        with beating(lock.beat):
            yield
    finally:
        lock.release()


def parse_holder(text: str) -> Holder | None:
    """The holder that a lock names; None if it is damaged, or not written yet."""
    with contextlib.suppress(ValueError):
        holder = parse(text)
        if not mismatch(holder, Holder) and 0 < holder["pid"] <= MOST_PID:
            return holder
    return None


def in_use(folder: Path, holder: Holder | None) -> str:
    """The sentence for the process that comes second."""
    from vit_jax.storage.output import printable  # seldom needed

    who = "another process"
    if holder:
        who = f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
        who = printable(who)[:SHOWN]
    return f"{folder} is in use by {who}: wait for its end, or take another --workdir"


def is_dead(holder: Holder | None, lock: Lock) -> bool:
    """Whether the holder of a lock has gone without releasing it."""
    if lock.taken:
        return False
    if holder and holder["host"] == platform.node():
        return lock.works or not is_running(holder["pid"])
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
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """Gives signs of life, in a thread."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):  # the next one may come through
                beat()

    thread = threading.Thread(target=work, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
