"""Does a killed and resumed run end with the bits of an uninterrupted one?

    python -m benchmarks.exact_resume --kills 20
    PYTHONPATH=tests python -m benchmarks.exact_resume --kills 100 --bucket

One run is left alone. Others are killed by SIGKILL, one to three times each, and are
started again by the same command until they end. Where a kill is to fall is drawn, a
phase and a moment in it; where it fell is read from the log and the folder. Data are
read by threads and by worker processes in turn, run folders are on a disk and, with
--bucket, in an emulated store too (tests/bucket_server.py).

A run has ended the same if all arrays of its last checkpoint have the same bits, if its
`metrics.jsonl` has the same lines but for `steps/s` and `images/s`, if its last
checkpoint goes on at the same image, and if nothing is left behind: no process, no
unfinished or temporary file, no lock. Augmentation, MixUp, dropout, stochastic depth
and a moving average are on. On Linux only, as processes are looked for in /proc.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
STEPS, EVAL_EVERY, LOG_EVERY = 60, 15, 3
SHORT = (
    f"--config.train.duration={STEPS}steps",
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
SPEEDS = ("steps/s", "images/s")
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


def run(workdir: Path, *overrides: str) -> int:
    """Trains to the end; returns the exit code."""
    command = [*COMMAND, *overrides, "--workdir", str(workdir)]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode


def newest(workdir: str | Path) -> Path:
    """The folder of the last checkpoint of a run."""
    directory = as_path(workdir) / "checkpoints"
    return directory / str(integrity.steps(directory)[-1])


def final_state(workdir: str | Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, which is checked, by its path.

    Raises:
        ValueError: it is damaged.
    """
    last = newest(workdir)
    if problem := integrity.verify(last):
        raise ValueError(f"{last}: {problem}")
    names = integrity.read_metadata(last)[integrity.FINGERPRINTS]
    return {name: integrity.read_array(last, name) for name in names}


def differences(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> list[str]:
    """Paths of the arrays that do not have the same bits."""
    return sorted(
        path
        for path in first.keys() | second.keys()
        if path not in first
        or path not in second
        or first[path].tobytes() != second[path].tobytes()
    )


class Ending(NamedTuple):
    """What is compared of two runs."""

    arrays: dict[str, np.ndarray]
    metrics: list[dict[str, Any]]
    position: dict[str, Any]

    @classmethod
    def of(cls, workdir: str | Path) -> "Ending":
        """The end of a run; ValueError if a file of it is damaged."""
        path = as_path(workdir) / "metrics.jsonl"
        rows = map(json.loads, medium(path).read_text(path).splitlines())
        metrics = [{k: x for k, x in row.items() if k not in SPEEDS} for row in rows]
        facts = integrity.read_user_metadata(newest(workdir))
        position = {key: facts[key] for key in ("next_index", "meter", "label_names")}
        return cls(final_state(workdir), metrics, position)

    def differs(self, other: "Ending") -> list[str]:
        """What is not the same, in a few words each."""
        arrays = differences(self.arrays, other.arrays)
        found = [f"{len(arrays)} arrays, {arrays[0]} the first"] if arrays else []
        pairs = itertools.zip_longest(self.metrics, other.metrics)
        if rows := [f"{a} and {b}" for a, b in pairs if a != b]:
            found.append(f"{len(rows)} rows of metrics, first {rows[0]}")
        if self.position != other.position:
            found.append(f"{self.position} and {other.position}")
        return found


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
        steps = integrity.steps(self.directory)
        begun = {self.directory / str(step) for step in steps}
        whole = {f for f in begun if medium(f).exists(f / integrity.MANIFEST)}
        if medium(self.directory).unfinished(self.directory) or begun - whole:
            return "save"
        rows = re.findall(r"^step (\d+)/\d+  (\w+)", text, re.M)
        step, kind = (int(rows[-1][0]), rows[-1][1]) if rows else (0, "")
        if steps and steps[-1] == STEPS:
            return "end"
        if kind == "loss" and step % EVAL_EVERY == 0:
            return "evaluate"
        return "step" if steps else "before the first save"


def aim(rng: random.Random, seconds: float) -> tuple[str, float]:
    """Where a kill is to fall: a line of the log, and seconds after it.

    Args:
        seconds: what a run takes that is left alone.
    """
    step = rng.randrange(LOG_EVERY, STEPS, LOG_EVERY)
    evaluated = rng.randrange(EVAL_EVERY, STEPS + 1, EVAL_EVERY)
    pattern, longest = rng.choice(
        (
            ("", seconds / 2),
            (r"^run folder", seconds / 20),
            (r"^compiling", seconds / 10),
            (rf"^step {LOG_EVERY}/", 0.1),
            (rf"^step {step}/", seconds / 100),
            (rf"^step {step}/", seconds / 30),
            (rf"^step {evaluated}/\d+  loss", 0.2),
            (rf"^step {evaluated}/\d+  test", 0.5),
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
    end = time.monotonic() + 5
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


def undisturbed(folder: Path) -> tuple[Ending, float]:
    """The end of a run that was left alone, and its seconds once all is compiled."""
    for name in ("compiles", "alone"):
        (folder / name).mkdir()
        started = time.perf_counter()
        Training(str(folder / name / "run"), folder / name / "log", []).finish()
        seconds = time.perf_counter() - started
    first, second = (Ending.of(folder / name / "run") for name in ("compiles", "alone"))
    if problems := second.differs(first):
        raise RuntimeError(f"two runs that were left alone differ: {problems}")
    return second, seconds


@contextlib.contextmanager
def places(folder: Path, *, bucket: bool) -> Iterator[dict[str, str]]:
    """Where run folders go, by the name of the medium."""
    with contextlib.ExitStack() as stack:
        found = {"disk": str(folder)}
        if bucket:
            import bucket_server  # of tests/

            os.environ |= stack.enter_context(bucket_server.running())
            found["bucket"] = f"gs://{bucket_server.BUCKET}"
        yield found


def table(kills: list[tuple[Kill, bool]]) -> str:
    """A line a phase: how many kills fell there, and of runs that ended the same."""
    rows = ["| phase | kills | in a later start | same end |", "|---|---|---|---|"]
    for phase in (*PHASES, "all"):
        chosen = [pair for pair in kills if phase in (pair[0].phase, "all")]
        again, same = sum(kill.again for kill, _ in chosen), sum(s for _, s in chosen)
        rows.append(f"| {phase} | {len(chosen)} | {again} | {same} of {len(chosen)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--bucket", action="store_true", help="in a store too")
    arguments = parser.parse_args()
    rng, kills, say = random.Random(arguments.seed), [], print
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        reference, seconds = undisturbed(folder)
        say(f"left alone: {seconds:.0f} s, {len(reference.arrays)} arrays, ", end="")
        say(f"{len(reference.metrics)} rows of metrics", flush=True)
        with places(folder, bucket=arguments.bucket) as roots:
            kinds = itertools.cycle(itertools.product((0, 2), roots))
            for number, (workers, medium_name) in enumerate(kinds):
                left = arguments.kills - len(kills)
                if not left:
                    break
                own = folder / f"run_{number}"
                own.mkdir()
                workdir = f"{roots[medium_name]}/run_{number}/run"
                moments = [aim(rng, seconds) for _ in range(min(left, rng.randint(1, 3)))]
                options = [f"--config.data.workers={workers}"]
                fell = killed_run(workdir, own, options, moments)
                problems = Ending.of(workdir).differs(reference)
                problems += left_behind(workdir, own)
                kills += [(kill, not problems) for kill in fell]
                where = ", ".join(f"{k.phase}{' again' * k.again}" for k in fell)
                reading = f"{workers} workers" if workers else "threads"
                verdict = "; ".join(problems) or "the same end"
                say(f"run {number}, {reading}, {medium_name}: {where}: {verdict}", flush=True)
    print(table(kills))
    sys.exit(0 if all(same for _, same in kills) else 1)


if __name__ == "__main__":
    main()
