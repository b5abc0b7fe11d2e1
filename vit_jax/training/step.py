"""One step of training: a pure function of state, batch and keys.

With `models/vit.py` this is all there is to understand.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vit_jax.data.mix import Mix, as_targets
from vit_jax.losses import LossFn
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize
from vit_jax.training.guard import Guard
from vit_jax.values import Choice, NotNegative, Rate, Size

Params = Any
Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that training changes.

    `ema` is None unless `train.ema_decay` is set. `loss_mean`, over the last steps, and
    `skipped`, how many were left out, are the guard's.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    loss_mean: jax.Array
    skipped: jax.Array


@flax.struct.dataclass
class RandomKeys:
    """One random key a purpose; the step folds its number into them."""

    params: jax.Array
    dropout: jax.Array
    mix: jax.Array
    corruption: jax.Array


class Objective(NamedTuple):
    """What is learned: `classification`, below, or one of the files beside.

    Attributes:
        prepare: `(batch, keys) -> (images, targets)`, once a step, of the whole batch;
            targets are arrays whose first axis is the batch.
        loss: `(params, images, targets, dropout_key) -> (loss, accuracy)`, means over
            the examples given.
        metric: name of the second value in metrics.
        teacher: a model whose parameters `prepare` finds in `batch["teacher"]`.
    """

    prepare: Callable[[Batch, RandomKeys], tuple[jax.Array, Any]]
    loss: Callable[..., tuple[jax.Array, jax.Array]]
    teacher: AnyModel | None = None
    metric: str = "accuracy"


TrainStep = Callable[[TrainState, Batch, RandomKeys], tuple[TrainState, Metrics]]


def named_keys(seed: int | jax.Array) -> RandomKeys:
    """Splits the seed once; every random draw of a run comes from these keys."""
    return RandomKeys(*jax.random.split(jax.random.key(seed), 4))


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """The state before the first step; `average`: with a moving one of parameters."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if average else None,
        loss_mean=jnp.float32(0),
        skipped=jnp.int32(0),
    )


def classification(
    model: AnyModel, loss_fn: LossFn, mix: Mix, several: bool = False
) -> Objective:
    """Learning the labels, of images that may be mixed.

    With `several` labels an image, the metric is the share of images whose best class
    is among their labels, or has the largest share of a mixed image.
    """

    def prepare(batch, keys):
        images = normalize(batch["image"])
        return mix(keys.mix, images, as_targets(batch["label"], model.num_classes))

    def loss(params, images, targets, dropout_key):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": dropout_key}
        )
        best = logits.argmax(-1)
        if several:
            found = jnp.take_along_axis(targets, best[:, None], axis=-1)[:, 0]
            correct = (found == targets.max(-1)) & (found > 0)
        else:
            correct = best == targets.argmax(-1)
        return loss_fn(logits, targets).mean(), correct.mean()

    metric = "precision_at_1" if several else "accuracy"
    return Objective(prepare, loss, metric=metric)


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    guard: Guard,
    *,
    accumulate_steps: Size,
    ema_decay: Rate,
    ema_ramp: bool,
    gradient_dtype: Annotated[str, Choice("float32", "bfloat16")],
    sam_rho: NotNegative,
) -> TrainStep:
    """Builds the pure training step `(state, batch, keys) -> (state, metrics)`.

    The batch holds `image` (b h w c, uint8) and `label` (b, integers; or of
    several labels an image b n, 0 and 1). The schedule is the optimizer's own, given to
    be reported.

    Args:
        accumulate_steps: pieces of the batch that go through the model one by one.
        ema_decay: of the average of the parameters; 0 for none.
        ema_ramp: the decay grows to its value over the first steps.
        gradient_dtype: with `bfloat16`, the parameters are rounded to it before the
            forward pass, so that all gradients cross the network in it, not only those
            of products in it; what is updated stays float32.
        sam_rho: radius of sharpness-aware minimisation; 0 for none. Each piece is
            perturbed by its own gradient: the m-sharpness of the paper's section 4.1,
            with m = batch size / accumulate_steps.
    """
    gradient = jax.value_and_grad(objective.loss, has_aux=True)
    # Perturbed as float32: the perturbation would be lost in bfloat16's rounding.
    gradient = sharpness_aware(rounded(gradient, gradient_dtype), sam_rho)
    gradient = accumulated(gradient, accumulate_steps)

    def train_step(state, batch, keys):
        keys = jax.tree.map(lambda key: jax.random.fold_in(key, state.step), keys)
        images, targets = objective.prepare(batch, keys)
        (loss, accuracy), grads = gradient(state.params, images, targets, keys.dropout)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ramped(ema_decay, state.step) if ema_ramp else ema_decay
        ema = update_ema(state.ema, params, decay)

        metrics = {
            "loss": loss,
            objective.metric: accuracy,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step - state.skipped),
        }
        new = state.replace(
            step=state.step + 1, params=params, opt_state=opt_state, ema=ema
        )
        return guard(state, new, metrics)

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

        pairs = jax.tree.map(cut, (images, targets))
        batch = (*pairs, jax.random.split(key, pieces))
        first = jax.tree.map(lambda x: x[0], batch)
        result = jax.eval_shape(gradient, params, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), result)
        total, _ = jax.lax.scan(add, zeros, batch)
        return jax.tree.map(lambda x: x / pieces, total)

    return mean_gradient


def rounded(gradient: Callable[..., Any], dtype: str) -> Callable[..., Any]:
    """`gradient` at parameters rounded to `dtype`, in the parameters' own."""

    def rounded_gradient(params, *arguments):
        weights = jax.tree.map(lambda x: x.astype(dtype), params)
        value, grads = gradient(weights, *arguments)
        return value, jax.tree.map(lambda g, x: g.astype(x.dtype), grads, params)

    return rounded_gradient


def sharpness_aware(gradient: Callable[..., Any], rho: float) -> Callable[..., Any]:
    """`gradient` at the worst parameters near by (SAM, arXiv 2010.01412, Eqs. 2 and 3).

    They are `params + rho * g / |g|`, with g the gradient of the same examples and key,
    its norm that of all parameters together. The value is that at `params`.
    """
    if not rho:
        return gradient

    def worst_gradient(params, *arguments):
        value, grads = gradient(params, *arguments)
        norm = optax.tree.norm(grads)
        # A gradient of zero has no direction: stay.
        scale = rho / jnp.where(norm == 0, 1.0, norm)
        worst = jax.tree.map(lambda x, g: x + scale * g, params, grads)
        return value, gradient(worst, *arguments)[1]

    return worst_gradient


def ramped(decay: float, step: jax.Array) -> jax.Array:
    """The decay of a step: min(decay, (1 + step) / (10 + step)).

    So the random initial parameters do not linger. The decay is reached after about
    9 / (1 - decay) steps, 90,000 for 0.9999: a shorter run averages over fewer steps
    than its decay says.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update_ema(
    ema: Params | None, params: Params, decay: float | jax.Array
) -> Params | None:
    """Moves the average of the parameters, if there is one, towards them."""
    if ema is None:
        return None
    return optax.incremental_update(params, ema, 1 - decay)
