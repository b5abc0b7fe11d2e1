"""Our training step compiled for an H100, beside one written by hand, on paper.

    python -m benchmarks.accelerators.handwritten
    python -m benchmarks.accelerators.handwritten --models ViT-B/16 --variants plain

Compiles the step of `configs/imagenet.py` for one card that this machine need not have,
variant by variant, and compares bytes, temporaries and number of kernels with those of
`vit_jax/planning/handwritten.py`. Saves each row in `docs/results/handwritten.jsonl`
and writes `docs/accelerators.md`. Nothing runs, so nothing is timed. Needs the CUDA
wheels of jax.
"""

import argparse
import math
import time
from importlib import metadata

import jax

from benchmarks.accelerators.__main__ import kept_rows, write
from benchmarks.accelerators.beside import cells
from benchmarks.accelerators.rows import HANDWRITTEN, Row, read, save
from experiments.lab.command import hardware
from vit_jax.cli import run_command
from vit_jax.config import resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.flags import BatchSize, flag
from vit_jax.planning.deviceless import cudnn_for
from vit_jax.planning.handwritten import handwritten_step
from vit_jax.planning.hlo import parse, walk
from vit_jax.planning.program import analyze, starts_kernel
from vit_jax.planning.topology import cards
from vit_jax.training.setup import build_program

COMPILERS = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13")
# Overrides of the config, which is without dropout otherwise.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "GAP": ("model.pooling=gap",),
    "xla attention": ("model.attention_implementation=xla",),
    "scan": ("model.scan=true",),
    "remat dots": ("model.remat=dots",),
    "dropout 0.1": ("model.dropout_rate=0.1",),
}


def compiled_row(model: str, batch_size: int, variant: str) -> Row:
    """Figures of a variant, ours and those of the best, of one device."""
    devices = cards("1xH100")
    overrides = (f"data.batch_size={batch_size}", "model.dropout_rate=0.0")
    flags = [f"--config.{text}" for text in (*overrides, *VARIANTS[variant])]
    config = read_config(f"configs/imagenet.py:{model}", flags)
    with cudnn_for(devices):
        program = build_program(
            config,
            num_classes=1000,
            lengths=resolve_lengths(config, 1_281_167),
            devices=devices,
        )
        arguments = program.state, program.batch, program.keys
        lowered = program.train_step.lower(*arguments)
    begun = time.monotonic()
    compiled = lowered.compile()
    seconds = time.monotonic() - begun
    leaves = jax.tree.leaves(program.state.params)
    parameters = sum(math.prod(leaf.shape) for leaf in leaves)
    best = handwritten_step(program.model, batch_size, parameters)
    steps = walk(parse(compiled.as_text()))
    return {
        "model": model,
        "batch": batch_size,
        "variant": variant,
        "ours": {
            "moved": analyze(compiled, program.mesh).hbm_bytes,
            "kept": compiled.memory_analysis().temp_size_in_bytes,
            "kernels": sum(step.times for step in steps if starts_kernel(step)),
        },
        "best": best._asdict(),
        "seconds": seconds,
        "versions": {name: metadata.version(name) for name in COMPILERS},
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main(arguments: argparse.Namespace) -> None:
    """The command: compiles, saves rows, writes the document."""
    key = ("model", "batch", "variant")
    rows = {tuple(row[name] for name in key): row for row in read(HANDWRITTEN)}
    for model in arguments.models:
        for batch_size in arguments.batch_sizes:
            for variant in arguments.variants:
                row = compiled_row(model, batch_size, variant)
                jax.clear_caches()
                rows[model, batch_size, variant] = row
                print("| " + " | ".join(cells(row)) + " |", flush=True)
                save(HANDWRITTEN, sorted(rows.values(), key=place))
    write(kept_rows())


def place(row: Row) -> tuple[str, int, int]:
    """Where a row is in the table."""
    return row["model"], row["batch"], list(VARIANTS).index(row["variant"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerators.handwritten",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["ViT-B/16", "ViT-L/16"])
    parser.add_argument(
        "--batch-sizes", nargs="+", type=flag(BatchSize), default=[64, 256]
    )
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
    )
    run_command(parser, main)
