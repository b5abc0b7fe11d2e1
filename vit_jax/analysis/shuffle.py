"""Accuracy of a model without the order of the image's parts.

Blocks of the image are permuted (arXiv 2105.10497, section 3.3), or the position
embeddings are removed from a model that was trained with them.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Integer, Key

from vit_jax.analysis.features import position_embeddings
from vit_jax.models import AnyModel
from vit_jax.models.depth import unrolled, unstack_blocks
from vit_jax.models.relative_bias import RelativeBias

Predict = Callable[[Array], Float[Array, "b n"]]
REPLACEMENTS = ("mean", "zero")
# Parameters of relative positions with an entry for each offset.
OFFSETS = ("embedding", "row", "column", "offsets")


@partial(jax.jit, static_argnames="g")
def shuffle_blocks(
    images: Float[Array, "b height width c"], g: int, key: Key[Array, ""]
) -> Float[Array, "b height width c"]:
    """Cuts images into g x g blocks and permutes them, each image in its own way.

    All permutations are equally likely, also the identity: one in 24 for g = 2.

    Raises:
        ValueError: the sides are no multiples of g.
    """
    height, width = images.shape[1:3]
    if g < 1 or height % g or width % g:
        raise ValueError(
            f"images of {height} x {width} pixels cannot be cut into {g} x {g} equal "
            "blocks"
        )
    keys = jax.random.split(key, len(images))
    order = jax.vmap(lambda key: jax.random.permutation(key, g * g))(keys)
    blocks = einops.rearrange(
        images, "b (gy h) (gx w) c -> b (gy gx) h w c", gy=g, gx=g
    )
    blocks = jax.vmap(lambda block, order: block[order])(blocks, order)
    return einops.rearrange(blocks, "b (gy gx) h w c -> b (gy h) (gx w) c", gy=g, gx=g)


def accuracy(
    predict: Predict,
    images: Float[Array, "b height width c"],
    labels: Integer[Array | np.ndarray, " b"],
) -> float:
    """Share of images whose largest logit is that of their label, in [0, 1].

    Args:
        predict: from images to logits.
    """
    return float(np.mean(np.argmax(predict(images), axis=-1) == np.asarray(labels)))


def shuffle_accuracy(
    predict: Predict,
    images: Float[Array, "b height width c"],
    labels: Integer[Array | np.ndarray, " b"],
    g: int,
    key: Key[Array, ""],
) -> float:
    """`accuracy` of images whose g x g blocks are permuted; g = 1 permutes nothing.

    Raises:
        ValueError: as `shuffle_blocks`.
    """
    return accuracy(predict, shuffle_blocks(images, g, key), labels)


def accuracy_kept(changed: float, usual: float, num_classes: int) -> float:
    """Share that a change leaves of the accuracy above chance, 1 / num_classes.

    A plain ratio of accuracies would be larger for a worse model, since chance is left
    to any.

    Raises:
        ValueError: the usual accuracy is not above chance, so that nothing can be kept.
    """
    chance = 1 / num_classes
    if usual <= chance:
        raise ValueError(
            f"an accuracy of {usual:.3f} among {num_classes} classes is no better than "
            "chance: no share of it can be kept"
        )
    return (changed - chance) / (usual - chance)


def remove_positions(
    model: AnyModel, params: Any, *, to: str = "mean"
) -> tuple[AnyModel, Any]:
    """The same model with the same position for all patches.

    In each table of positions, of every kind and in every layer, the vectors of all
    patches are replaced by their mean, which keeps the tokens in the range that the
    model expects, or by zero; likewise those of the offsets of relative positions. The
    class token keeps its position, which holds nothing about patches.

    Args:
        to: `mean` or `zero`.

    Returns:
        A model, and parameters for it. `learned2d` and `sincos2d` become `learned`,
        since their tables cannot be the same everywhere; a scanned model is unrolled.
        A model without positions is returned as it is.

    Raises:
        ValueError: unknown replacement.
    """
    if to not in REPLACEMENTS:
        raise ValueError(
            f"unknown replacement {to!r}: wanted one of {', '.join(REPLACEMENTS)}"
        )

    def alike(table: Array, axis: int | tuple[int, ...]) -> Array:
        mean = table.mean(axis, keepdims=True)
        return jnp.broadcast_to(mean if to == "mean" else 0.0 * mean, table.shape)

    tables = position_embeddings(model, params)
    model, params = unrolled(model), unstack_blocks(params)
    flat: dict[Any, Any] = traverse_util.flatten_dict(params)
    if getattr(model, "positions", "") == "relative_mlp":
        flat |= constant_biases(model, flat, alike)
    for path in flat:
        if path[-1] in OFFSETS and "relative_positions" in path:
            axes = (0, 1) if path[-1] == "offsets" else 0
            flat[path] = alike(flat[path], axes)
    if tables:
        model = model.clone(positions="learned")
        flat = {path: x for path, x in flat.items() if "positions" not in path}
    for path, table in tables.items():
        first = table.shape[1] - model.grid[0] * model.grid[1]
        flat[*path, "embedding"] = jnp.concatenate(
            [table[:, :first], alike(table[:, first:], 1)], axis=1
        )
    return model, traverse_util.unflatten_dict(flat)


def constant_biases(
    model: AnyModel, flat: dict[Any, Any], alike: Callable[..., Array]
) -> dict[Any, Any]:
    """Last layers of `relative_mlp`s that give all offsets the same number."""
    changed = {}
    for path, kernel in flat.items():
        if path[-3:] != ("relative_positions", "out", "kernel"):
            continue
        module = path[:-2]
        own = {
            other[len(module) :]: x
            for other, x in flat.items()
            if other[: len(module)] == module
        }
        sizes = (model.num_heads, model.relative_mlp_dim)
        bias = RelativeBias(model.positions, model.grid, *sizes)
        variables = {"params": traverse_util.unflatten_dict(own)}
        pairs = bias.apply(variables, math.prod(model.grid), model.grid)
        changed[path] = jnp.zeros_like(kernel)
        changed[*module, "out", "bias"] = alike(pairs, (1, 2))[:, 0, 0]
    return changed
