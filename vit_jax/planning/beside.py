"""Memory of the programs beside the training step: initialisation and evaluation.

Loading a checkpoint runs no program: its arrays are placed on the devices one by one
(`vit_jax/parallel/placement.py`).
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
    """Compiles the programs that draw the parameters and that evaluate them.

    Args:
        batch_size: images of an evaluation step.

    Returns:
        A row for each: `program`, its name; `arguments`, `outputs`, `temporaries` and
        `peak` in bytes of one device, only `peak` if the compiler refuses the program;
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
        sizes = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        peak, available = memory_in_error(error)
    else:
        row |= {
            "arguments": sizes.argument_size_in_bytes,
            "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
        }
        # XLA's own figure of the peak is of use on TPUs only.
        on_tpu = target.devices[0].platform == "tpu"
        total = row["arguments"] + row["outputs"] + row["temporaries"]
        peak = sizes.peak_memory_in_bytes if on_tpu else total
        available = target.memory
    fits = None if available is None else peak <= available
    seconds = time.perf_counter() - start
    return row | {"peak": peak, "fits": fits, "compile_seconds": seconds}
