"""Speed of a fleet against the same runs one after the other with the trainer.

    python -m benchmarks.fleet_speed --data cifar10 --size tiny --runs 8

It shows whether a fleet uses the device well although each model is tiny. Runs differ
in seed and learning rate. There are two numbers: images per second after compilation,
as the runs record them, and the seconds of everything, with compilation, first
evaluation and checkpoints. Rounds are interleaved, since the speed of a machine drifts;
no compiled program is taken from a cache.

Sizes are ViTs on 32x32 images with patches of 4 (16 with `micro`): see `SIZES`.
Cost: some two minutes for `micro` on 2 CPU cores, ten on a GPU for `small`.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from configs import lab
from vit_jax.cli import run_command
from vit_jax.fleet.training import DEFAULTS, train_fleet
from vit_jax.storage.run_files import read_metrics
from vit_jax.training.loop import train

SIZES = {
    "micro": dict(name="ViT-mu/16", depth=2, width=32, mlp_dim=64, num_heads=2),
    "tiny": lab.MINI["vit"],
    "small": lab.SMALL["vit"],
}
Way = Callable[[list[ml_collections.ConfigDict], list[Path]], None]


def make_grid(
    data: str, size: str, runs: int, steps: int, batch_size: int
) -> list[ml_collections.ConfigDict]:
    """Configs of a number of runs, half of them at another learning rate."""
    configs = []
    for number in range(runs):
        config = lab.get_config()
        config.model.update(SIZES[size])
        config.data.update(name=data, classes=(), batch_size=batch_size)
        config.seed = number // 2
        config.optim.learning_rate = (1e-3, 3e-3)[number % 2]
        config.train.duration = f"{steps}steps"
        config.fewshot.every = ""
        config.log.every = f"{max(1, steps // 10)}steps"
        configs.append(config)
    return configs


def one_by_one(configs: list[ml_collections.ConfigDict], folders: list[Path]) -> None:
    """Trains the runs with the ordinary trainer."""
    for config, folder in zip(configs, folders, strict=True):
        train(config, folder)


def measure(
    way: Way, configs: list[ml_collections.ConfigDict], at_once: int
) -> tuple[float, float]:
    """Images per second of all runs together, and the seconds of everything."""
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, str(number)) for number in range(len(configs))]
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            way(configs, folders)
        seconds = time.perf_counter() - begin
        speeds = [
            row["images/s"]
            for folder in folders
            for row in read_metrics(folder / "metrics.jsonl")
            if "images/s" in row
        ]
    # The median ignores the first rows, in which programs are still compiled.
    return at_once * statistics.median(speeds), seconds


def main(arguments: argparse.Namespace) -> None:
    """The command: measures, prints a Markdown table and writes JSON."""
    jax.config.update("jax_enable_compilation_cache", False)
    runs, steps = arguments.runs, arguments.steps
    configs = make_grid(
        arguments.data, arguments.size, runs, steps, arguments.batch_size
    )
    default = DEFAULTS[jax.default_backend()]
    ways: dict[str, tuple[Way, int]] = {"trainer, one by one": (one_by_one, 1)}
    pairs = [tuple(map(int, pair.split("x"))) for pair in arguments.fleets]
    for members, dispatch in pairs or [default]:

        def fleet(configs, folders, members=members, dispatch=dispatch):
            train_fleet(
                configs,
                folders,
                members_at_once=members,
                steps_per_dispatch=dispatch,
            )

        at_once = min(members, runs)
        ways[f"fleet, {at_once} at once, {dispatch} steps"] = fleet, at_once

    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (way, at_once) in ways.items():
            measured[name].append(measure(way, configs, at_once))
    device = f"{jax.devices()[0].device_kind}, {arguments.size}, {runs} runs of {steps}"
    print(f"{device} steps of {arguments.batch_size} images; medians of rounds\n")
    print("| | images/s | gain | seconds for all | gain |\n|---|---|---|---|---|")
    rows = {
        name: [statistics.median(column) for column in zip(*pairs, strict=True)]
        for name, pairs in measured.items()
    }
    speed, seconds = rows["trainer, one by one"]
    for name, row in rows.items():
        print(
            f"| {name} | {row[0]:.0f} | {row[0] / speed:.2f} | {row[1]:.1f} "
            f"| {seconds / row[1]:.2f} |"
        )
    if arguments.output:
        text = json.dumps({"device": device, "rounds": measured}, indent=1)
        Path(arguments.output).write_text(text + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet_speed",
        description="Throughput of a fleet over one run at a time.",
    )
    parser.add_argument("--data", default="digits", help="name or folder")
    parser.add_argument("--size", choices=SIZES, default="micro")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--fleets",
        nargs="+",
        default=[],
        help="runs x steps at once, such as 1x1 8x20; default: the fleet's own",
    )
    parser.add_argument("--output", help="JSON file of all measurements")
    run_command(parser, main)
