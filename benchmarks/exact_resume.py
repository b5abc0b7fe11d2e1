"""Does a killed and resumed run end with the bits of an uninterrupted one?

    python -m benchmarks.exact_resume --kills 20
    PYTHONPATH=tests python -m benchmarks.exact_resume --kills 100 --bucket

One run is left alone. Others are killed by SIGKILL, one to five times each, and are
started again by the same command until they end. Where a kill is to fall is drawn, a
phase and a moment in it; where it fell is read from the log and the folder. Data are
read by threads and by worker processes in turn, run folders are on a disk and, with
--bucket, in an emulated store too (tests/bucket_server.py).

A run has ended the same if all arrays of its last checkpoint have the same bits, if its
`metrics.jsonl` has the same lines but for `steps/s` and `images/s`, if its last
checkpoint goes on at the same image, and if nothing is left behind: no process, no
unfinished or temporary file, no lock. Augmentation, MixUp, dropout, stochastic depth
and a moving average are on.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.killed_training import (
    COMMAND,
    PHASES,
    Kill,
    Training,
    aim,
    killed_run,
    left_behind,
)
from vit_jax.checkpoints import integrity
from vit_jax.storage.paths import as_path, medium

READING = {
    "threads": "--config.data.workers=0",
    "worker processes": "--config.data.workers=2",
}
SPEEDS = ("steps/s", "images/s")


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
    rng, kills = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        reference, seconds = undisturbed(folder)
        arrays, rows = len(reference.arrays), len(reference.metrics)
        print(f"left alone: {seconds:.0f} s, {arrays} arrays, {rows} rows", flush=True)
        with places(folder, bucket=arguments.bucket) as roots:
            kinds = itertools.cycle(itertools.product(READING, roots))
            while (left := arguments.kills - len(kills)) > 0:
                reading, where = next(kinds)
                own = Path(tempfile.mkdtemp(prefix="run_", dir=folder))
                workdir = f"{roots[where]}/{own.name}/run"
                count = min(left, rng.randint(1, 5))
                moments = [aim(rng, seconds) for _ in range(count)]
                fell = killed_run(workdir, own, [READING[reading]], moments)
                problems = Ending.of(workdir).differs(reference)
                problems += left_behind(workdir, own)
                kills += [(kill, not problems) for kill in fell]
                phases = ", ".join(f"{k.phase}{' again' * k.again}" for k in fell)
                verdict = "; ".join(problems) or "the same end"
                print(f"{reading}, {where}: {phases}: {verdict}", flush=True)
    print(table(kills))
    sys.exit(0 if all(same for _, same in kills) else 1)


if __name__ == "__main__":
    main()
