"""From a config to all that the training loop needs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from vit_jax.config import (
    Lengths,
    check_config,
    chosen,
    resolve_lengths,
    without_every,
)
from vit_jax.data.pipeline import Data
from vit_jax.data.record_list import describe
from vit_jax.evaluation.means import EvalStep, Evaluator
from vit_jax.models import AnyModel, create_model, init_params
from vit_jax.parallel import placement, sharding
from vit_jax.parallel.determinism import compiler_options
from vit_jax.storage.run_files import RecordList
from vit_jax.training.guard import Guard
from vit_jax.training.labels import ONE_LABEL, Labels, read_labels
from vit_jax.training.metrics import check_installed
from vit_jax.training.objectives import make_objective
from vit_jax.training.optim import make_optimizer, make_schedule
from vit_jax.training.sections import config_sections, evaluator_class, ranked_split
from vit_jax.training.step import (
    Batch,
    Metrics,
    Objective,
    Params,
    RandomKeys,
    TrainState,
    TrainStep,
    initial_state,
    make_train_step,
    named_keys,
)


class Program(NamedTuple):
    """What runs on the devices, for a config: nothing is computed until it is called.

    Attributes:
        state, batch, keys: the arguments of `train_step` as shapes with shardings.
            With the batch come the parameters of a teacher, if there is one.
        make_keys: draws the keys.
        draw: draws the parameters with one of them, each device its own piece.
        init_state: does both; or takes over the memory of the parameters it is given.
        train_step, eval_step: compiled at their first call; the former takes over the
            memory of the state.
        teacher: the model that the step also runs, forward, if there is one.
    """

    model: AnyModel
    mesh: jax.sharding.Mesh
    state: TrainState
    batch: Batch
    keys: RandomKeys
    make_keys: Callable[[], RandomKeys]
    draw: Callable[[jax.Array], Params]
    init_state: Callable[..., TrainState]
    train_step: TrainStep
    eval_step: Callable[[Params, Batch], Metrics]
    teacher: AnyModel | None


def build_program(
    config: ml_collections.ConfigDict,
    *,
    num_classes: int,
    lengths: Lengths,
    labels: Labels = ONE_LABEL,
    devices: Sequence[Any] | None = None,
) -> Program:
    """Builds model, optimizer and steps; needs no data.

    Args:
        labels: how many an image has, and the weights of their classes.
        devices: all devices of all processes if None; or those to compile for.

    Raises:
        ValueError: the config cannot be used.
    """
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    train, batch_size = config.train, config.data.batch_size
    sharding.check_batch("data.batch_size", batch_size, mesh, train.accumulate_steps)
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)
    platform = mesh.abstract_mesh.abstract_device.platform
    model, objective, eval_step = build_model(config, num_classes, platform, labels)

    make_keys = functools.partial(named_keys, config.seed)
    draw = functools.partial(init_params, model)
    keys = jax.eval_shape(make_keys)
    params = jax.eval_shape(draw, keys.params)
    optim = {**config.optim, "warmup": lengths.warmup, "cooldown": lengths.cooldown}
    optimizer, schedule = build_optimizer(optim, params, lengths.total)
    train_step = build_step(config, objective, optimizer, schedule)

    start = functools.partial(
        initial_state, optimizer=optimizer, average=train.ema_decay > 0
    )
    shapes = jax.eval_shape(start, params)
    placed = sharding.state_shardings(shapes, params, mesh)
    everywhere = sharding.replicated(mesh)
    options = compiler_options(platform, train.deterministic)
    jit = functools.partial(jax.jit, compiler_options=options)
    make_keys = jit(make_keys, out_shardings=everywhere)
    draw = jit(draw, out_shardings=placed.params)
    # Parameters become a part of the state: twice, they would not fit.
    start = jit(start, out_shardings=placed, donate_argnums=0)

    several = num_classes if labels.several else 0
    batch = abstract_batch(batch_size, model.image_size, mesh, several)
    if objective.teacher is not None:
        batch["teacher"] = abstract_params(objective.teacher, mesh)

    def init_state(params: Params | None = None) -> TrainState:
        if params is None:
            return start(draw(make_keys().params))
        return start(placement.place(params, placed.params))

    return Program(
        model,
        mesh,
        sharding.abstract(shapes, placed),
        batch,
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), keys
        ),
        make_keys,
        draw,
        init_state,
        jit(
            sharding.on_mesh(train_step, mesh),
            donate_argnums=0,
            out_shardings=(placed, everywhere),
        ),
        jit(
            sharding.on_mesh(eval_step, mesh),
            out_shardings=everywhere,
        ),
        objective.teacher,
    )


def build_model(
    config: ml_collections.ConfigDict,
    num_classes: int,
    platform: str,
    labels: Labels = ONE_LABEL,
) -> tuple[AnyModel, Objective, EvalStep]:
    """The model, what it learns, and how it is evaluated.

    Args:
        platform: of the devices, "cpu", "gpu" or "tpu": decides `model.dtype="auto"`.

    Raises:
        ValueError: the config cannot be used.
    """
    options = dict(config.model)
    if options["dtype"] == "auto":
        options["dtype"] = "float32" if platform == "cpu" else "bfloat16"
    image_size = tuple(config.data.image_size)
    model = create_model(**options, num_classes=num_classes, image_size=image_size)
    return make_objective(model, config.loss, config.mix, labels, **config.objective)


def build_optimizer(
    optim: Mapping[str, Any], params: Params, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of the section `optim`, and its schedule, which is logged.

    Args:
        optim: as in the config, but `warmup` and `cooldown` in steps.
        params: the parameter tree, or its shapes.
    """
    rate = make_schedule(total_steps=total_steps, **chosen(optim, make_schedule))
    return make_optimizer(params, rate, **chosen(optim, make_optimizer)), rate


def build_step(
    config: ml_collections.ConfigDict,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> TrainStep:
    """The pure step of training that a config describes."""
    return make_train_step(
        objective,
        optimizer,
        schedule,
        Guard(**config.guard),
        **chosen(config.train, make_train_step),
    )


def abstract_batch(
    batch_size: int,
    image_size: tuple[int, int],
    mesh: jax.sharding.Mesh,
    several: int = 0,
) -> dict[str, Any]:
    """A training batch as shapes; `several` classes, if there are several labels."""
    divided = sharding.batch_sharding(mesh)
    label = ((batch_size,), jnp.int32)
    if several:
        label = ((batch_size, several), jnp.uint8)
    arrays = {"image": ((batch_size, *image_size, 3), jnp.uint8), "label": label}
    return {
        name: jax.ShapeDtypeStruct(*array, sharding=divided)
        for name, array in arrays.items()
    }


def abstract_params(model: AnyModel, mesh: jax.sharding.Mesh) -> Params:
    """A model's parameters as shapes with shardings."""
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    return sharding.abstract(shapes, sharding.state_shardings(shapes, shapes, mesh))


def lower_evaluation(program: Program, batch_size: int) -> jax.stages.Lowered:
    """`eval_step` to be compiled: before the first evaluation, or for a plan."""
    placement = sharding.batch_sharding(program.mesh)
    size, several = program.model.image_size, program.batch["label"].shape[1:]
    batch = abstract_batch(batch_size, size, program.mesh, *several)
    batch |= {
        name: jax.ShapeDtypeStruct((batch_size,), dtype, sharding=placement)
        for name, dtype in (("mask", jnp.bool_), ("index", jnp.int32))
    }
    return program.eval_step.lower(program.state.params, batch)


class Setup(NamedTuple):
    """What a config describes, built: all that the loop needs.

    Attributes:
        records: what each split holds, see `data/record_list.py`.
        label_names: one for each output of the model; none if it has no head.
        labels: how many an image has, and the weights of their classes.
        ranked: the evaluation by which checkpoints are kept as the best.
        teacher: what each batch has besides the data: a teacher's parameters, or none.
    """

    data: Data
    records: dict[str, RecordList]
    label_names: tuple[str, ...]
    labels: Labels
    lengths: Lengths
    program: Program
    evaluators: dict[str, Evaluator]
    ranked: str
    teacher: Batch


def build(config: ml_collections.ConfigDict) -> Setup:
    """Builds data, model, optimizer and the compiled steps from a config.

    Raises:
        ValueError: the config cannot be used; one sentence says why.
    """
    check_config(config, config_sections())
    data = Data(**config.data)
    label_names = data.label_names()
    data.check_splits(config.eval.splits)
    lengths = resolve_lengths(config, data.num_examples())
    check_installed(**without_every(config.log))
    ranked = ranked_split(config, "checkpoint", config.eval.splits[0])
    labels, classes = read_labels(config, data), len(label_names)
    program = build_program(config, num_classes=classes, lengths=lengths, labels=labels)
    if not program.model.num_classes:
        label_names = ()
    evaluators = {
        name: evaluator_class(name)(
            program.model, data, program.mesh, **without_every(config[name])
        )
        for name in lengths.evaluators
    }
    teacher = {}
    if "teacher" in program.batch:
        from vit_jax.training.distillation import load_teacher

        path, size = config.objective.teacher, program.model.image_size
        teacher["teacher"] = load_teacher(path, size, label_names, program.mesh)
    splits = (data.split, *config.eval.splits)
    return Setup(
        data,
        {split: describe(data, split) for split in splits},
        label_names,
        labels,
        lengths,
        program,
        evaluators,
        ranked,
        teacher,
    )
