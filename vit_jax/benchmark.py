"""Speed of the training step, with synthetic or with real input.

    python -m vit_jax.benchmark --model ViT-B/16 --batch 128,256
    python -m vit_jax.benchmark --config configs/digits.py

It runs the step of `vit_jax.train` as the training loop does. With `--model` one batch
stays on the device. With `--config` the config's own input is measured too: the step
alone, the input alone and both together, in turns.
"""

import argparse
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.cli import (
    CONFIG_HELP,
    command_parser,
    image_size,
    run_command,
)
from vit_jax.config_file import read_config
from vit_jax.flags import Number, Positive, flag
from vit_jax.models import AnyModel, create_model
from vit_jax.planning.chips import peak_flops
from vit_jax.planning.flops import model_flops
from vit_jax.planning.timing import (
    GROUPS,
    RepeatedStep,
    measure,
    measure_with_input,
    repeated_forward,
    repeated_training,
)
from vit_jax.storage import output
from vit_jax.storage.paths import as_path
from vit_jax.training.run_folder import versions

CLASSES = 1000

# Of the arguments that go with --model.
DEFAULTS = {
    "batch": "8",
    "image_size": (224, 224),
    "mode": "train",
    "dtype": "auto",
    "accumulate_steps": 1,
    "attention": "auto",
}


def rates(
    times: dict[str, Any], model: AnyModel, batch_size: int, mode: str
) -> dict[str, float | None]:
    """Images/s, achieved FLOP/s of a device, and its share of the peak (MFU)."""
    images = batch_size / times["step"]
    per_device = images / jax.device_count()
    achieved = per_device * model_flops(model, mode)
    peak = peak_flops(jax.devices()[0].device_kind, jnp.dtype(model.dtype).name)
    return {
        "images/s": images,
        "images/s/device": per_device,
        "flops/s/device": achieved,
        "mfu": achieved / peak if peak else None,
    }


def benchmark_model(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures each batch size, the smallest first, until one does not fit."""
    mode, rows = arguments.mode, []
    for batch_size in batch_sizes(arguments.batch):
        try:
            model, program = repeated_step(arguments, batch_size)
            times = measure(program, steps=arguments.steps, warmup=arguments.warmup)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(
                f"batch {batch_size} does not fit into the device's memory: lower "
                "--batch or raise --accumulate-steps",
                file=sys.stderr,
            )
            break
        row = {"model": arguments.model, "mode": mode, "batch_size": batch_size}
        row["dtype"] = jnp.dtype(model.dtype).name
        row |= times | rates(times, model, batch_size, mode)
        print(describe_model(row), flush=True)
        rows.append(row)
    return rows


def repeated_step(
    arguments: argparse.Namespace, batch_size: int
) -> tuple[AnyModel, RepeatedStep]:
    """The step or the forward pass of `--model`, as `configs/base.py` has it."""
    model_options = {
        "name": arguments.model,
        "dtype": arguments.dtype,
        "attention_implementation": arguments.attention,
    }
    if arguments.mode == "forward":
        model_options |= {"num_classes": CLASSES, "image_size": arguments.image_size}
        model = create_model(**model_options)
        return model, repeated_forward(model, batch_size)
    config = read_config("base", [])
    config.model.update(model_options)
    config.data.update(batch_size=batch_size, image_size=arguments.image_size)
    config.eval.batch_size = batch_size
    config.train.accumulate_steps = arguments.accumulate_steps
    config.train.duration = "100000steps"  # longer than the warm-up
    return repeated_training(config, CLASSES)


def batch_sizes(text: str) -> list[int]:
    """The numbers of a comma list, the smallest first: later peaks are then larger.

    Raises:
        ValueError: not a list of positive integers.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--batch={text}: wanted positive integers, such as 8,16,32")
    return sorted(int(part) for part in parts)


def describe_model(row: dict[str, Any]) -> str:
    """The figures of one batch size as three lines of text."""
    spread = f"{1e3 * row['step_min']:.1f}-{1e3 * row['step_max']:.1f}"
    mfu = "" if row["mfu"] is None else f", MFU {100 * row['mfu']:.1f} %"
    if row["peak_bytes"] is None:
        memory = f"{row['program_bytes'] / 2**30:.2f} GiB (by the compiler)"
    else:
        memory = f"{row['peak_bytes'] / 2**30:.2f} GiB at most"
    return (
        f"{row['model']} {row['mode']} {row['dtype']}, batch {row['batch_size']}: "
        f"{row['images/s']:.1f} images/s, {row['images/s/device']:.1f} a device\n"
        f"  step {1e3 * row['step']:.1f} ms ({spread}), "
        f"{row['flops/s/device'] / 1e12:.3f} TFLOP/s a device{mfu}\n"
        f"  first step after {row['trace']:.1f} s trace, {row['compile']:.1f} s "
        f"compile, {row['first_step']:.1f} s run; memory of a device: {memory}"
    )


def benchmark_config(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures the step of a config with its own input."""
    config = read_config(arguments.config, arguments.overrides)
    row = {
        "config": arguments.config,
        "overrides": arguments.overrides,
        "batch_size": config.data.batch_size,
    }
    row |= measure_with_input(config, steps=arguments.steps)
    for name, words in (
        ("step", "step alone"),
        ("input", "input alone"),
        ("both", "both together"),
    ):
        spread = f"{1e3 * row[name + '_min']:.1f}-{1e3 * row[name + '_max']:.1f}"
        rate = row["batch_size"] / row[name]
        print(f"{words:13}  {1e3 * row[name]:.1f} ms ({spread}), {rate:.1f} images/s")
    print(f"the input adds {100 * row['added']:.1f} % to the time of the step")
    return [row]


def main(arguments: argparse.Namespace) -> None:
    """Measures, prints, and writes `--json`."""
    given = [name for name in DEFAULTS if getattr(arguments, name) is not None]
    if arguments.config and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} goes with --model; with --config "
            "override the config, as in --config.data.batch_size=64"
        )
    if arguments.model and arguments.overrides:
        raise ValueError(f"{arguments.overrides[0]} goes with --config, not --model")
    if arguments.mode == "forward" and "accumulate_steps" in given:
        raise ValueError("--accumulate-steps goes with --mode train: leave it out")
    if arguments.steps < GROUPS:
        raise ValueError(f"--steps must be at least {GROUPS}, got {arguments.steps}")
    for name, value in DEFAULTS.items():
        if name not in given:
            setattr(arguments, name, value)
    if arguments.json:
        output.check(as_path(arguments.json))
    # A program from the cache would make the compilation look free.
    jax.config.update("jax_enable_compilation_cache", False)
    device = jax.devices()[0]
    print(f"{jax.device_count()} x {device.device_kind}, JAX {jax.__version__}")
    run = benchmark_config if arguments.config else benchmark_model
    rows = run(arguments)
    if arguments.json:
        report = {
            "device": device.device_kind,
            "devices": jax.device_count(),
            "versions": versions(),
            "results": rows,
        }
        output.write(as_path(arguments.json), json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = command_parser("vit_jax.benchmark", __doc__)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="such as ViT-B/16, on one synthetic batch")
    subject.add_argument("--config", help=f"{CONFIG_HELP}; on its data")
    parser.add_argument("--batch", help="batch sizes over all devices, such as 8,16")
    parser.add_argument(
        "--image-size", type=image_size, metavar="HxW", help="or a side (224)"
    )
    parser.add_argument("--mode", choices=("train", "forward"))
    parser.add_argument("--dtype", help="auto, float32, bfloat16 or float16")
    parser.add_argument(
        "--accumulate-steps", type=flag(Positive), help="pieces of the batch"
    )
    parser.add_argument("--attention", help="auto, xla or cudnn")
    parser.add_argument(
        "--steps", type=flag(Positive), default=20, help="steps that are timed"
    )
    parser.add_argument(
        "--warmup", type=flag(Number), default=3, help="steps before those"
    )
    parser.add_argument("--json", help="file for the figures")
    run_command(parser, main)
