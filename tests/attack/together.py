"""Several processes on one run folder: real ones, with signals."""

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.processes import COMMAND, final_state

from attack.damages import rows
from attack.outcomes import Attack, Ending, Outcome, judge
from vit_jax.storage.lock import LOCK

REFUSED, TOLD, SAME = Outcome.REFUSED, Outcome.TOLD, Outcome.SAME
PATIENCE = 240
SHORT = (
    *("train.duration=60steps", "checkpoint.every=5steps", "eval.every=30steps"),
    *("mix.cutmix_alpha=0", "model.dropout_rate=0"),
)


def command(folder: Path, *more: str, module: str = "vit_jax.train") -> list[str]:
    words = [*COMMAND, *(f"--config.{text}" for text in SHORT)]
    words[2] = module
    return [*words, "--workdir", str(folder / "run"), *more]


def start(words: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment)


def end(process: subprocess.Popen[bytes], log: Path) -> Ending:
    """How a process ended; one that takes too long is killed."""
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return Ending(None, log.read_text(errors="replace"))
    return Ending(code, log.read_text(errors="replace"))


def wait_for(pattern: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + PATIENCE
    while not re.search(pattern, log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > limit:
            raise AssertionError(f"no {pattern}: {log.read_text(errors='replace')}")
        time.sleep(0.02)


def as_alone(folder: Path) -> bool:
    """Whether a run ended with the bits and the rows of one that was left alone."""
    alone = reference()
    run = folder / "run"
    same = final_state(run) == final_state(alone) and rows(run) == rows(alone)
    return same and not (run / LOCK).exists()


@functools.cache
def reference() -> Path:
    """A run that was left alone."""
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    ending = end(start(command(folder), folder / "log"), folder / "log")
    assert ending.code == 0, ending
    return folder / "run"


def second(folder: Path, words: list[str]) -> tuple[Outcome, str]:
    """A second command while the first trains: refused, and the first goes on.

    The first is stopped meanwhile, so that it does not end before the second begins.
    """
    first, log = start(command(folder), folder / "a.log"), folder / "a.log"
    wait_for(r"compiling|step \d", log, first)
    first.send_signal(signal.SIGSTOP)
    other = end(start(words, folder / "b.log"), folder / "b.log")
    first.send_signal(signal.SIGCONT)
    ending = end(first, log)
    if ending.code != 0 or not as_alone(folder):
        return Outcome.SILENT, f"the first was disturbed: {ending}"
    return judge(other, names=("in use by process",), same=False)


def at_once(folder: Path) -> tuple[Outcome, str]:
    """The same command twice in the same moment: one wins, one is refused."""
    logs = [folder / "a.log", folder / "b.log"]
    processes = [start(command(folder), log) for log in logs]
    endings = [end(*pair) for pair in zip(processes, logs, strict=True)]
    winners = [ending for ending in endings if ending.code == 0]
    losers = [ending for ending in endings if ending.code != 0]
    if len(winners) != 1 or not as_alone(folder):
        return Outcome.SILENT, str(endings)
    return judge(losers[0], names=("in use by process",))


def killed(folder: Path, sign: signal.Signals) -> tuple[Outcome, str]:
    """The holder dies; the same command takes its lock over at once."""
    log = folder / "a.log"
    process = start(command(folder), log)
    wait_for(r"step \d", log, process)
    process.send_signal(sign)
    process.wait()
    begin = time.monotonic()
    ending = end(start(command(folder), folder / "b.log"), folder / "b.log")
    if time.monotonic() - begin > PATIENCE / 2:
        return Outcome.HANG, ending.said
    return judge(ending, same=as_alone(folder))


def stopped(folder: Path) -> tuple[Outcome, str]:
    """The holder is stopped (SIGSTOP), not dead: its folder is not taken over."""
    log = folder / "a.log"
    process = start(command(folder), log)
    wait_for(r"step \d", log, process)
    process.send_signal(signal.SIGSTOP)
    other = end(start(command(folder), folder / "b.log"), folder / "b.log")
    process.send_signal(signal.SIGCONT)
    if end(process, log).code != 0 or not as_alone(folder):
        return Outcome.SILENT, "the first was disturbed"
    return judge(other, names=("in use by process",), same=False)


def alone_of_several(
    folder: Path, *flags: str, **variables: str
) -> tuple[Outcome, str]:
    """One of several processes that is not told where the others are."""
    words = command(folder, *flags)
    ending = end(start(words, folder / "a.log", **variables), folder / "a.log")
    names = ("coordinator", "--process-id", "--num-processes", "heartbeat")
    return judge(ending, names=names, begun=(folder / "run",), same=False)


def processes() -> Iterator[Attack]:
    """Real processes; minutes."""

    def attack(name: str, act: Callable[[Path], tuple[Outcome, str]], *good: Outcome):
        return Attack("processes", name, act, good or (REFUSED,))

    yield attack("the same command twice at once", at_once)
    yield attack("the same command a moment later", lambda f: second(f, command(f)))
    yield attack(
        "by another path of the folder",
        lambda f: second(f, [*command(f)[:-1], str(f / "x" / ".." / "run")]),
    )
    yield attack(
        "with another config and --allow-config-change",
        lambda f: second(f, command(f, "--config.seed=9", "--allow-config-change")),
    )
    fleet = ("--seeds", "0", "--learning-rates", "0.001")
    yield attack(
        "a fleet in the folder of a run",
        lambda f: second(f, command(f, *fleet, module="vit_jax.fleet")),
    )
    sweep = (
        *("--config.sweep.learning_rates=0.001", "--config.sweep.train_split=train"),
        "--config.sweep.dev_split=test",
    )
    yield attack(
        "a sweep in the folder of a run",
        lambda f: second(f, command(f, *sweep, module="vit_jax.sweep")),
    )
    prune = [sys.executable, "-m", "vit_jax.checkpoints", "--prune", "--keep-last", "1"]
    yield attack(
        "checkpoints pruned while they are trained",
        lambda f: second(f, [*prune, str(f / "run")]),
    )
    for sign in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        yield attack(f"{sign.name}, then again", lambda f, s=sign: killed(f, s), SAME)
    yield attack("while the holder is stopped", stopped)
    for flags in (
        ("--num-processes", "2"), ("--num-processes", "2", "--process-id", "1"),
        ("--process-id", "0"), ("--process-id", "1"), ("--num-processes", "0"),
        ("--num-processes", "-1"), ("--coordinator", "127.0.0.1:1"),
        ("--coordinator", "nonsense", "--num-processes", "2", "--process-id", "0"),
        ("--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "2"),
        ("--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "-1"),
        ("--distributed", "on"),
    ):  # fmt: skip
        yield attack(" ".join(flags), lambda f, x=flags: alone_of_several(f, *x))
    for variables in ({"SLURM_STEP_NUM_TASKS": "2"}, {"OMPI_COMM_WORLD_SIZE": "2"},
                      {"JAX_NUM_PROCESSES": "2"}):  # fmt: skip
        name = " ".join(f"{k}={v}" for k, v in variables.items())
        yield attack(name, lambda f, x=variables: alone_of_several(f, **x))
