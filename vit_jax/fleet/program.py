"""The compiled programs of a fleet: several steps of several runs in one call.

The step is that of `training/step.py`, as `training/setup.py` makes it for any run.
Everything in which the runs differ is an argument: parameters, random keys, examples,
learning rates of each step, weight decay.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from vit_jax.config import chosen, keywords, lists_to_tuples
from vit_jax.data.device_augment import make_augment
from vit_jax.data.pipeline import Data
from vit_jax.models import AnyModel, init_params
from vit_jax.parallel import sharding
from vit_jax.parallel.determinism import compiler_options
from vit_jax.training.optim import make_optimizer, make_schedule
from vit_jax.training.setup import build_model, build_step
from vit_jax.training.step import (
    Batch,
    Metrics,
    Params,
    RandomKeys,
    TrainState,
    initial_state,
    named_keys,
)

# Keys that do not enter the compiled programs; `program_key` treats `data`.
MEMBER_SECTIONS = (
    "seed",
    "init",
    "resample",
    "eval",
    "sweep",
    "checkpoint",
    "log",
    "mesh",
)
MEMBER_KEYS = {
    "optim": (*keywords(make_schedule), "weight_decay"),
    "train": ("duration", "step_timeout"),
}


class Inputs(NamedTuple):
    """The inputs of a dispatch of at most k steps for all runs of a fleet.

    Attributes:
        batch: image uint8 (k, runs, b, h, w, 3), label int32 (k, runs, b).
        rates: learning rates, float32 (k, runs).
    """

    batch: Batch
    rates: jax.Array


class FleetKeys(NamedTuple):
    """The random keys of a run: for its steps, and for the augmentation."""

    step: RandomKeys
    augment: jax.Array


class FleetProgram(NamedTuple):
    """The functions that run on the device, compiled at their first call.

    Attributes:
        state: shapes with shardings of the state of one run.
        draw: `seed -> Params`, the same as for an ordinary run.
        start: `Params -> TrainState` of one run.
        make_keys: `seed -> FleetKeys`.
        run: `(states, inputs, keys, decays, count) -> (states, metrics)`: the first
            `count` steps of the inputs; metrics are arrays (k, runs).
        evaluate: `(params, batch) -> sums`, the batch the same for all runs.
    """

    model: AnyModel
    mesh: jax.sharding.Mesh
    state: TrainState
    draw: Callable[[jax.Array], Params]
    start: Callable[[Params], TrainState]
    make_keys: Callable[[jax.Array], FleetKeys]
    run: Callable[..., tuple[TrainState, Metrics]]
    evaluate: Callable[[Params, Batch], Metrics]


def program_key(config: ml_collections.ConfigDict) -> str:
    """The part of a config that the compiled programs depend on, as JSON."""
    values = json.loads(config.to_json())
    for section in MEMBER_SECTIONS:
        values.pop(section, None)
    for section, keys in MEMBER_KEYS.items():
        for key in keys:
            values[section].pop(key, None)
    data = Data(**config.data)
    kept = ("batch_size", "image_size", "crop", "crop_area", "object_size")
    kept += ("scramble", "scramble_patch")
    values["data"] = {key: getattr(data, key) for key in kept}
    values["data"]["flip"] = "on" if data.flips() else "off"
    return json.dumps(values, sort_keys=True)


@functools.lru_cache(maxsize=16)
def make_program(
    key: str, num_classes: int, slots: int, steps: int, device: Any = None
) -> FleetProgram:
    """Builds the programs for `slots` runs at once, or takes them from the cache.

    Args:
        key: the result of `program_key`.
        steps: most steps of a dispatch.
        device: the device to compile for; the first one of this process if None.
    """
    config = ml_collections.ConfigDict(lists_to_tuples(json.loads(key)))
    device = device or jax.local_devices()[0]
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=[device])
    model, objective, eval_step = build_model(config, num_classes, device.platform)
    augment = make_augment(Data(name="", **config.data))

    def optimizer_of(params: Params, rate: optax.Schedule, decay: jax.Array) -> Any:
        options = chosen(config.optim, make_optimizer)
        options["weight_decay"] = decay
        return make_optimizer(params, rate, **options)

    def step(state, batch, keys, rate, decay):
        image = augment(jax.random.fold_in(keys.augment, state.step), batch["image"])
        schedule = optax.constant_schedule(rate)
        optimizer = optimizer_of(state.params, schedule, decay)
        train_step = build_step(config, objective, optimizer, schedule)
        return train_step(state, batch | {"image": image}, keys.step)

    def start(params: Params) -> TrainState:
        optimizer = optimizer_of(params, optax.constant_schedule(0.0), jnp.zeros(()))
        return initial_state(params, optimizer, average=config.train.ema_decay > 0)

    def draw(seed: jax.Array) -> Params:
        return init_params(model, named_keys(seed).params)

    side_by_side = jax.vmap if slots > 1 else one_by_one

    def evaluate(params: Params, batch: Batch) -> Metrics:
        return side_by_side(lambda own: eval_step(own, batch))(params)

    shapes = jax.eval_shape(start, jax.eval_shape(draw, 0))
    placed = jax.tree.map(lambda _: sharding.replicated(mesh), shapes)
    run = sharding.on_mesh(many_steps(side_by_side(step), steps), mesh)
    options = compiler_options(device.platform, config.train.deterministic)
    jit = functools.partial(jax.jit, compiler_options=options)
    return FleetProgram(
        model,
        mesh,
        sharding.abstract(shapes, placed),
        jit(draw),
        jit(start),
        # Within `vmap` there may be no options; and there is nothing to choose here.
        jax.jit(make_keys),
        jit(run, donate_argnums=0),
        jit(sharding.on_mesh(evaluate, mesh)),
    )


def make_keys(seed: jax.Array) -> FleetKeys:
    # `named_keys` splits the seed, which is folding in 0, 1, ...: this is far from it.
    augment_key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
    return FleetKeys(named_keys(seed), augment_key)


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap` over an axis of length 1, without batched products, slow on CPUs."""

    def single(*arguments: Any) -> Any:
        results = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], results)

    return single


def many_steps(
    step: Callable[..., tuple[TrainState, Metrics]], steps: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Repeats a step of all runs: `FleetProgram.run`.

    The number of steps is an argument, so that a last, shorter dispatch before an
    evaluation needs no other program.
    """

    def one(states, inputs, keys, decays, number):
        batch, rates = jax.tree.map(lambda x: x[number], inputs)
        return step(states, batch, keys, rates, decays)

    def run(states, inputs, keys, decays, count):
        if steps == 1:
            states, metrics = one(states, inputs, keys, decays, 0)
            return states, jax.tree.map(lambda x: x[None], metrics)
        shapes = jax.eval_shape(one, states, inputs, keys, decays, 0)[1]
        rows = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), shapes)

        def body(number, carry):
            states, rows = carry
            states, metrics = one(states, inputs, keys, decays, number)
            return states, jax.tree.map(
                lambda row, x: row.at[number].set(x), rows, metrics
            )

        return jax.lax.fori_loop(0, count, body, (states, rows))

    return run
