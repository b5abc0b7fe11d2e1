"""Optimizers and learning-rate schedules, built of optax."""

import re
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_map_with_path

from vit_jax.values import Choice, NotNegative, Pattern, Positive, Range, Rate

Params = Any
# Begins the paths of parameters whose first axis is the block, see `models/depth.py`.
STACKED = "encoder/blocks/"
Schedule = Choice("cosine", "linear", "rsqrt", "constant", "staircase")
Milestone = Annotated[float, Range(0, 1, left_open=True, right_open=True)]


def make_schedule(
    *,
    learning_rate: NotNegative,
    schedule: Annotated[str, Schedule],
    total_steps: int,
    warmup: int,
    cooldown: int = 0,
    end_learning_rate: NotNegative = 0.0,
    milestones: tuple[Milestone, ...] = (),
) -> optax.Schedule:
    """Builds the learning rate as a function of the step.

    Linear warm-up, 1/n of the peak at the first of its n steps, then `schedule`, then a
    linear cool-down to 0.

    Args:
        learning_rate: the peak, reached at the end of the warm-up.
        schedule: `cosine` or `linear` to `end_learning_rate`, `rsqrt` (reciprocal
            square root, the warm-up as time scale, arXiv 2106.04560), `constant`, or
            `staircase` (a tenth at each of `milestones`, arXiv 1912.11370).
        total_steps, warmup, cooldown: the lengths, in steps.
        milestones: of `staircase`: shares of `total_steps`, rising, in (0, 1).

    Raises:
        ValueError: parts longer than the whole, or milestones that are missing, not
            rising, or for another schedule.
    """
    if warmup + cooldown > total_steps:
        raise ValueError(
            f"optim.warmup ({warmup} steps) and optim.cooldown ({cooldown} "
            f"steps) do not fit into train.duration ({total_steps} steps)"
        )
    check_milestones(schedule, milestones)
    decay_steps = max(1, total_steps - warmup)

    def rsqrt(step: jax.Array) -> jax.Array:
        timescale = max(1, warmup)
        return learning_rate * jnp.sqrt(timescale / (timescale + step))

    def staircase(step: jax.Array) -> jax.Array:
        # The milestones count from the start of the run, `step` from the warm-up's end.
        stairs = jnp.array([share * total_steps for share in milestones])
        return learning_rate * 0.1 ** (step + warmup >= stairs).sum()

    decays = {
        # Without an end value the rate may be traced, as that of a fleet is.
        "cosine": optax.cosine_decay_schedule(
            learning_rate,
            decay_steps,
            end_learning_rate / (learning_rate or 1) if end_learning_rate else 0.0,
        ),
        "linear": optax.linear_schedule(learning_rate, end_learning_rate, decay_steps),
        "rsqrt": rsqrt,
        "constant": optax.constant_schedule(learning_rate),
        "staircase": staircase,
    }
    if schedule not in ("cosine", "linear") and end_learning_rate:
        raise ValueError(
            f"optim.end_learning_rate is {end_learning_rate}, but the schedule "
            f"{schedule!r} has no end value; use optim.cooldown to go to 0"
        )

    def value(step: Any) -> jax.Array:
        # Warm-up starts above 0: the first step would be wasted otherwise.
        warm = learning_rate * (step + 1) / max(1, warmup)
        rate = decays[schedule](jnp.maximum(0, step - warmup))
        rate = jnp.where(step < warmup, warm, rate)
        if cooldown:
            rate = rate * jnp.clip((total_steps - step) / cooldown, 0.0, 1.0)
        return rate

    return value


def check_milestones(schedule: str, milestones: tuple[float, ...]) -> None:
    """Raises ValueError unless there are milestones exactly where they are needed."""
    steps = (0.0, *milestones, 1.0)
    rising = all(a < b for a, b in zip(steps, steps[1:], strict=False))
    if not rising or (schedule == "staircase") != bool(milestones):
        raise ValueError(
            f"optim.milestones={milestones} with optim.schedule={schedule!r}: "
            "the schedule 'staircase', and no other, needs shares of the run such as "
            "(0.3, 0.6, 0.9), rising between 0 and 1"
        )


def make_optimizer(
    params: Params,
    rate: optax.Schedule,
    *,
    name: Annotated[str, Choice("adamw", "lamb", "muon", "sgd")],
    weight_decay: NotNegative,
    clip_norm: NotNegative,
    momentum: Rate,
    b2: Rate,
    epsilon: Positive,
    momentum_dtype: Annotated[str, Choice("float32", "bfloat16")],
    layer_decay: Annotated[float, Range(0, 1, left_open=True)],
    freeze: tuple[Pattern, ...],
) -> optax.GradientTransformation:
    """Builds the optimizer.

    Args:
        params: the parameter tree, or its shapes; only its paths are used.
        rate: the learning rate of each step.
        name: `adamw` (decoupled weight decay, multiplied by the learning rate: the
            paper's convention), `lamb` (the same, with each decayed parameter's update
            scaled to its own norm, arXiv 1904.00962), `muon` (the same, with hidden
            kernels' updates made orthogonal, see `muon.py`) or `sgd` (momentum; the
            decay is added to the gradient, as in BiT).
        weight_decay: on kernels only: no biases, norms, tokens or positions.
        clip_norm: largest global norm of the gradients, 0 for no clipping.
        momentum: beta_1 of Adam and LAMB, or the momentum of SGD and of Muon.
        b2, epsilon: of Adam, also beside Muon, and of LAMB; SGD does not have them.
        momentum_dtype: in which the first moment is stored, `float32` or `bfloat16`.
        layer_decay: factor on the learning rate for each layer further from the head
            (arXiv 2106.08254, appendix); 1 for none.
        freeze: regular expressions; parameters whose path starts with a match stay as
            they are, and hold no optimizer state.

    Raises:
        ValueError: a pattern that matches no parameter.
    """
    kernels = tree_map_with_path(
        lambda path, _: path_name(path).endswith("/kernel"), params
    )
    decay = optax.add_decayed_weights(weight_decay, mask=kernels)
    adam = optax.scale_by_adam(momentum, b2, epsilon, mu_dtype=momentum_dtype)
    if name == "adamw":
        parts = [adam, decay]
    elif name == "lamb":
        parts = [adam, decay, scale_to_norm()]
    elif name == "muon":
        # Imported where it is asked for: most runs are without it.
        from vit_jax.training.muon import muon_or_adam

        parts = [muon_or_adam(adam, momentum, momentum_dtype), decay]
    else:
        parts = [decay, optax.trace(momentum, accumulator_dtype=momentum_dtype)]
    if clip_norm:
        parts.insert(0, optax.clip_by_global_norm(clip_norm))
    parts.append(optax.scale_by_learning_rate(rate))
    if layer_decay != 1:
        parts.append(scale_by_layer(params, layer_decay))
    optimizer = optax.chain(*parts)
    if freeze:
        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()},
            frozen_labels(params, freeze),
        )
    return optimizer


def path_name(path: tuple[Any, ...]) -> str:
    """A parameter's path as text, such as `encoder/block_03/mlp/out/kernel`."""
    return keystr(path, simple=True, separator="/")


def scale_to_norm() -> optax.GradientTransformation:
    """Multiplies the update of each kernel by norm(kernel) / norm(update).

    The trust ratio of LAMB (arXiv 1904.00962, algorithm 2). As in the implementations
    that ViTs are trained with (apex, timm), what has no weight decay keeps its update,
    and so does a kernel of zeros. Stacked blocks are scaled one by one.
    """

    def scaled(path: tuple[Any, ...], update: jax.Array, old: jax.Array) -> jax.Array:
        name = path_name(path)
        if not name.endswith("/kernel"):
            return update
        axes = tuple(range(1 if name.startswith(STACKED) else 0, update.ndim))
        norms = [jnp.sqrt((x**2).sum(axes, keepdims=True)) for x in (old, update)]
        usable = (norms[0] > 0) & (norms[1] > 0)
        ratio = jnp.where(usable, norms[0] / jnp.where(usable, norms[1], 1), 1)
        return update * ratio.astype(update.dtype)

    return optax.stateless(
        lambda updates, params: tree_map_with_path(scaled, updates, params)
    )


def scale_by_layer(params: Params, decay: float) -> optax.GradientTransformation:
    """Multiplies each update by `decay` to the power of its distance from the head."""

    def scale(updates: Params, _: Params) -> Params:
        # By path, not by tree: under `freeze` the tree has holes.
        def scaled(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
            factor = jnp.asarray(factors[path_name(path)], update.dtype)
            return update * factor.reshape(-1, *[1] * (update.ndim - 1))

        return tree_map_with_path(scaled, updates)

    factors = layer_factors(params, decay)
    return optax.stateless(scale)


def layer_factors(params: Params, decay: float) -> dict[str, float | list[float]]:
    """The factor of each parameter path: 1 at the head, `decay` a layer below.

    Layer 0 holds everything before the encoder, layer i + 1 is block i, and what
    follows the blocks is the last. Stacked blocks have a list, one a block.
    """
    stacked = {
        path_name(path): len(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
        if path_name(path).startswith(STACKED)
    }
    names = tree_paths(params)
    depth = max(
        [1 + (block_number(name) or 0) for name in names] + list(stacked.values())
    )
    tokens = ("mask_token", "class_token", "distillation_token", "registers")
    before = ("resnet", "embedding", "positions", "relative_positions", *tokens)
    has_blocks = stacked or any(block_number(name) is not None for name in names)
    if decay != 1 and not has_blocks:
        raise ValueError(
            f"optim.layer_decay={decay} is for models with an encoder of blocks, which "
            "this one has not: leave it at 1"
        )

    def factor(name: str) -> float | list[float]:
        if name in stacked:
            return [decay ** (depth - i) for i in range(depth)]
        block = block_number(name)
        if block is not None:
            return decay ** (depth - block)
        return decay ** (depth + 1) if name.startswith(before) else 1.0

    return {name: factor(name) for name in names}


def block_number(name: str) -> int | None:
    """The number of the encoder block that a parameter path is in, if any."""
    match = re.match(r"encoder/block_(\d+)/", name)
    return int(match[1]) if match else None


def tree_paths(params: Params) -> list[str]:
    """The paths of all parameters."""
    return [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]


def frozen_labels(params: Params, patterns: tuple[str, ...]) -> Params:
    """Labels each parameter `frozen` or `trained`.

    Raises:
        ValueError: a pattern matches no parameter, or nothing is left to train.
    """
    names = tree_paths(params)
    for pattern in patterns:
        if not any(re.match(pattern, name) for name in names):
            tops = sorted({name.split("/")[0] for name in names})
            raise ValueError(
                f"optim.freeze has {pattern!r}, which matches no parameter; paths "
                f"start with {', '.join(tops)}"
            )

    def label(path: tuple[Any, ...], _: Any) -> str:
        name = path_name(path)
        return "frozen" if any(re.match(p, name) for p in patterns) else "trained"

    labels = tree_map_with_path(label, params)
    if "trained" not in jax.tree.leaves(labels):
        raise ValueError(f"optim.freeze={patterns} leaves no parameter to train")
    return labels
