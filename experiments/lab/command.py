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
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.lab.check import needs, needs_table
from experiments.lab.frame import SCALES, Arm, Experiment, resolve
from experiments.lab.grid import (
    GridRun,
    collect,
    hardware,
    machines,
    plan_runs,
    record,
    run_grid,
    seconds,
    unfinished,
)
from experiments.lab.kept import KEPT, keep, with_kept
from experiments.lab.measures import require_checkpoint
from experiments.lab.own import load_own, own_experiment, own_table
from experiments.lab.records import Conclusion
from experiments.lab.registration import register
from experiments.lab.tables import markdown_table
from vit_jax.cli import run_command
from vit_jax.config import to_dict
from vit_jax.storage.paths import write_atomically
from vit_jax.training.loop import Interrupted, exit_on_interrupt
from vit_jax.training.run_folder import versions


def main(experiment: Experiment) -> None:
    """The command of one experiment, called from its module."""
    module = sys.modules["__main__"]
    name = Path(module.__file__).stem
    parser = argparse.ArgumentParser(
        prog=shlex.join(["python", *this_module()]),
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
        "--own",
        default="",
        metavar="FILE.py",
        help="arms and measures of your own, for a table beside the experiment's",
    )
    parser.add_argument(
        "--kept",
        type=Path,
        default=KEPT,
        metavar="FOLDER",
        help="small files of runs that were finished elsewhere, and count as finished",
    )
    parser.add_argument(
        "--keep", action="store_true", help="copy those of each finished run there"
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
    own = load_own(arguments.own)
    both = own_experiment(experiment, own, scale)
    planned = plan_runs(both, scale, root, data, arguments.seeds)
    arms = experiment.arms(scale)

    def measure(run: GridRun) -> None:
        if own.measures:
            require_checkpoint(run.folder, "measures of --own")
        if run.label in arms:
            experiment.measure(run.folder)
            experiment.measure_arm(run.label, run.folder)

    runs = with_kept(planned, arguments.kept, measure)
    folder = root / scale / name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\n{experiment.item}: {experiment.title} ({scale})", flush=True)
    if elsewhere := sum(run not in planned for run in runs):
        print(f"{elsewhere} runs were finished elsewhere: {arguments.kept}")

    registration = register(
        name, experiment, scale, arguments.kept if arguments.keep else root
    )

    def after_each(run: GridRun) -> None:
        if not record(run.folder)["failed"]:
            # Arms with the same config share a run.
            for same in runs:
                if same.folder == run.folder:
                    measure(same)
        if arguments.keep:
            keep(run, arguments.kept)

    try:
        run_grid(runs, after_each)
    except Interrupted:
        print(f"{len(unfinished(runs))} runs of {name} still to do", flush=True)
        raise
    if arguments.train_only:
        return
    theirs = [run for run in runs if run.label in arms]
    conclusion = experiment.conclude(collect(theirs, scale, folder, data))
    if arguments.own:
        table = own_table(collect(runs, scale, folder, data), own)
        conclusion = conclusion._replace(tables=[*conclusion.tables, table])
    if arguments.keep:
        for run in runs:
            keep(run, arguments.kept)
    result = {
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
            "hardware": "; ".join(machines(runs)) or hardware(),
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        },
        "config": to_dict(resolve(next(iter(arms.values())))) if arms else {},
        "overrides": {
            label: {"config": arm.config, **needed_by(arm), **arm.changes}
            for label, arm in arms.items()
            if label in {run.label for run in runs}
        },
        "registered": registration,
        "command": shlex.join(["python", *words_of(name), "--scale", scale]),
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1) + "\n")
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
    print(f"{words_of(name)[-1]}: {experiment.item} ({scale})\n")
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
        stack.enter_context(exit_on_interrupt(*this_module()))
        yield


def words_of(name: str) -> list[str]:
    """What follows `python` to start an experiment: a module, or one's own file."""
    module = sys.modules["__main__"]
    if Path(getattr(module, "__file__", None) or "").stem != name:
        return ["-m", f"experiments.{name}"]  # started by `experiments.all`
    return ["-m", module.__spec__.name] if module.__spec__ else [sys.argv[0]]


def this_module() -> list[str]:
    """The words that started this process, `-m experiments.NAME` or a file."""
    return words_of(Path(sys.modules["__main__"].__file__).stem)


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
    command = [sys.executable, *this_module(), *sys.argv[1:]]
    command += ["--jobs=1", "--train-only"]

    def start(place: int) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[place::jobs]),
        )

    helpers = [start(place) for place in range(1, jobs)]
    os.sched_setaffinity(0, cores[::jobs])
    return helpers
