"""What would go wrong with the first step, found before the run folder is begun."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vit_jax.checkpoints.fingerprint import lower_examination
from vit_jax.config import ConfigError
from vit_jax.parallel import distributed
from vit_jax.training.setup import Setup, abstract_batch, lower_evaluation


def rehearse(config: ml_collections.ConfigDict, setup: Setup) -> None:
    """Checks the least memory that a run needs, and traces its steps.

    JAX keeps what it has traced, so that the first step does not do it again.

    Raises:
        ConfigError: state and the largest batch are larger than the memory of a device.
        ValueError: an option that the model finds wrong when it is applied.
    """
    program = setup.program
    sections = ("data", "eval", *setup.lengths.evaluators)
    size = max(config[section].batch_size for section in sections)
    largest = abstract_batch(size, program.model.image_size, program.mesh)
    check_memory((program.state, program.batch | largest), program.mesh)
    batch = program.batch | setup.teacher
    jax.eval_shape(program.train_step, program.state, batch, program.keys)
    lower_evaluation(program, config.eval.batch_size)


def compile_programs(config: ml_collections.ConfigDict, setup: Setup) -> None:
    """Compiles all that a run calls as it goes, or loads it from the cache of programs.

    Side by side: XLA does not hold up Python meanwhile, as tracing and lowering do.
    """
    distributed.say("compiling ...")
    begin = time.perf_counter()
    program = setup.program
    batch = program.batch | setup.teacher
    with ThreadPoolExecutor(max_workers=3) as pool:
        compiled = [
            pool.submit(lower().compile)
            for lower in (
                lambda: program.train_step.lower(program.state, batch, program.keys),
                lambda: lower_examination(program.state),
                lambda: lower_evaluation(program, config.eval.batch_size),
            )
        ]
    for each in compiled:
        each.result()
    distributed.say(f"compiled in {time.perf_counter() - begin:.0f} s")


def check_memory(arrays: Any, mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError for arrays that are larger than the memory of a device.

    Args:
        arrays: ShapeDtypeStructs with shardings, which are there at the same time;
            activations and gradients come on top.
    """
    needed = sum(map(bytes_on_a_device, jax.tree.leaves(arrays)))
    there = memory_of(mesh.devices.flat[0])
    if needed > there > 0:
        raise ConfigError(
            f"the parameters, the optimizer and the batches need {needed / 2**30:,.1f} "
            f"GiB of each device, which has {there / 2**30:,.1f}: lower what is too "
            "large of model.width, model.mlp_dim, model.depth, model.num_registers, "
            "data.image_size and the batch_size of each section, or divide it over "
            "more devices by mesh.fsdp"
        )


def bytes_on_a_device(array: jax.ShapeDtypeStruct) -> int:
    """The bytes of an array's part on one device."""
    sharding = array.sharding
    shape = sharding.shard_shape(array.shape) if sharding else array.shape
    return math.prod(shape) * getattr(array.dtype, "itemsize", 1)


def memory_of(device: Any) -> int:
    """The bytes of memory of a device; 0 if not known.

    On CPUs of the whole machine, with what it may swap: what is refused cannot run.
    """
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit", 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    facts = dict(line.split(":", 1) for line in lines)
    kibibytes = (facts[key].split()[0] for key in ("MemTotal", "SwapTotal"))
    return 1024 * sum(map(int, kibibytes))
