"""Trains a model from a config, or goes on with a run.

    python -m vit_jax.train --config configs/digits.py --workdir runs/digits
    python -m vit_jax.train --config configs/folder.py:data=photos,size=224 \\
        --workdir runs/mine --init augreg/Ti_16 --config.train.duration=20epochs

Any value of a config (configs/base.py lists them) is changed by
`--config.section.key=value`. The same command goes on where an interrupted run stopped.
"""

import argparse

from vit_jax.cli import add_config_arguments, command_parser, run_command
from vit_jax.config_file import read_config
from vit_jax.figures import pictures
from vit_jax.parallel import distributed
from vit_jax.storage.paths import as_path
from vit_jax.training.loop import exit_on_interrupt, train
from vit_jax.training.metrics import main_metrics


def main(arguments: argparse.Namespace) -> None:
    """The command: trains, then draws the learning curve."""
    distributed.start(arguments)
    config = read_config(arguments.config, arguments.overrides)
    with exit_on_interrupt("-m", "vit_jax.train"):
        results = train(
            config,
            arguments.workdir,
            allow_config_change=arguments.allow_config_change,
            may_exit=True,
        )
    if not distributed.is_primary():
        return
    curve = pictures.learning_curve(as_path(arguments.workdir))
    for split, metrics in results.items():
        print(f"{split}: {main_metrics(metrics)}")
    print(f"run folder: {arguments.workdir}   learning curve: {curve}")


if __name__ == "__main__":
    parser = command_parser("vit_jax.train", __doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--workdir", required=True, help="folder of the run, or gs://bucket/folder"
    )
    parser.add_argument(
        "--allow-config-change",
        action="store_true",
        help="go on in a run folder that was begun with another config",
    )
    distributed.add_arguments(parser)
    run_command(parser, main)
