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
import json
import math
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments.lab.command import hardware
from experiments.lab.tables import markdown_table
from vit_jax.cli import run_command
from vit_jax.config import resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.flags import BatchSize, flag
from vit_jax.planning.deviceless import cudnn_for
from vit_jax.planning.handwritten import handwritten_step
from vit_jax.planning.hlo import parse, walk
from vit_jax.planning.program import analyze, starts_kernel
from vit_jax.planning.topology import cards
from vit_jax.storage.paths import write_atomically
from vit_jax.training.setup import build_program

ROWS = Path("docs/results/handwritten.jsonl")
COMPILERS = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13")
# Overrides of the config; all but the last but one are without dropout, so that they
# have the same best.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "GAP": ("model.pooling=gap",),
    "xla attention": ("model.attention_implementation=xla",),
    "scan": ("model.scan=true",),
    "remat dots": ("model.remat=dots",),
    "dropout 0.1": ("model.dropout_rate=0.1",),
}
GIB = 2**30
Row = dict[str, Any]


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


def cells(row: Row) -> list[str]:
    """A line of the table: ours, the best, and the ratio, of each figure."""
    line = [row["model"], str(row["batch"]), row["variant"]]
    for key in ("moved", "kept"):
        ours, best = row["ours"][key], row["best"][key]
        line += [f"{ours / GIB:.2f}", f"{best / GIB:.2f}", f"{ours / best:.2f}"]
    ours, best = row["ours"]["kernels"], row["best"]["kernels"]
    return [*line, f"{ours:,}", f"{best:,}", f"{ours / best:.2f}"]


def section(rows: Iterable[Row]) -> str:
    """The part of `docs/accelerators.md`, "" without rows."""
    rows = list(rows)
    if not rows:
        return ""
    figures = ("GiB moved", "GiB of temporaries", "kernels")
    columns = ["model", "batch", "variant"]
    columns += [text for name in figures for text in (name, "by hand", "ratio")]
    table = markdown_table({"columns": columns, "rows": [cells(row) for row in rows]})
    days = sorted({(row["date"], row["hardware"]) for row in rows})
    pairs = {pair for row in rows for pair in row["versions"].items()}
    versions = ", ".join(" ".join(pair) for pair in sorted(pairs))
    return (
        "## Beside a step written by hand, one H100\n\n"
        "The step of `configs/imagenet.py` in bfloat16, without dropout unless a "
        "variant has it, compiled for one card by `python -m "
        "benchmarks.accelerators.handwritten`. By hand: flash attention, norms, GELU "
        "and residual stream fused, counted on paper by "
        "`vit_jax/planning/handwritten.py`. All launches count as kernels, copies too."
        f"\n\n{table}\n\nCompiled on "
        + ", ".join(" ".join(day) for day in days)
        + f": {versions}\n"
    )


def saved_rows() -> list[Row]:
    """The rows of earlier starts, in the order of the table."""
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    return [json.loads(line) for line in lines]


def main(arguments: argparse.Namespace) -> None:
    """The command: compiles, saves rows, writes the document."""
    from benchmarks.accelerators.__main__ import kept_rows, write

    key = ("model", "batch", "variant")
    rows = {tuple(row[name] for name in key): row for row in saved_rows()}
    for model in arguments.models:
        for batch_size in arguments.batch_sizes:
            for variant in arguments.variants:
                row = compiled_row(model, batch_size, variant)
                jax.clear_caches()
                rows[model, batch_size, variant] = row
                print("| " + " | ".join(cells(row)) + " |", flush=True)
                lines = "".join(json.dumps(row) + "\n" for row in rows.values())
                write_atomically(ROWS, lines)
    write(kept_rows())


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
