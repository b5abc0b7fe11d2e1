"""What a run needs before it is paid for, and what a model consists of.

    python -m vit_jax.plan --config configs/imagenet.py --topology v5e:4x8
    python -m vit_jax.plan --config configs/imagenet.py --devices 8xH100
    python -m vit_jax.plan --model ViT-L/16 --image-size 384
    python -m vit_jax.plan --checkpoint ViT-B_16.npz --depth 3

With `--config` the whole training step is compiled: for a TPU pod or for GPUs that are
not there, or for the devices of this machine. Nothing is computed and no data is read,
so that any size can be planned anywhere. With `--largest-batch` it is compiled for
several batch sizes, until the largest that fits is found; with `--whole-run` also what
draws the parameters, and the evaluation.
"""

import argparse
import json

import jax

from vit_jax.cli import (
    CONFIG_HELP,
    add_checkpoint_argument,
    command_parser,
    image_size,
    run_command,
)
from vit_jax.config import check_config
from vit_jax.config_file import read_config
from vit_jax.flags import Classes, Positive, flag
from vit_jax.planning.largest_batch import batch_unit, largest_batch
from vit_jax.planning.model_summary import summarize_command
from vit_jax.planning.run_plan import data_facts, plan_batch, plan_run
from vit_jax.planning.target import find_target
from vit_jax.planning.text import describe
from vit_jax.storage import output
from vit_jax.storage.paths import as_path
from vit_jax.training.sections import config_sections


def main(arguments: argparse.Namespace) -> None:
    """The command: prints a plan, or the layers of a model."""
    if arguments.json:
        output.check(as_path(arguments.json), filter(None, [arguments.checkpoint]))
    if not (arguments.config or arguments.model or arguments.checkpoint):
        raise ValueError("one of --config, --model and --checkpoint is needed")
    if not arguments.config:
        for name in (
            *("topology", "devices", "num_examples"),
            *("largest_batch", "whole_run"),
        ):
            if getattr(arguments, name):
                raise ValueError(f"--{name.replace('_', '-')} goes with --config")
        summarize_command(arguments)
        return
    for name in ("image_size", "depth"):
        if getattr(arguments, name):
            raise ValueError(f"--{name.replace('_', '-')} goes with --model")
    # A program from the cache would not say how long it takes to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    config = read_config(arguments.config, arguments.overrides)
    check_config(config, config_sections())
    target = find_target(arguments.topology, arguments.devices)
    facts = data_facts(config, arguments.num_examples, arguments.num_classes)
    if arguments.largest_batch and arguments.whole_run:
        raise ValueError("--largest-batch is of the step alone: leave out --whole-run")
    if arguments.largest_batch:
        plan = largest_batch(
            lambda batch_size: plan_batch(config, batch_size, target, facts),
            batch_unit(config, target.devices),
            print,
        )
    else:
        plan = plan_run(config, target, *facts, whole_run=arguments.whole_run)
    plan |= {"config": arguments.config, "overrides": arguments.overrides}
    print(describe(plan))
    if arguments.json:
        output.write(as_path(arguments.json), json.dumps(plan, indent=1) + "\n")
    verdicts = [row["fits"] for row in (plan["memory"], *plan.get("beside", ()))]
    if False in verdicts:
        raise ValueError("the run does not fit into the memory of a device")


if __name__ == "__main__":
    parser = command_parser("vit_jax.plan", __doc__)
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument("--config", help=CONFIG_HELP)
    subject.add_argument("--model", help="such as ViT-L/16 or R50+ViT-B/16")
    add_checkpoint_argument(parser, group=subject)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--topology", help="TPU slices, such as v5e:16x16, 2*v5e:16x16")
    where.add_argument(
        "--devices",
        help="GPUs, such as 8xH100 or 2x8xH100 (hosts x GPUs); default: this machine's",
    )
    parser.add_argument(
        "--largest-batch", action="store_true", help="search the largest that fits"
    )
    parser.add_argument(
        "--whole-run", action="store_true", help="with the start and the evaluation"
    )
    parser.add_argument("--num-examples", type=flag(Positive), help="of an epoch")
    parser.add_argument("--num-classes", type=flag(Classes), help="1000 with --model")
    parser.add_argument(
        "--image-size", type=image_size, metavar="HxW", help="384, or 384x512"
    )
    parser.add_argument("--depth", type=flag(Positive), help="parts of layer names (2)")
    parser.add_argument("--json", help="file for all of it")
    run_command(parser, main)
