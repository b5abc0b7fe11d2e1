"""Runs the arms of an experiment; finished runs are skipped, interrupted ones resumed.

A run lies in `<root>/<scale>/runs/<model>-<hash of its config>/seed<n>`, so that
experiments share the runs that they have in common. Runs that are one program (seeds,
learning rates) are trained side by side by `vit_jax.fleet`, the others one by one by
`vit_jax.train`.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import jax
import ml_collections

from configs import lab
from configs.base import get_config
from experiments.lab.frame import Arm, Experiment, RunResults, resolve
from vit_jax.config import difference
from vit_jax.data.cpus import usable_cpus
from vit_jax.data.sources import make_source
from vit_jax.fleet.training import fleet_key, train_fleet, why_not
from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import write_atomically
from vit_jax.training.loop import Interrupted, train

# The file that marks a run as finished, and that of the time before an interruption.
RECORD = "finished.json"
SPENT = "spent.json"
# Parts of the config that name a data set.
DATA_SECTIONS = ("data", "fewshot", "knn")


class GridRun(NamedTuple):
    """One run: an arm with one seed.

    Attributes:
        config: resolved, with folders in the place of data sets that `--data` names.
        after: folders of the runs that it needs finished: the one that it starts from,
            its teacher.
    """

    label: str
    seed: int
    config: ml_collections.ConfigDict
    folder: Path
    after: tuple[Path, ...]


def plan_runs(
    experiment: Experiment,
    scale: str,
    root: Path,
    data: Mapping[str, str],
    seeds: int = 0,
) -> list[GridRun]:
    """All runs of an experiment, each after those that it needs.

    Args:
        data: folders that replace data sets by name, such as {"cifar10": "/folder"},
            and of checkpoints; an arm whose checkpoint is not among them is left out.
        seeds: number of seeds; 0 for the experiment's own.

    Raises:
        ConfigError: an arm that cannot be resolved.
        ValueError: an arm needs an unknown arm, or itself; the experiment has no such
            scale, or not so many choices of its data.
    """
    experiment.check_scale(scale)
    arms = experiment.arms(scale)
    count = seeds or experiment.seeds[scale]
    most = 1 + max((arm.choice for arm in arms.values()), default=0)
    if 1 < most < count:
        raise ValueError(
            f"{experiment.title}: got {count} seeds, wanted at most {most}, one for "
            "each choice of its data"
        )
    runs: dict[tuple[str, int], GridRun] = {}

    def add(label: str, seed: int, waiting: tuple[str, ...]) -> GridRun:
        if label in waiting or label not in arms:
            what = "waits for it" if label in waiting else "is no arm"
            raise ValueError(f"the arm {waiting[-1]!r} needs {label!r}: it {what}")
        if (label, seed) not in runs:
            arm = arms[label]
            needed = {
                key: add(other, seed, (*waiting, label))
                for key, other in (("init", arm.init), ("teacher", arm.teacher))
                if other
            }
            runs[label, seed] = place(label, arm, seed, needed, root / scale, data)
        return runs[label, seed]

    for label, arm in arms.items():
        if arm.choice >= count or (arm.checkpoint and arm.checkpoint not in data):
            continue
        for seed in range(arm.seeds or count):
            add(label, seed, ())
    return list(runs.values())


def place(
    label: str,
    arm: Arm,
    seed: int,
    needed: Mapping[str, GridRun],
    root: Path,
    data: Mapping[str, str],
) -> GridRun:
    """A run and its folder, whose name is a hash of the config without local paths.

    Args:
        needed: the runs that it starts from, `init`, and learns from, `teacher`.
    """
    config = resolve(arm)
    use_classes(config, data)
    config.init = arm.checkpoint or config.init
    point_to(config, {key: run.folder.parent.name for key, run in needed.items()})
    # Only what differs from the defaults, so that a new config key changes no hash.
    changes = {key: new for key, (_, new) in difference(get_config(), config).items()}
    identity = json.dumps(changes, sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    name = (config.model.name or "tuned").replace("/", "_")
    folder = root / "runs" / f"{name}-{digest}" / f"seed{seed}"
    config.seed = seed
    point_to(config, {key: str(run.folder) for key, run in needed.items()})
    config.init = data.get(arm.checkpoint, config.init)
    for section in DATA_SECTIONS:
        config[section].name = data.get(config[section].name, config[section].name)
    after = tuple(run.folder for run in needed.values())
    return GridRun(label, seed, config, folder, after)


def use_classes(config: ml_collections.ConfigDict, data: Mapping[str, str]) -> None:
    """Names the classes of folders that do not have those of the data set.

    The first three fifths are for the pre-training, the others held out, as of
    CIFAR-10's ten.

    Raises:
        ValueError: the folder has fewer than four classes.
    """
    for section in DATA_SECTIONS:
        name, classes = config[section].name, tuple(config[section].classes)
        if name in data and classes:
            config[section].classes = classes_of(data[name], name, classes)


@functools.cache
def classes_of(folder: str, name: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of a folder that stand for those wanted of the data set `name`."""
    names = make_source(folder, "train", cache="never").label_names
    if set(wanted) <= set(names):
        return wanted
    if len(names) < 4:
        raise ValueError(
            f"--data={name}={folder}: {len(names)} classes are too few to train on "
            "some and hold out others: wanted four or more"
        )
    first = math.ceil(0.6 * len(names))
    parts = {}
    for _, upstream, downstream in lab.DATA.values():
        parts |= {upstream: names[:first], downstream: names[first:]}
    if wanted not in parts:
        raise ValueError(
            f"--data={name}={folder}: has no classes {', '.join(wanted)}, only "
            f"{', '.join(names)}"
        )
    print(f"{folder} for {', '.join(wanted)}: {', '.join(parts[wanted])}", flush=True)
    return parts[wanted]


def point_to(config: ml_collections.ConfigDict, names: Mapping[str, str]) -> None:
    """Names the checkpoints that a run needs in its config: `init`, `teacher`."""
    config.init = names.get("init", config.init)
    config.objective.teacher = names.get("teacher", config.objective.teacher)


def run_grid(
    runs: list[GridRun], after_each: Callable[[GridRun], object] = lambda _: None
) -> None:
    """Trains all unfinished runs, and waits for those that other processes train.

    Any number of processes may do so at once, on one machine or on several with one
    file system: a run belongs to the process that holds its lock, which the system
    releases when the process ends.

    Args:
        after_each: called with each run that was trained here, once it is finished.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the work so far is saved.
        ValueError: a config cannot be used.
    """
    total = len({run.folder for run in runs})
    print(f"{total} runs, {total - len(unfinished(runs))} of them finished", flush=True)
    while waiting := unfinished(runs):
        # Another process may still be training a run that this one needs.
        ready = [run for run in waiting if all(map(is_finished, run.after))]
        trained = 0
        for fleet in fleets(ready):
            with claimed(fleet) as mine:
                if not mine:
                    continue
                left = len(unfinished(runs))
                labels = ", ".join(dict.fromkeys(run.label for run in mine))
                print(
                    f"\n[{total - left + 1}/{total}] {labels}{time_left(runs)}",
                    flush=True,
                )
                train_together(mine)
                trained += len(mine)
                for run in mine:
                    after_each(run)
        if not trained:
            time.sleep(2)


def time_left(runs: list[GridRun]) -> str:
    """The time that all unfinished runs take at the mean of those that are finished."""
    done = len({run.folder for run in runs}) - len(unfinished(runs))
    if not done:
        return ""
    minutes = seconds(runs) / done * len(unfinished(runs)) / 60
    return f" (about {minutes:.0f} minutes of training are left)"


def unfinished(runs: list[GridRun]) -> list[GridRun]:
    """The runs that are not finished, each folder once."""
    return list({r.folder: r for r in runs if not is_finished(r.folder)}.values())


def is_finished(folder: Path) -> bool:
    """Whether a run has ended, be it with a result or with a permanent failure.

    A damaged record is none: the run goes on from its last step, and writes it again.
    """
    try:
        record(folder)
    except (FileNotFoundError, ValueError):
        return False
    return True


@contextlib.contextmanager
def claimed(fleet: list[GridRun]) -> Iterator[list[GridRun]]:
    """The runs of a fleet that no other process is training or has trained."""
    with contextlib.ExitStack() as stack:
        mine = []
        for run in fleet:
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(run.folder.with_suffix(".lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not is_finished(run.folder):
                mine.append(run)
        yield mine


def train_together(fleet: list[GridRun]) -> None:
    """Trains runs side by side, and writes the record of each."""
    begin = time.time()
    configs, folders = [run.config for run in fleet], [run.folder for run in fleet]
    try:
        if why_not(configs[0]):
            results = [train(configs[0], folders[0])]
        else:
            results = train_fleet(configs, folders)
    except Interrupted:
        # The seconds of all the pieces of a run are its time.
        for folder in folders:
            if folder.is_dir():
                passed = spent(folder) + (time.time() - begin) / len(fleet)
                write_atomically(folder / SPENT, json.dumps({"seconds": passed}) + "\n")
        raise
    passed = (time.time() - begin) / len(fleet)
    for folder, result in zip(folders, results, strict=True):
        record = Record(
            seconds=spent(folder) + passed, failed=not result, hardware=hardware()
        )
        write_atomically(folder / RECORD, json.dumps(record) + "\n")


def spent(folder: Path) -> float:
    """Seconds of the interrupted pieces of a run."""
    try:
        return read_json(folder / SPENT, Spent)["seconds"]
    except (FileNotFoundError, ValueError):
        return 0.0


def hardware() -> str:
    """A description of the devices, such as `2 CPU cores, Intel Xeon`."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    lines = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    models = [line.split(": ")[1] for line in lines.split("\n") if "model name" in line]
    return f"{usable_cpus()} CPU cores, {models[0] if models else platform.machine()}"


def fleets(runs: list[GridRun]) -> Iterator[list[GridRun]]:
    """Groups of runs that share a program, to be trained side by side.

    On CPUs a group is one run, so that processes can share the runs evenly; the
    compiled program is reused, since runs that share it follow one another.
    """
    alike: dict[str, list[GridRun]] = {}
    for run in runs:
        key = str(run.folder) if why_not(run.config) else fleet_key(run.config)
        alike.setdefault(key, []).append(run)
    for group in alike.values():
        size = 1 if jax.default_backend() == "cpu" else len(group)
        for i in range(0, len(group), size):
            yield group[i : i + size]


def collect(
    runs: list[GridRun], scale: str, folder: Path, data: Mapping[str, str]
) -> RunResults:
    """The finished runs by arm, in the order of their seeds."""
    finished: dict[str, list[Path]] = {}
    configs: dict[str, ml_collections.ConfigDict] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        configs.setdefault(run.label, run.config)
        if is_finished(run.folder) and not record(run.folder)["failed"]:
            finished.setdefault(run.label, []).append(run.folder)
    return RunResults(scale, folder, finished, configs, data)


class Spent(TypedDict):
    """Seconds of training before the last interruption."""

    seconds: float


class Record(TypedDict):
    """The record of a finished run: time of training, and whether it has no result."""

    seconds: float
    failed: bool
    hardware: str


def record(folder: Path) -> Record:
    """The record of a finished run; raises as `read_json`."""
    return read_json(folder / RECORD, Record)


def seconds(runs: list[GridRun]) -> float:
    """Seconds of training of all finished runs, each counted once."""
    folders = {run.folder for run in runs if is_finished(run.folder)}
    return sum(record(folder)["seconds"] for folder in folders)


def machines(runs: list[GridRun]) -> list[str]:
    """What the finished runs were trained on, each once."""
    folders = {run.folder for run in runs if is_finished(run.folder)}
    return sorted({record(folder)["hardware"] for folder in folders})
