"""Trains a grid of seeds and learning rates, many runs at once on one device.

    python -m vit_jax.fleet --config configs/digits.py --workdir runs/fleet \\
        --seeds 0,1,2 --learning-rates 1e-3,3e-3
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.cli import add_config_arguments, command_parser, run_command
from vit_jax.config_file import read_config
from vit_jax.flags import Minutes, Positive, flag
from vit_jax.fleet.member import Results
from vit_jax.fleet.training import train_fleet
from vit_jax.storage.lock import held
from vit_jax.storage.paths import as_path
from vit_jax.training.loop import exit_on_interrupt


def main(arguments: argparse.Namespace) -> None:
    """The command: trains the grid of seeds and learning rates, prints a table."""
    config = read_config(arguments.config, arguments.overrides)
    rates = arguments.learning_rates or [config.optim.learning_rate]
    workdir = as_path(arguments.workdir)
    configs, folders = [], []
    for rate in rates:
        for seed in arguments.seeds:
            run = config.copy_and_resolve_references()
            run.seed, run.optim.learning_rate = seed, rate
            configs.append(run)
            folders.append(workdir / f"rate_{rate:g}" / f"seed_{seed}")
    deadline = None
    if arguments.deadline_minutes:
        deadline = time.monotonic() + 60 * arguments.deadline_minutes
    with exit_on_interrupt("-m", "vit_jax.fleet"), held(workdir):
        results = train_fleet(
            configs,
            folders,
            members_at_once=arguments.members_at_once,
            steps_per_dispatch=arguments.steps_per_dispatch,
            deadline=deadline,
        )
    print(table(rates, len(arguments.seeds), results))
    print(f"run folders: {arguments.workdir}/rate_*/seed_*")


def table(rates: Sequence[float], seeds: int, results: Sequence[Results]) -> str:
    """Markdown: accuracy of each split for each learning rate, mean ± std of seeds."""
    splits = sorted({split for result in results for split in result})
    lines = ["| learning rate | " + " | ".join(splits) + " |"]
    lines.append("|---" * (len(splits) + 1) + "|")
    for number, rate in enumerate(rates):
        cells = []
        for split in splits:
            values = [
                100 * next(iter(accuracies(result[split]).values()))
                for result in results[number * seeds : (number + 1) * seeds]
                if split in result
            ]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            missing = seeds - len(values)
            note = f" ({missing} of {seeds} runs stopped)" if missing else ""
            mean = f"{np.mean(values):.2f}{spread} %" if values else "-"
            cells.append(mean + note)
        lines.append(f"| {rate:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def accuracies(values: dict[str, float]) -> dict[str, float]:
    """The accuracies among the metrics, of few shots too."""
    return {k: v for k, v in values.items() if k == "accuracy" or k.endswith("shot")}


def numbers(text: str, kind: type) -> list[Any]:
    """A list such as "0,1,2" on the command line."""
    return [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    parser = command_parser("vit_jax.fleet", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--workdir", required=True, help="folder of the runs")
    parser.add_argument(
        "--seeds", type=lambda text: numbers(text, int), default=[0, 1, 2]
    )
    parser.add_argument(
        "--learning-rates",
        type=lambda text: numbers(text, float),
        help="default: the config's",
    )
    parser.add_argument(
        "--members-at-once", type=flag(Positive), help="default: 16, on CPUs 1"
    )
    parser.add_argument(
        "--steps-per-dispatch", type=flag(Positive), help="default: 50, on CPUs 1"
    )
    parser.add_argument(
        "--deadline-minutes",
        type=flag(Minutes),
        help="save and exit with code 75 before that",
    )
    run_command(parser, main)
