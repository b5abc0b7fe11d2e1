"""Every experiment of a scale, then the report.

    python -m experiments.all --scale mini --data cifar10=FOLDER
    python -m experiments.all --scale full --check

Runs that experiments share are trained once. Killed, or stopped by `--minutes`, it goes
on from there when it is started again. An experiment that fails is named at the end,
and does not keep the others from running.
"""

import argparse
import traceback

from experiments import report
from experiments.lab.command import add_arguments, check, run_experiment, working
from experiments.lab.frame import EXPERIMENTS, load_experiment
from vit_jax.cli import command_parser, run_command
from vit_jax.training.loop import Interrupted


def main(arguments: argparse.Namespace) -> None:
    """The command.

    Raises:
        RuntimeError: experiments failed; names them.
    """
    chosen = arguments.only.split(",") if arguments.only else EXPERIMENTS
    if unknown := set(chosen) - set(EXPERIMENTS):
        raise ValueError(
            f"unknown experiments {', '.join(sorted(unknown))}: wanted some of "
            f"{', '.join(EXPERIMENTS)}"
        )
    failed = {}
    with working(arguments):
        for name in chosen:
            act = check if arguments.check else run_experiment
            experiment = load_experiment(name)
            if arguments.scale not in experiment.seeds:
                print(f"{name} has no scale {arguments.scale}", flush=True)
                continue
            try:
                act(name, experiment, arguments)
            except Interrupted:
                raise
            except Exception as error:
                # One failure must not cost hours of the other experiments.
                traceback.print_exc()
                failed[name] = error
    if not (arguments.check or arguments.train_only):
        report.write(arguments.root / arguments.scale)
    if failed:
        names = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise RuntimeError(f"{len(failed)} experiments failed: {names}")


if __name__ == "__main__":
    parser = command_parser("experiments.all", __doc__)
    add_arguments(parser)
    parser.add_argument("--only", default="", help="some of them: axial,speed")
    run_command(parser, main)
