"""Memory and communication of configs on an H100 and a TPU v5e, without either.

    make accelerators
    python -m benchmarks.accelerators --device H100 --only ViT-B/16

Lowers the training step of each run of `cases.py` for both, compiles those with a
name, each in a process of its own, and writes `docs/accelerators.md`. Each row is saved
at once in `docs/results/accelerators.jsonl`; a saved program is not compiled again
unless the lowered program or the compilers change. The table names runs that cannot be
lowered or compiled, and the command then ends with exit code 1.
"""

import argparse
import functools
import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerators import beside, rows
from benchmarks.accelerators.cases import (
    CASES,
    Case,
    absent_program,
    config_of,
    facts_of,
    label,
    target_of,
)
from benchmarks.accelerators.rows import Row
from benchmarks.accelerators.table import report
from experiments.lab.command import hardware
from vit_jax.cli import run_command
from vit_jax.planning.deviceless import ABSENT, lower
from vit_jax.planning.largest_batch import batch_unit, largest_batch
from vit_jax.planning.run_plan import plan_batch
from vit_jax.planning.target import find_target
from vit_jax.storage.paths import write_atomically

REPORT = Path("docs/accelerators.md")
COMPILERS = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "libtpu")
# Seconds of compilation beyond which no larger batch is searched, as that takes about
# five more compilations.
LONGEST = 120


def lowered_row(case: Case, kind: str) -> Row:
    """A row without a plan: a hash of the lowered program, or an error."""
    row = {
        "case": label(case),
        "name": case.compiled,
        "target": target_of(case, kind),
        "versions": {name: metadata.version(name) for name in COMPILERS},
    }
    try:
        program = absent_program(case, kind)
        arguments = program.state, program.batch, program.keys
        text = lower(program.train_step, *arguments, mesh=program.mesh).as_text()
    # Whatever error it is, the table shows it.
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    finally:
        jax.clear_caches()
    return row | {"program": hashlib.sha256(text.encode()).hexdigest()[:16]}


def compiled_row(row: Row) -> Row:
    """The row with its plan or an error, compiled in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.accelerators"]
    command += ["--compile", row["name"], "--target", row["target"]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return row | {"error": f"{last[0]} (exit code {result.returncode})"}
    facts = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    return row | facts | {"plan": json.loads(result.stdout.splitlines()[-1])}


def compile_case(name: str, target: str) -> None:
    """Compiles one case and prints its plan as JSON; runs in a process of its own.

    `largest_batch` is None where compilation takes too long to search it.

    Raises:
        ValueError: not even 8 images a device fit.
    """
    # Without the cache, so that the time of compilation is real.
    jax.config.update("jax_enable_compilation_cache", False)
    (case,) = (case for case in CASES if case.compiled == name)
    config, is_tpu = config_of(case), ":" in target
    devices = find_target(target if is_tpu else None, None if is_tpu else target)
    facts = facts_of(config)

    @functools.cache
    def plan_of(batch_size: int) -> dict[str, Any]:
        return plan_batch(config, batch_size, devices, facts)

    plan = plan_of(config.data.batch_size)
    largest = None
    if plan["compile_seconds"] < LONGEST:
        unit = batch_unit(config, devices.devices)
        show = functools.partial(print, file=sys.stderr)
        largest = largest_batch(plan_of, unit, show)["batch_size"]
    print(json.dumps(plan | {"largest_batch": largest}))


def kept_rows() -> dict[tuple[str, str], Row]:
    """The saved rows by case and target; the last one wins."""
    return {(row["case"], row["target"]): row for row in rows.read(rows.RUNS)}


def is_same(old: Row, new: Row) -> bool:
    """Whether a saved row has the same program and compilers, and is no failure."""
    same = all(old.get(key) == new[key] for key in ("program", "versions", "name"))
    return same and "error" not in old and bool(new["name"]) == ("plan" in old)


def chosen(only: list[str] | None) -> list[Case]:
    """All cases, or those with these names.

    Raises:
        ValueError: no case has this name.
    """
    names = [case.compiled for case in CASES if case.compiled]
    for name in only or []:
        if name not in names:
            raise ValueError(f"--only={name}: wanted one of {'; '.join(names)}")
    return [case for case in CASES if not only or case.compiled in only]


def check_compilers() -> None:
    """Raises ImportError unless both compilers are installed."""
    for package in ("jax_cuda13_plugin", "libtpu"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"compiling for both takes {package}, which is not here: `make "
                'accelerators` installs it, or pip install "vit_jax[cuda,tpu]"'
            )


def main(arguments: argparse.Namespace) -> None:
    """The command: lowers, compiles, writes the table."""
    if arguments.compile:
        compile_case(arguments.compile, arguments.target)
        return
    check_compilers()
    jax.config.update("jax_platforms", "cpu")
    cases, runs, failed = chosen(arguments.only), kept_rows(), 0
    kinds = [arguments.device] if arguments.device else list(ABSENT)
    for case in cases:
        for kind in kinds:
            start, row = time.monotonic(), lowered_row(case, kind)
            key = row["case"], row["target"]
            if "error" not in row and is_same(runs.get(key, {}), row):
                row, done = runs[key], "kept"
            elif "error" not in row and case.compiled:
                row, done = compiled_row(row), "compiled"
            else:
                done = "lowered"
            failed += "error" in row
            runs[key] = row
            write(runs)
            text = row.get("error", f"{done}, {time.monotonic() - start:.0f} s")
            print(f"{row['target']:10} {row['case']}: {text}", flush=True)
    print(f"{REPORT}: {len(cases)} runs, {failed} failures")
    if failed:
        raise ValueError(f"{failed} programs cannot be lowered or compiled: {REPORT}")


def write(runs: dict[tuple[str, str], Row]) -> None:
    """Writes the rows of existing cases in their order, and the document."""
    order = [(label(c), target_of(c, kind)) for c in CASES for kind in ABSENT]
    kept = [runs[key] for key in order if key in runs]
    rows.save(rows.RUNS, kept)
    whole = report(kept, rows.read(rows.BIG_VISION))
    parts = (whole, beside.section(rows.read(rows.HANDWRITTEN)))
    write_atomically(REPORT, "\n".join(filter(None, parts)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerators",
        description="Compile the runs of configs/ for an H100 and a TPU v5e.",
    )
    parser.add_argument("--only", action="append", help="name of a compiled run")
    parser.add_argument("--device", choices=ABSENT, help="for this one alone")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    run_command(parser, main)
