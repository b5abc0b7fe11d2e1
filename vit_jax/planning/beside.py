"""Memory of the programs beside the training step: the start, and the evaluation.

A checkpoint is put on the devices part by part and without a program
(`vit_jax/parallel/placement.py`), so that loading one needs no more than its parts.
"""

import time
from collections.abc import Callable
from typing import Any

import jax

from vit_jax.planning.deviceless import cudnn_for
from vit_jax.planning.estimate import memory_in_error
from vit_jax.planning.target import Target
from vit_jax.training.setup import Program, lower_evaluation


def memory_beside(
    program: Program, batch_size: int, target: Target
) -> list[dict[str, Any]]:
    """Compiles what draws the parameters and what evaluates them.

    Args:
        batch_size: images of a step of the evaluation.

    Returns:
        A row each: `program` its name; `arguments`, `outputs`, `temporaries` and `peak`
        in bytes of one device, of a program that the compiler refuses `peak` alone;
        `fits`, None where the memory is not known; `compile_seconds`.
    """
    return [
        row_of(
            "while the parameters are drawn",
            lambda: program.draw.lower(program.keys.params),
            target,
        ),
        row_of(
            f"in an evaluation of {batch_size} images a step",
            lambda: lower_evaluation(program, batch_size),
            target,
        ),
    ]


def row_of(
    name: str, lower: Callable[[], jax.stages.Lowered], target: Target
) -> dict[str, Any]:
    """One of the rows of `memory_beside`."""
    start = time.perf_counter()
    row: dict[str, Any] = {"program": name}
    with cudnn_for(target.devices):
        lowered = lower()
    try:
        found = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        peak, available = memory_in_error(error)
    else:
        row |= {
            "arguments": found.argument_size_in_bytes,
            "outputs": found.output_size_in_bytes - found.alias_size_in_bytes,
            "temporaries": found.temp_size_in_bytes,
        }
        # As of the step: XLA's own account is of use on TPUs alone.
        on_tpu = target.devices[0].platform == "tpu"
        sizes = row["arguments"], row["outputs"], row["temporaries"]
        peak = found.peak_memory_in_bytes if on_tpu else sum(sizes)
        available = target.memory
    fits = None if available is None else peak <= available
    seconds = time.perf_counter() - start
    return row | {"peak": peak, "fits": fits, "compile_seconds": seconds}
