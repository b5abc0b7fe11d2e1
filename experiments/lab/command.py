"""The command line of the experiments.

    python -m experiments.position_embedding --scale mini --data cifar10=FOLDER
    python -m experiments.position_embedding --scale full --check

Runs what is missing, prints the tables and writes figures and `result.json` into
`<root>/<scale>/<experiment>/`. Killed, or stopped by `--minutes`, it goes on from there
when it is started again.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.lab.check import needs, needs_table
from experiments.lab.frame import SCALES, Arm, Experiment, resolve
from experiments.lab.grid import (
    GridRun,
    collect,
    plan_runs,
    run_grid,
    seconds,
    unfinished,
)
from experiments.lab.records import Conclusion
from experiments.lab.tables import markdown_table
from vit_jax.cli import run_command
from vit_jax.config import to_dict
from vit_jax.data.cpus import usable_cpus
from vit_jax.storage.paths import write_atomically
from vit_jax.training.loop import Interrupted, exit_on_interrupt
from vit_jax.training.run_folder import versions


def main(experiment: Experiment) -> None:
    """The command of one experiment, called from its module."""
    module = sys.modules["__main__"]
    name = Path(module.__file__).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)

    def command(arguments: argparse.Namespace) -> None:
        if arguments.check:
            check(name, experiment, arguments)
        else:
            with working(arguments):
                run_experiment(name, experiment, arguments)

    run_command(parser, command)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that all experiments take."""
    parser.add_argument("--scale", choices=SCALES, default="mini")
    parser.add_argument(
        "--root", type=Path, default=Path("runs/experiments"), help="folder of all"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a folder of images in the place of a data set, such as cifar10=FOLDER, "
        "or of a checkpoint that the experiment names",
    )
    parser.add_argument(
        "--seeds", type=int, default=0, help="instead of its own number"
    )
    parser.add_argument(
        "--minutes", type=float, default=0, help="save and stop after so many"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="processes that share the runs, each on its part of the CPU cores",
    )
    parser.add_argument("--train-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--check",
        action="store_true",
        help="resolve every run and trace a step of it; train nothing",
    )


def places(texts: list[str]) -> dict[str, str]:
    """`["cifar10=FOLDER"]` as a dict.

    Raises:
        ValueError: no equals sign.
    """
    for text in texts:
        if "=" not in text:
            raise ValueError(f"--data={text}: wanted NAME=FOLDER, as cifar10=FOLDER")
    return dict(text.split("=", 1) for text in texts)


def run_experiment(
    name: str, experiment: Experiment, arguments: argparse.Namespace
) -> None:
    """Trains what is missing, concludes, and writes `result.json`.

    Raises:
        Interrupted: SIGTERM, Ctrl-C or the time is over; the runs so far are saved.
    """
    begin = time.time()
    data = places(arguments.data)
    scale, root = arguments.scale, arguments.root
    runs = plan_runs(experiment, scale, root, data, arguments.seeds)
    folder = root / scale / name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\n{experiment.item}: {experiment.title} ({scale})", flush=True)
    try:
        run_grid(runs)
    except Interrupted:
        print(f"{len(unfinished(runs))} runs of {name} still to do", flush=True)
        raise
    if arguments.train_only:
        return
    results = collect(runs, scale, folder, data)
    conclusion = experiment.conclude(results)
    arms = experiment.arms(scale)
    record = {
        "name": name,
        "item": experiment.item,
        "title": experiment.title,
        "question": experiment.question,
        "scale": scale,
        **conclusion.record(),
        "runs": {
            "count": len({run.folder for run in runs}),
            "seeds": max(Counter(run.label for run in runs).values(), default=0),
            "seconds": round(seconds(runs) or time.time() - begin, 1),
            "hardware": hardware(),
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        },
        "config": to_dict(resolve(next(iter(arms.values())))) if arms else {},
        "overrides": {
            label: {"config": arm.config, **needed_by(arm), **arm.changes}
            for label, arm in arms.items()
        },
        "command": f"python -m experiments.{name} --scale {scale}",
    }
    write_atomically(folder / "result.json", json.dumps(record, indent=1) + "\n")
    show(conclusion, folder)


def show(conclusion: Conclusion, folder: Path) -> None:
    """Prints the tables and the claims, and where the figures are."""
    for table in conclusion.tables:
        print(f"\n{table.caption} ({table.side})\n")
        print(markdown_table(table._asdict()))
    for claim in conclusion.claims:
        print(f"\n{claim.claim}\n  {claim.verdict}: {claim.numbers}")
    if conclusion.notes:
        print(f"\n{conclusion.notes}")
    print(f"\nresults and figures: {folder}", flush=True)


def check(name: str, experiment: Experiment, arguments: argparse.Namespace) -> None:
    """Resolves and traces each arm, and prints what the grid needs."""
    scale = arguments.scale
    runs = plan_runs(
        experiment, scale, arguments.root, places(arguments.data), arguments.seeds
    )
    arms, first = experiment.arms(scale), {}
    for run in runs:
        first.setdefault(run.label, run)
    print(f"experiments.{name}: {experiment.item} ({scale})\n")
    rows = {label: needs(alone(run), arms[label]) for label, run in first.items()}
    for label, row in rows.items():
        if teacher := arms[label].teacher:
            # A forward pass, which is a third of what training counts.
            images = row.steps * row.batch_size
            flops = row.flops + 2 * rows[teacher].macs * images
            rows[label] = row._replace(flops=flops)
    # Sustained by two cores of a server on these models (docs/performance.md).
    gflops = 60 if scale in ("smoke", "mini") else 0
    print(needs_table(list(rows.values()), Counter(run.label for run in runs), gflops))


def needed_by(arm: Arm) -> dict[str, str]:
    """What an arm starts from and learns from: labels of arms, a checkpoint."""
    others = {"teacher": arm.teacher, "checkpoint": arm.checkpoint}
    return {"init": arm.init} | {key: name for key, name in others.items() if name}


def alone(run: GridRun) -> GridRun:
    """A run from new parameters and labels: what it needs need not be trained yet."""
    config = run.config.copy_and_resolve_references()
    config.init = ""
    if config.objective.name == "distillation":
        config.objective.name = "classification"
    return run._replace(config=config)


def hardware() -> str:
    """A description of the devices, such as `2 CPU cores, Intel Xeon`."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    lines = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    models = [line.split(": ")[1] for line in lines.split("\n") if "model name" in line]
    return f"{usable_cpus()} CPU cores, {models[0] if models else platform.machine()}"


@contextlib.contextmanager
def working(arguments: argparse.Namespace) -> Iterator[None]:
    """Runs helper processes beside the body, until `--minutes` are over or a signal.

    An interruption prints the command that resumes, and ends with its exit code.
    """

    def interrupt(number: int, _: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    with contextlib.ExitStack() as stack:
        # For signals between runs; during a run the trainer's own handler saves first.
        previous = signal.signal(signal.SIGTERM, interrupt)
        stack.callback(signal.signal, signal.SIGTERM, previous)
        for helper in start_helpers(arguments.jobs):
            stack.callback(helper.wait)
            stack.callback(helper.terminate)
        if arguments.minutes:
            # The signal that others send too: a run in progress saves and stops.
            timer = threading.Timer(
                60 * arguments.minutes, os.kill, (os.getpid(), signal.SIGTERM)
            )
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        stack.enter_context(exit_on_interrupt(this_command()[2]))
        yield


def this_command() -> list[str]:
    """The words of this command, `python -m experiments.NAME ...`."""
    module = Path(sys.modules["__main__"].__file__).stem
    return ["python", "-m", f"experiments.{module}", *sys.argv[1:]]


def start_helpers(jobs: int) -> list[subprocess.Popen]:
    """Starts the other processes of `--jobs`, and divides the CPU cores.

    Small operations gain little from several cores: two processes of a core each train
    1.2 (ViT) and 1.3 times (ResNet) as many runs as one of two, see
    docs/performance.md.
    """
    if jobs == 1:
        return []
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise ValueError(f"--jobs={jobs}: wanted 1 to {len(cores)}, a core each")
    command = [sys.executable, *this_command()[1:], "--jobs=1", "--train-only"]

    def start(place: int) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[place::jobs]),
        )

    helpers = [start(place) for place in range(1, jobs)]
    os.sched_setaffinity(0, cores[::jobs])
    return helpers
