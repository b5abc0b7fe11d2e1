"""From a config to all that the training loop needs."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vit_jax import sharding
from vit_jax.checkpoint import Checkpoints
from vit_jax.config import Lengths, check_config, keywords, resolve_lengths
from vit_jax.data.mix import make_mix
from vit_jax.data.pipeline import Data
from vit_jax.evaluate import make_eval_step
from vit_jax.losses import make_loss
from vit_jax.metrics import Writer
from vit_jax.models import FAMILIES, create_model, init_params
from vit_jax.optim import make_optimizer
from vit_jax.train_step import (
    Batch,
    Metrics,
    Params,
    RandomKeys,
    TrainState,
    TrainStep,
    make_train_step,
    named_keys,
)
from vit_jax.warm_start import warm_start

# Arguments that come from the run itself, not from a config.
PROVIDED = (
    *("num_classes", "image_size", "patch_size", "parent", "params", "total_steps"),
    *("workdir", "config", "start_step", "directory", "read_only"),
)
# The keys of a config: each section is splatted into the one that reads it.
SECTIONS = {
    "seed": {},
    "init": {},
    "model": {
        key: False for family in FAMILIES.values() for key in keywords(family, PROVIDED)
    }
    | keywords(create_model, PROVIDED),
    "data": keywords(Data),
    "mix": keywords(make_mix),
    "loss": keywords(make_loss),
    "optim": keywords(make_optimizer, PROVIDED),
    "train": {"duration": True, "accumulate_steps": True, "ema_decay": True},
    "sweep": {"learning_rates": True, "train_split": True, "dev_split": True},
    "eval": {"every": True, "splits": True, "batch_size": True},
    "checkpoint": {"every": True} | keywords(Checkpoints, PROVIDED),
    "log": {"every": True} | keywords(Writer, PROVIDED),
    "mesh": keywords(sharding.make_mesh),
}


class Experiment(NamedTuple):
    """What a config describes, built: all that the loop needs."""

    data: Data
    label_names: tuple[str, ...]
    lengths: Lengths
    mesh: jax.sharding.Mesh
    keys: RandomKeys
    init_state: Callable[..., TrainState]  # optionally of the run to start from
    train_step: TrainStep
    eval_step: Callable[[Params, Batch], Metrics]


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Builds data, model, optimizer and the compiled steps from a config.

    Raises:
        ValueError: the config cannot be used; one sentence says why.
    """
    check_config(config, SECTIONS)
    data = Data(**config.data)
    label_names = data.label_names()
    data.check_splits(config.eval.splits)
    lengths = resolve_lengths(config, data.num_examples())
    mesh = sharding.make_mesh(**config.mesh)
    accumulate_steps, ema_decay = config.train.accumulate_steps, config.train.ema_decay
    sharding.check_batch(
        "data.batch_size", config.data.batch_size, mesh, accumulate_steps
    )
    sharding.check_batch("eval.batch_size", config.eval.batch_size, mesh)

    model = create_model(
        **config.model, num_classes=len(label_names), image_size=data.image_size
    )
    keys = named_keys(config.seed)
    optim = {**config.optim, "warmup": lengths.warmup, "cooldown": lengths.cooldown}
    params = jax.eval_shape(functools.partial(init_params, model), keys.params)
    optimizer, schedule = make_optimizer(params, lengths.total, **optim)
    loss_fn, mix = make_loss(**config.loss), make_mix(**config.mix)
    train_step = make_train_step(
        model,
        loss_fn,
        mix,
        optimizer,
        schedule,
        accumulate_steps=accumulate_steps,
        ema_decay=ema_decay,
    )
    everywhere = sharding.replicated(mesh)

    def init_state(init: str = "") -> TrainState:
        params = init_params(model, keys.params)
        if init:
            params = warm_start(params, model, init, label_names)
        ema = jax.tree.map(jnp.copy, params) if ema_decay else None
        state = TrainState(jnp.int32(0), params, optimizer.init(params), ema)
        return jax.device_put(state, everywhere)

    return Experiment(
        data,
        label_names,
        lengths,
        mesh,
        keys,
        init_state,
        jax.jit(train_step, donate_argnums=0, out_shardings=everywhere),
        make_eval_step(model, loss_fn),
    )
