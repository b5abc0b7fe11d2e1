"""The faults: what is done to a run, one function each.

A fault gets the bench: a folder of its own, a random generator, and a half-way run to
spoil. It does its harm and says how the command ended; the bench then starts the same
command again and compares the end with that of a run that was left alone.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults.processes import Training, copy

LAST = 120
# How a start ends that finds a damaged step, and one that finds none.
DAMAGED = "warning CHECKPOINT DAMAGED; the step is put aside"
WHOLE = "no message; the newest step is taken"


class Bench(NamedTuple):
    """Where a fault happens.

    Attributes:
        workdir: run folder to be; its parent belongs to this try alone.
        halfway: a run that was stopped at step `saved`, to be copied.
        random: of the moments.
    """

    workdir: Path
    halfway: Path
    saved: int
    random: random.Random


class Harm(NamedTuple):
    """How a command ended under a fault.

    Attributes:
        ended: exit codes and the message.
        reached: the last step that was trained; the bench counts from it what had to
            be trained again.
        count: of processes that go on.
    """

    ended: str
    reached: int
    count: int = 1


class Fault(NamedTuple):
    """A row of the table; `run` raises AssertionError if the program behaves badly."""

    name: str
    run: Callable[[Bench], Harm]
    needs_mount: bool = False


def check(condition: bool, training: Training) -> None:
    if not condition:
        raise AssertionError(training.text())


def said(training: Training, codes: list[int]) -> str:
    return f"exit {' and '.join(map(str, codes))}; {training.message()}"


# --- signals ---


def killed(bench: Bench) -> Harm:
    """SIGKILL at a random moment, also while importing or compiling."""
    with Training(bench.workdir) as training:
        if bench.random.random() < 0.25:
            time.sleep(bench.random.uniform(0, 10))
        else:
            training.wait_for_step(bench.random.randint(1, 110))
        training.processes[0].kill()
        return Harm(said(training, training.end()), training.step())


def terminated(bench: Bench) -> Harm:
    """SIGTERM at a random step."""
    with Training(bench.workdir) as training:
        training.wait_for_step(bench.random.randint(1, 100))
        training.processes[0].terminate()
        codes = training.end()
        check(codes == [75] and "the state is saved" in training.text(), training)
        return Harm(said(training, codes), training.step())


# --- disks ---


def mount(folder: Path) -> None:
    """A small disk of its own for a folder; the bench unmounts it."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    subprocess.run(command, check=True)


def remount(folder: Path, mode: str) -> None:
    command = ["mount", "-o", f"remount,{mode}", str(folder)]
    while subprocess.run(command, capture_output=True).returncode:
        time.sleep(0.01)  # busy: a save is under way


def fill(folder: Path) -> Path:
    """Writes a file until the disk is full."""
    path = folder / "of another program"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def disk_full(bench: Bench, count: int = 1) -> Harm:
    """Another program takes all that is left of the disk."""
    mount(bench.workdir)
    with Training(bench.workdir, count) as training:
        training.wait_for_step(bench.random.randint(20, 80))
        other = fill(bench.workdir)
        codes = training.end()
        check(1 in codes and "No space left on device" in training.text(), training)
        other.unlink()
        return Harm(said(training, codes), training.step(), count)


def read_only(bench: Bench) -> Harm:
    """The file system of the checkpoints becomes read-only in mid-run."""
    folder = bench.workdir / "checkpoints"
    mount(folder)
    with Training(bench.workdir) as training:
        training.wait_for_step(bench.random.randint(20, 80))
        remount(folder, "ro")
        codes = training.end()
        check(codes == [1] and "Read-only file system" in training.text(), training)
        remount(folder, "rw")
        return Harm(said(training, codes), training.step())


def read_only_at_start(bench: Bench) -> Harm:
    """The run folder is read-only when the run is to go on."""
    mount(bench.workdir)
    copy(bench.halfway, bench.workdir)
    remount(bench.workdir, "ro")
    with Training(bench.workdir) as training:
        codes = training.end()
        check(codes == [1] and "Read-only file system" in training.text(), training)
        remount(bench.workdir, "rw")
        return Harm(said(training, codes), bench.saved)


def folder_removed(bench: Bench) -> Harm:
    """The whole run folder is deleted in mid-run."""
    with Training(bench.workdir) as training:
        training.wait_for_step(bench.random.randint(20, 80))
        gone = bench.workdir.with_name("gone")
        bench.workdir.rename(gone)  # at once, unlike deleting it
        shutil.rmtree(gone)
        codes = training.end()
        check(codes == [1] and "vanished during the training" in training.text(),
              training)  # fmt: skip
        return Harm(said(training, codes), training.step())


# --- damage to what is saved ---


def largest_file(folder: Path) -> Path:
    return max(folder.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def flip(folder: Path, rng: random.Random) -> None:
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    os.truncate(path, rng.randrange(path.stat().st_size))


def delete(folder: Path, rng: random.Random) -> None:
    any_file(folder, rng).unlink()


def any_file(folder: Path, rng: random.Random) -> Path:
    files = (path for path in folder.rglob("*") if path.is_file())
    return rng.choice(sorted(path for path in files if path.stat().st_size))


def garble_manifest(folder: Path, rng: random.Random) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[: rng.randrange(1, 200)])


def half_copy(folder: Path, rng: random.Random) -> None:
    """Half of the files are not there yet; the manifest would come last."""
    (folder / "manifest.json").unlink()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in rng.sample(files, len(files) // 2):
        path.unlink()


def half_copy_of_zeros(folder: Path, rng: random.Random) -> None:
    """All files have their size, but the tail of the largest is not written yet."""
    (folder / "manifest.json").unlink()
    path = largest_file(folder)
    data = path.read_bytes()
    whole = rng.randrange(len(data) // 2)
    path.write_bytes(data[:whole] + bytes(len(data) - whole))


def no_manifest(folder: Path, _: random.Random) -> None:
    (folder / "manifest.json").unlink()


def damaged(harm: Callable[[Path, random.Random], None], says: str = DAMAGED):
    """A fault that spoils the newest step of a run that is to go on."""

    def run(bench: Bench) -> Harm:
        copy(bench.halfway, bench.workdir)
        harm(bench.workdir / "checkpoints" / str(bench.saved), bench.random)
        return Harm(says, bench.saved)

    return run


def leftovers(bench: Bench) -> Harm:
    """What a killed save and a killed removal leave behind."""
    folder = copy(bench.halfway, bench.workdir) / "checkpoints"
    for name in (f"{bench.saved + 10}.orbax-checkpoint-tmp", "10.removing"):
        copy(folder / str(bench.saved) / "state", folder / name / "state")
    return Harm(WHOLE, bench.saved)


ALONE = (
    Fault("SIGKILL at a random moment", killed),
    Fault("SIGTERM at a random step", terminated),
    Fault("disk full", disk_full, needs_mount=True),
    Fault("file system read-only in mid-run", read_only, needs_mount=True),
    Fault("run folder read-only at the start", read_only_at_start, needs_mount=True),
    Fault("run folder deleted in mid-run", folder_removed),
    Fault("newest step: a flipped bit", damaged(flip)),
    Fault("newest step: a truncated file", damaged(truncate)),
    Fault("newest step: a missing file", damaged(delete)),
    Fault("newest step: unreadable manifest", damaged(garble_manifest)),
    Fault("newest step: half of its files copied", damaged(half_copy)),
    Fault(
        "newest step: copied in part, zeros in the rest", damaged(half_copy_of_zeros)
    ),
    Fault("killed between commit and manifest", damaged(no_manifest, WHOLE)),
    Fault("leftovers of killed saves", leftovers),
)


# --- one of two processes ---


def one_terminated(bench: Bench) -> Harm:
    """SIGTERM to one of two processes: both save the same step."""
    with Training(bench.workdir, 2) as training:
        training.wait_for_step(bench.random.randint(1, 80))
        bench.random.choice(training.processes).terminate()
        codes = training.end()
        check(codes == [75, 75], training)
        return Harm(said(training, codes), training.step(), 2)


def one_killed(bench: Bench) -> Harm:
    """SIGKILL of one of two processes: the other ends, and says why."""
    with Training(bench.workdir, 2) as training:
        training.wait_for_step(bench.random.randint(1, 80))
        victim = bench.random.randrange(2)
        training.processes[victim].kill()
        started = time.monotonic()
        codes = training.end()
        waited = time.monotonic() - started
        survivor = training.logs[1 - victim].read_text(errors="replace")
        check(codes[1 - victim] != 0 and waited < 60, training)
        check("Thread 0x" in survivor, training)
        ended = f"{said(training, codes)} (after {waited:.0f} s, with all stacks)"
        return Harm(ended, training.step(), 2)


def one_hangs(bench: Bench) -> Harm:
    """SIGSTOP of one of two for a while: the other's watchdog shows where it waits."""
    options = ("--config.train.step_timeout=2",)
    with Training(bench.workdir, 2, options) as training:
        training.wait_for_step(bench.random.randint(1, 80))
        process = training.processes[1]
        process.send_signal(signal.SIGSTOP)
        training.wait_until(lambda: "takes longer than" in training.text())
        process.send_signal(signal.SIGCONT)
        codes = training.end()
        check(codes == [0, 0] and "Thread 0x" in training.text(), training)
        return Harm("stacks of all threads in the log; went on", LAST, 2)


def disk_full_for_both(bench: Bench) -> Harm:
    """Another program takes all that is left of the disk that two processes share."""
    return disk_full(bench, 2)


TOGETHER = (
    Fault("SIGTERM to one of two processes", one_terminated),
    Fault("SIGKILL of one of two processes", one_killed),
    Fault("one of two processes hangs for a while", one_hangs),
    Fault("disk full, two processes", disk_full_for_both, needs_mount=True),
)
FAULTS = (*ALONE, *TOGETHER)
