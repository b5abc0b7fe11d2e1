"""What a run prints before its first step: data, model, devices, schedule, folder."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from vit_jax.models import AnyModel, model_options
from vit_jax.training.setup import Program, Setup


def start_block(config: ml_collections.ConfigDict, setup: Setup, workdir: Path) -> str:
    """Lines that say what is about to be trained, on what, and for how long."""
    program = setup.program
    lines = {
        "data": setup.data.in_words((setup.data.split, *config.eval.splits)),
        "model": f"{config.model.name}: {model_line(program)}",
    }
    if program.teacher is not None:
        lines["teacher"] = teacher_line(program.teacher, setup, config)
    lines |= {
        "devices": devices_line(program.mesh),
        "precision": precision_line(program.model),
        "schedule": schedule_line(config, setup),
        "run folder": str(workdir),
    }
    return "\n".join(f"{name:10}  {text}" for name, text in lines.items())


def model_line(program: Program) -> str:
    """Parameters, and how an image is cut."""
    model = program.model
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(program.state.params))
    height, width = model.image_size
    text = f"{count:,} parameters, images of {height} x {width} pixels"
    if patch := getattr(model, "patch_size", None):
        text += f", patches of {patch} x {patch}"
    return text


def teacher_line(
    teacher: AnyModel, setup: Setup, config: ml_collections.ConfigDict
) -> str:
    """Its architecture and size, and where it is."""
    name = model_options(teacher)["name"]
    count = sum(x.size for x in jax.tree.leaves(setup.teacher))
    return f"{name}: {count:,} parameters, of {config.objective.teacher}"


def devices_line(mesh: jax.sharding.Mesh) -> str:
    """How many of which kind, and how the mesh divides them."""
    device = mesh.devices.flat[0]
    text = f"{mesh.devices.size} x {device.device_kind}"
    axes = [f"{name}={size}" for name, size in mesh.shape.items() if size > 1]
    if axes:
        text += f", mesh {' '.join(axes)}"
    if jax.process_count() > 1:
        text += f", {jax.process_count()} processes"
    return text


def precision_line(model: AnyModel) -> str:
    """The types of the computation and of what is stored."""
    return f"{jnp.dtype(model.dtype).name} computation, float32 parameters"


def schedule_line(config: ml_collections.ConfigDict, setup: Setup) -> str:
    """Steps, batch, epochs, optimizer and learning rate."""
    total, batch = setup.lengths.total, config.data.batch_size
    epochs = total * batch / setup.data.num_examples()
    optim = config.optim
    return (
        f"{total:,} steps of {batch:,} images, {epochs:.3g} epochs; {optim.name}, "
        f"learning rate {optim.learning_rate:g} {optim.schedule}, "
        f"warm-up to step {setup.lengths.warmup:,}"
    )
