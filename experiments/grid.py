"""Runs the arms of an experiment: what is finished is skipped, what broke off goes on.

A run lies in `<root>/<scale>/runs/<model>-<hash of its config>/seed<n>`, so that
experiments share the runs that they have in common. Runs that are one program (seeds,
learning rates) are trained side by side by `vit_jax.fleet`, the others one by one by
`vit_jax.train`.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_collections

from experiments.frame import Arm, Experiment, Results, resolve
from vit_jax.config import to_dict
from vit_jax.fleet import fleet_key, train_fleet, why_not
from vit_jax.storage.integrity import write_atomically
from vit_jax.train import train


class GridRun(NamedTuple):
    """One run: an arm with one seed.

    Attributes:
        config: resolved; data sets under the names that they have here.
        level: 0, or one more than that of the run that it starts from.
    """

    label: str
    seed: int
    config: ml_collections.ConfigDict
    folder: Path
    level: int

    @property
    def record(self) -> Path:
        """The file that a finished run leaves."""
        return self.folder / "finished.json"


def plan_runs(
    experiment: Experiment,
    scale: str,
    root: Path,
    data: Mapping[str, str],
    seeds: int = 0,
) -> list[GridRun]:
    """All runs of an experiment, those first that others start from.

    Args:
        data: what names of data sets stand for here, such as {"cifar10": "/folder"}.
        seeds: instead of the experiment's own number.

    Raises:
        ConfigError: an arm that cannot be resolved.
        ValueError: an arm that starts from one that is not there, or from itself.
    """
    arms = experiment.arms(scale)
    runs: dict[tuple[str, int], GridRun] = {}

    def add(label: str, seed: int, waiting: tuple[str, ...]) -> GridRun:
        if label in waiting or label not in arms:
            what = "waits for it" if label in waiting else "is no arm"
            raise ValueError(
                f"the arm {waiting[-1]!r} starts from {label!r}: it {what}"
            )
        if (label, seed) not in runs:
            arm = arms[label]
            start = add(arm.init, seed, (*waiting, label)) if arm.init else None
            runs[label, seed] = place(label, arm, seed, start, root / scale, data)
        return runs[label, seed]

    for label, arm in arms.items():
        for seed in range(arm.seeds or seeds or experiment.seeds[scale]):
            add(label, seed, ())
    return sorted(runs.values(), key=lambda run: run.level)


def place(
    label: str,
    arm: Arm,
    seed: int,
    start: GridRun | None,
    root: Path,
    data: Mapping[str, str],
) -> GridRun:
    """A run and its folder, which depends on what is trained, not on where."""
    config = resolve(arm)
    if start:
        config.init = start.folder.parent.name
    identity = json.dumps(to_dict(config) | {"seed": 0}, sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    name = (config.model.name or "tuned").replace("/", "_")
    folder = root / "runs" / f"{name}-{digest}" / f"seed{seed}"
    config.seed = seed
    if start:
        config.init = str(start.folder)
    for section in ("data", "fewshot", "knn"):
        config[section].name = data.get(config[section].name, config[section].name)
    return GridRun(label, seed, config, folder, start.level + 1 if start else 0)


def run_grid(runs: list[GridRun]) -> None:
    """Trains all that is not finished.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; what was done is saved.
        ValueError: a config that cannot be used.
    """
    folders = {run.folder for run in runs}
    waiting = {run.folder: run for run in runs if not run.record.exists()}
    done = len(folders) - len(waiting)
    print(f"{len(folders)} runs, {done} of them finished", flush=True)
    for fleet in fleets(list(waiting.values())):
        labels = ", ".join(dict.fromkeys(run.label for run in fleet))
        print(f"\n[{done + 1}/{len(folders)}] {labels}: {len(fleet)} runs", flush=True)
        begin = time.time()
        if why_not(fleet[0].config):
            train(fleet[0].config, fleet[0].folder)
        else:
            train_fleet([run.config for run in fleet], [run.folder for run in fleet])
        record = json.dumps({"seconds": (time.time() - begin) / len(fleet)})
        for run in fleet:
            write_atomically(run.record, record + "\n")
        done += len(fleet)


def fleets(runs: list[GridRun]) -> Iterator[list[GridRun]]:
    """The runs in groups that can be trained side by side, in their order."""
    while runs:
        first = runs[0]
        if why_not(first.config):
            fleet = [first]
        else:
            key = first.level, fleet_key(first.config)
            fleet = [
                run
                for run in runs
                if not why_not(run.config) and (run.level, fleet_key(run.config)) == key
            ]
        yield fleet
        runs = [run for run in runs if run not in fleet]


def collect(
    runs: list[GridRun], scale: str, folder: Path, data: Mapping[str, str]
) -> Results:
    """The finished runs by arm; each makes one value of a mean over seeds."""
    finished: dict[str, list[Path]] = {}
    configs: dict[str, ml_collections.ConfigDict] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        configs.setdefault(run.label, run.config)
        if run.record.exists():
            finished.setdefault(run.label, []).append(run.folder)
    return Results(scale, folder, finished, configs, data)


def seconds(runs: list[GridRun]) -> float:
    """What the finished runs took to train, each once."""
    records = {run.record for run in runs if run.record.exists()}
    return sum(json.loads(record.read_text())["seconds"] for record in records)
