"""The plan of a run: memory, compute and time, from its compiled training step.

The step is compiled for a TPU pod or GPUs of another machine, or for the devices of
this one. Nothing is computed and no data is read, so that runs of any size can be
planned anywhere.
"""

import copy
import math
import re
import time
from typing import Any

import jax
import ml_collections

from vit_jax.config import Lengths, check_config, resolve_lengths
from vit_jax.data.pipeline import Data
from vit_jax.planning.beside import memory_beside
from vit_jax.planning.deviceless import cudnn_for
from vit_jax.planning.estimate import (
    DATA_SETS,
    Roofline,
    advice,
    core_days,
    memory_in_error,
    memory_of,
    roofline,
)
from vit_jax.planning.flops import model_macs, training_flops
from vit_jax.planning.program import analyze
from vit_jax.planning.target import Target
from vit_jax.training.run_folder import versions
from vit_jax.training.sections import config_sections
from vit_jax.training.setup import Program, build_program


def data_facts(
    config: ml_collections.ConfigDict, examples: int | None, classes: int | None
) -> tuple[int, int]:
    """Number of training examples and of classes, if possible without the data.

    Raises:
        ValueError: the numbers are not given nor known, and the data cannot be read.
    """
    known = DATA_SETS.get(config.data.name)
    part = re.fullmatch(r"\w+(?:\[(\d*)(%?):(\d*)(%?)\])?", config.data.split)
    if known and part:
        unit = {"%": known[0] / 100, "": 1}
        start = float(part[1] or 0) * unit[part[2] or ""]
        stop = float(part[3]) * unit[part[4]] if part[3] else known[0]
        examples = examples or round(stop - start)
        classes = classes or known[1]
    if examples and classes:
        return examples, classes
    data = Data(**config.data)
    try:
        return examples or data.num_examples(), classes or len(data.label_names())
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(
            f"the size of the data set {config.data.name!r} is not known: give "
            f"--num-examples and --num-classes ({error})"
        ) from None


def plan_run(
    config: ml_collections.ConfigDict,
    target: Target,
    examples: int,
    classes: int,
    *,
    whole_run: bool = False,
) -> dict[str, Any]:
    """Compiles the training step of a config, and plans the run.

    Args:
        whole_run: also plan initialisation and evaluation, see `planning/beside.py`.

    Returns:
        Plain values, as `--json` writes them; sizes in bytes, times in seconds, all of
        one device. `program` is None if it does not fit.

    Raises:
        ValueError: the config cannot be used.
    """
    check_config(config, config_sections())
    lengths = resolve_lengths(config, examples)
    with cudnn_for(target.devices):
        program = build_program(
            config, num_classes=classes, lengths=lengths, devices=target.devices
        )
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(program.state.params))
    plan = {
        "target": target.name,
        "device_kind": target.devices[0].device_kind,
        "devices": len(target.devices),
        "mesh": dict(program.mesh.shape),
        "dtype": dtype_name(program),
        "num_classes": classes,
        "parameters": parameters,
        "batch_size": config.data.batch_size,
        "steps": lengths.total,
        "versions": versions(),
    }
    plan |= measure(config, target, program, lengths)
    if whole_run:
        plan["beside"] = memory_beside(program, config.eval.batch_size, target)
    return plan


def plan_batch(
    config: ml_collections.ConfigDict,
    batch_size: int,
    target: Target,
    facts: tuple[int, int],
) -> dict[str, Any]:
    """`plan_run` with another batch size; `facts` are those of `data_facts`."""
    config = copy.deepcopy(config)
    config.data.batch_size = batch_size
    # A larger batch means fewer steps, maybe fewer than those of the warm-up.
    config.optim.update(warmup="1%", cooldown="0steps")
    return plan_run(config, target, *facts)


def measure(
    config: ml_collections.ConfigDict,
    target: Target,
    program: Program,
    lengths: Lengths,
) -> dict[str, Any]:
    """The part of a plan that needs the compiled step."""
    start = time.perf_counter()
    with cudnn_for(target.devices):
        lowered = program.train_step.lower(program.state, program.batch, program.keys)
    traced = time.perf_counter()
    batch_size, count = config.data.batch_size, len(target.devices)
    model_flops = step_flops(program) * batch_size
    plan = {
        "trace_seconds": traced - start,
        "model_flops": model_flops / count,
        "total_flops": model_flops * lengths.total,
        "paper_core_days": core_days(model_flops * lengths.total / 1e18),
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = memory_in_error(error)
        memory = memory_of(program.state, program.batch, needed, 0, available)
        return plan | {
            "compile_seconds": time.perf_counter() - traced,
            "memory": memory._asdict() | {"fits": False, "share": 1.0},
            "advice": advice(config, memory, count),
            "program": None,
        }
    plan["compile_seconds"] = time.perf_counter() - traced
    sizes = compiled.memory_analysis()
    temporaries = sizes.temp_size_in_bytes
    temporaries += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    # On CPUs, XLA leaves the temporaries out of the peak.
    peak = sizes.peak_memory_in_bytes if target.devices[0].platform == "tpu" else 0
    memory = memory_of(program.state, program.batch, temporaries, peak, target.memory)
    costs = analyze(compiled, program.mesh)
    plan |= {
        "memory": memory._asdict() | {"fits": memory.fits, "share": target.share},
        "advice": [] if memory.fits is not False else advice(config, memory, count),
        "program": costs._asdict()
        | {"collectives": [row._asdict() for row in costs.collectives]},
    }
    if target.chip:
        least = roofline(
            target.chip,
            dtype_name(program),
            costs.flops,
            costs.hbm_bytes,
            costs.collectives,
        )
        plan["roofline"] = times(least, batch_size, lengths.total, count)
        plan["roofline"]["network_speed"] = least.network and target.chip.network
    return plan


def step_flops(program: Program) -> int:
    """Arithmetic of the model for an image, and of a teacher's forward pass."""
    flops = training_flops(model_macs(program.model))
    return flops + (2 * model_macs(program.teacher) if program.teacher else 0)


def times(least: Roofline, batch_size: int, steps: int, devices: int) -> dict[str, Any]:
    """Seconds of a step, and the duration of the run at that speed."""
    return least._asdict() | {
        "step": least.step,
        "bound": least.bound,
        "images/s": batch_size / least.step,
        "hours": least.step * steps / 3600,
        "device_days": least.step * steps * devices / 86400,
    }


def dtype_name(program: Program) -> str:
    return jax.numpy.dtype(program.model.dtype).name
