"""MixUp and CutMix of a batch on the device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from vit_jax.values import NotNegative

Mix = Callable[[jax.Array, Array, Array], tuple[Array, Array]]


def mixup(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b n"],
    weight: Float[Array, " b"],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b n"]]:
    """Blends each image and target with its neighbour's (arXiv 1710.09412).

    `weight` in [0, 1] is the share of the image itself.
    """
    blend = weight[:, None, None, None]
    images = blend * images + (1 - blend) * jnp.roll(images, 1, axis=0)
    blend = weight[:, None]
    return images, blend * targets + (1 - blend) * jnp.roll(targets, 1, axis=0)


def cutmix(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b n"],
    weight: Float[Array, " b"],
    center: Float[Array, "b 2"],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b n"]]:
    """Pastes a box of each image's neighbour into it (arXiv 1905.04899).

    The box has the area share `1 - weight` before it is cut at the border, and its
    `center` is in [0, 1] of (height, width). Targets are mixed by the true area.
    """
    _, height, width, _ = images.shape
    side = jnp.sqrt(1 - weight)[:, None] / 2
    low, high = jnp.clip(center - side, 0, 1), jnp.clip(center + side, 0, 1)
    (top, left), (bottom, right) = (
        jnp.round(edge * jnp.array([height, width])).T for edge in (low, high)
    )
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    in_columns = (columns >= left[:, None]) & (columns < right[:, None])
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
    images = jnp.where(inside, jnp.roll(images, 1, axis=0), images)
    share = inside.mean(axis=(1, 2), dtype=jnp.float32)
    return images, (1 - share) * targets + share * jnp.roll(targets, 1, axis=0)


def make_mix(
    *, mixup_alpha: NotNegative, cutmix_alpha: NotNegative, per_example: bool
) -> Mix:
    """Builds `(key, images (b h w c), labels (b)) -> (images, targets (b n))`.

    Args:
        mixup_alpha, cutmix_alpha: parameters of the Beta(alpha, alpha) that the weight
            is drawn from; 0 turns the operation off. If both are on, each draw takes
            one of them with probability 1/2.
        per_example: draw anew for each example, rather than once a batch.
    """

    def draw_weight(key: jax.Array, alpha: float, draws: int) -> Float[Array, " b"]:
        # The larger share stays with the image itself, as in big_vision: the order of
        # the pair carries no information, and early training is easier.
        weight = jax.random.beta(key, alpha, alpha, (draws,))
        return jnp.maximum(weight, 1 - weight)

    def mix(
        key: jax.Array, images: Float[Array, "b h w c"], targets: Float[Array, "b n"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b n"]]:
        batch = images.shape[0]
        draws = batch if per_example else 1
        mixup_key, cutmix_key, center_key, choice_key = jax.random.split(key, 4)
        results = []
        if mixup_alpha:
            weight = draw_weight(mixup_key, mixup_alpha, draws)
            results.append(mixup(images, targets, jnp.broadcast_to(weight, batch)))
        if cutmix_alpha:
            weight = jax.random.beta(cutmix_key, cutmix_alpha, cutmix_alpha, (draws,))
            center = jax.random.uniform(center_key, (draws, 2))
            weight = jnp.broadcast_to(weight, batch)
            center = jnp.broadcast_to(center, (batch, 2))
            results.append(cutmix(images, targets, weight, center))
        if len(results) == 2:
            choice = jax.random.bernoulli(choice_key, shape=(draws,))
            choice = jnp.broadcast_to(choice, batch)
            return jax.tree.map(
                lambda a, b: jnp.where(jnp.expand_dims(choice, range(1, a.ndim)), a, b),
                *results,
            )
        return results[0] if results else (images, targets)

    return mix


def as_targets(
    labels: Int[Array, " b"] | UInt8[Array, "b n"], num_classes: int
) -> Float[Array, "b n"]:
    """Float32 targets of one label an image, or of several as 0 and 1."""
    if labels.ndim == 2:
        return labels.astype(jnp.float32)
    return jax.nn.one_hot(labels, num_classes)
