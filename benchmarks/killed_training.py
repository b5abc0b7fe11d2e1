"""A training that is killed by SIGKILL: when, in which phase, and what it leaves.

`benchmarks/exact_resume.py` compares the ends. On Linux only, as processes are looked
for in /proc.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from vit_jax.checkpoints import integrity
from vit_jax.storage.lock import LOCK
from vit_jax.storage.paths import as_path, medium

COMMAND = (
    sys.executable,
    "-m",
    "vit_jax.train",
    "--config=configs/digits.py",
    "--config.train.duration=150steps",
    "--config.train.ema_decay=0.99",
    "--config.checkpoint.every=5steps",
    "--config.eval.every=50steps",
    "--config.model.depth=2",
    "--config.model.dropout_rate=0.1",
    "--config.mix.mixup_alpha=0.2",
    "--config.data.batch_size=64",
    "--config.data.randaug_layers=2",
    "--config.data.workers=2",
)
STEPS, SAVE_EVERY, EVAL_EVERY, LOG_EVERY = 60, 20, 15, 3
SHORT = (
    f"--config.train.duration={STEPS}steps",
    f"--config.checkpoint.every={SAVE_EVERY}steps",
    f"--config.eval.every={EVAL_EVERY}steps",
    f"--config.log.every={LOG_EVERY}steps",
    "--config.model.width=32",
    "--config.model.mlp_dim=64",
    "--config.data.batch_size=32",
    "--config.eval.batch_size=32",
)
# In the environment of a run's processes, to find those that it leaves behind.
MARK = "EXACT_RESUME_RUN"
PATIENCE = 600  # seconds for one start
FAREWELL = 5  # seconds in which all processes of a run that has ended are to be gone
PHASES = (
    "import and set-up",
    "restore",
    "compile",
    "before the first save",
    "step",
    "save",
    "evaluate",
    "end",
)


class Training:
    """The command, started once in a run folder.

    Attributes:
        saved: the newest step that was there before.
    """

    def __init__(self, workdir: str, log: Path, options: list[str]) -> None:
        self.directory, self.log = as_path(workdir) / "checkpoints", log
        self.saved = max(integrity.steps(self.directory), default=0)
        temporary = log.parent / "tmp"
        temporary.mkdir(exist_ok=True)
        own = {MARK: str(log.parent), "TMPDIR": str(temporary)}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*COMMAND, *SHORT, *options, "--workdir", workdir],
                stdout=file,
                stderr=file,
                env=os.environ | own,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str) -> bool:
        """Waits for a line of the log; whether it came before the end."""
        end = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.text(), re.M)):
            if self.process.poll() is not None:
                break
            if time.monotonic() > end:
                raise RuntimeError(f"{self.log} does not get to {pattern}")
            time.sleep(0.002)
        return bool(found)

    def finish(self) -> None:
        """Waits for the end; RuntimeError if it is not a good one."""
        if self.process.wait(PATIENCE):
            raise RuntimeError(f"the run failed:\n{self.text()}")

    def kill(self) -> str:
        """Kills it; returns the phase it was in, "" if it had ended."""
        self.process.send_signal(signal.SIGKILL)
        if self.process.wait() != -signal.SIGKILL:
            self.finish()
            return ""
        return self.phase()

    def phase(self) -> str:
        """What the killed process was doing, by what it has said and written."""
        text = self.text()
        if "run folder" not in text:
            return "import and set-up"
        if "compiled in" not in text:
            return "compile" if "compiling" in text else "restore"
        rows = re.findall(r"^step (\d+)/\d+  (\w+)", text, re.M)
        step, kind = (int(rows[-1][0]), rows[-1][1]) if rows else (0, "")
        if kind == "loss" and step % EVAL_EVERY == 0:
            return "evaluate"
        steps = integrity.steps(self.directory)
        begun = {self.directory / str(step) for step in steps}
        whole = {f for f in begun if medium(f).exists(f / integrity.MANIFEST)}
        if medium(self.directory).unfinished(self.directory) or begun - whole:
            return "save"
        if steps and steps[-1] == STEPS:
            return "end"
        return "step" if steps else "before the first save"


def aim(rng: random.Random, seconds: float) -> tuple[str, float]:
    """Where a kill is to fall: a line of the log, and seconds after it.

    Args:
        seconds: what a run takes that is left alone.
    """
    step = rng.choice((9, 36, 54))  # long after a save
    evaluated = rng.randrange(EVAL_EVERY, STEPS + 1, EVAL_EVERY)
    saved = rng.randrange(SAVE_EVERY, STEPS + 1, SAVE_EVERY) // LOG_EVERY * LOG_EVERY
    pattern, longest = rng.choice(
        (
            ("", seconds / 2),
            (r"^run folder", seconds / 20),
            (r"^compiling", seconds / 10),
            (rf"^step {LOG_EVERY}/", 0.1),
            (rf"^step {step}/", 0.1),
            (rf"^step {saved}/", seconds / 20),
            (rf"^step {evaluated}/\d+  loss", 0.1),
            (rf"^step {evaluated}/\d+  test", 0.2),
            (rf"^step {STEPS}/\d+  test", seconds / 10),
        )
    )
    return pattern, rng.uniform(0, longest)


class Kill(NamedTuple):
    """A kill that fell: in which phase, and whether there was a checkpoint before."""

    phase: str
    again: bool


def killed_run(
    workdir: str, folder: Path, options: list[str], moments: list[tuple[str, float]]
) -> list[Kill]:
    """Kills a run at some moments, one start after the other, and lets it end."""
    kills = []
    for number, (pattern, delay) in enumerate(moments):
        training = Training(workdir, folder / f"{number}.log", options)
        try:
            if training.wait_for(pattern):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    training.process.wait(delay)
        finally:
            phase = training.kill()
        if phase:
            kills.append(Kill(phase, training.saved > 0))
    Training(workdir, folder / "last.log", options).finish()
    return kills


def left_behind(workdir: str, folder: Path) -> list[str]:
    """What a run that has ended should not have left: processes, files, locks."""
    end = time.monotonic() + FAREWELL
    while (processes := marked(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    run_folder = as_path(workdir)
    directory = run_folder / "checkpoints"
    files = [name for name in medium(run_folder).files(run_folder) if "tmp" in name]
    files += [str(path) for path in medium(directory).unfinished(directory)]
    files += [str(path) for path in (folder / "tmp").iterdir()]
    lock = [LOCK] if medium(run_folder).exists(run_folder / LOCK) else []
    damaged = ["damaged"] if medium(run_folder).exists(run_folder / "damaged") else []
    return [*(f"process {line}" for line in processes), *files, *lock, *damaged]


def marked(folder: Path) -> list[str]:
    """The processes of a run, by the mark in their environment."""
    found, mark = [], f"{MARK}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{process.name} {command.decode()[:60]}")
    return found
