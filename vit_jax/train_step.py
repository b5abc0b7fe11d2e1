"""One step of training: a pure function of state, batch and keys.

With `models/vit.py` this is all there is to understand.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from vit_jax.data.mix import Mix, normalize, one_hot
from vit_jax.losses import LossFn
from vit_jax.models import VisionTransformer

Params = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that training changes; `ema` is None unless `train.ema_decay` is set."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None


@flax.struct.dataclass
class RandomKeys:
    """One random key a purpose; the step folds its number into them."""

    params: jax.Array
    dropout: jax.Array
    mix: jax.Array


TrainStep = Callable[[TrainState, Batch, RandomKeys], tuple[TrainState, Metrics]]


def named_keys(seed: int) -> RandomKeys:
    """Splits the seed once; every random draw of a run comes from these keys."""
    return RandomKeys(*jax.random.split(jax.random.key(seed), 3))


def make_train_step(
    model: VisionTransformer,
    loss_fn: LossFn,
    mix: Mix,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    accumulate_steps: int,
    ema_decay: float,
) -> TrainStep:
    """Builds the pure training step `(state, batch, keys) -> (state, metrics)`.

    The batch holds `image` (b h w c, uint8) and `label` (b, integers). The schedule is
    the optimizer's own, given to be reported.
    """

    def mean_loss(params, images, targets, dropout_key):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": dropout_key}
        )
        correct = logits.argmax(-1) == targets.argmax(-1)
        return loss_fn(logits, targets).mean(), correct.mean()

    gradient = accumulated(
        jax.value_and_grad(mean_loss, has_aux=True), accumulate_steps
    )

    def train_step(state, batch, keys):
        keys = jax.tree.map(lambda key: jax.random.fold_in(key, state.step), keys)
        images = normalize(batch["image"])
        targets = one_hot(batch["label"], model.num_classes)
        images, targets = mix(keys.mix, images, targets)

        (loss, accuracy), grads = gradient(state.params, images, targets, keys.dropout)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state.ema, params, ema_decay, state.step)

        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return train_step


def accumulated(gradient: Callable[..., Any], pieces: int) -> Callable[..., Any]:
    """The mean of `gradient(params, images, targets, key)` over pieces of a batch."""
    if pieces == 1:
        return gradient

    def mean_gradient(params, images, targets, key):
        def cut(x: jax.Array) -> jax.Array:
            # Strided, so that each device keeps the examples that it holds.
            return x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1)

        def add(total, piece):
            return jax.tree.map(jnp.add, total, gradient(params, *piece)), None

        batch = (cut(images), cut(targets), jax.random.split(key, pieces))
        result = jax.eval_shape(gradient, params, *(x[0] for x in batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)
        total, _ = jax.lax.scan(add, zeros, batch)
        return jax.tree.map(lambda x: x / pieces, total)

    return mean_gradient


def update_ema(
    ema: Params | None, params: Params, decay: float, step: jax.Array
) -> Params | None:
    """Moves the average of the parameters towards them.

    The decay grows to its value over the first steps, so that the random initial
    parameters do not linger: min(decay, (1 + step) / (10 + step)).
    """
    if ema is None:
        return None
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(params, ema, 1 - decay)
