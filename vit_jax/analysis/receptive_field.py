"""The effective receptive field: how much a place depends on each pixel, by gradients.

Source: arXiv 1701.04128. The set of pixels that can have an influence, in contrast, is
the whole image after one layer of attention.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key


def effective_receptive_field(
    features_fn: Callable[[Array], Float[Array, "b h w d"]],
    images: Float[Array, "b height width c"],
    key: Key[Array, ""],
    *,
    place: tuple[int, int] | None = None,
) -> Float[Array, "height width"]:
    """Size of the gradient of one place's features with respect to each pixel.

    The root of the mean over images of the sum over features and colours of the squared
    derivatives. The sum over features is estimated with random signs, one for each
    feature and image, which takes one backward pass; it is exact for one feature.

    Args:
        features_fn: differentiable, from images to features.
        key: key of the signs.
        place: row and column on the features' grid; `centre_place` if None.

    Returns:
        Features per pixel value; only ratios are meaningful.
    """
    features, pull_back = jax.vjp(features_fn, images)
    rows, columns = features.shape[1:3]
    y, x = place or centre_place((rows, columns))
    signs = jax.random.rademacher(
        key, (len(features), features.shape[-1]), features.dtype
    )
    (gradient,) = pull_back(jnp.zeros_like(features).at[:, y, x].set(signs))
    return jnp.sqrt(jnp.square(gradient).sum(axis=-1).mean(axis=0))


def centre_place(grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of a grid's centre; of the four in the middle, the last."""
    return grid[0] // 2, grid[1] // 2


def pixel_of(place: tuple[int, int], stride: int) -> tuple[float, float]:
    """The middle of a place of the grid, in rows and columns of pixels from 0."""
    y, x = ((step + 0.5) * stride - 0.5 for step in place)
    return y, x


def receptive_field_radius(
    field: Float[ArrayLike, "height width"],
    centre: tuple[float, float],
    *,
    share: float = 0.5,
) -> float:
    """Radius in pixels of the smallest disc that holds a share of the field.

    Args:
        field: not negative, as `effective_receptive_field`.
        centre: centre of the disc, see `pixel_of`.
        share: share of the sum of the field, in (0, 1].

    Raises:
        ValueError: the field is zero everywhere, or the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: wanted more than 0 and at most 1")
    field, squared = with_distances(field, centre)
    order = np.argsort(squared)
    held = np.cumsum(field[order])
    # The last pixels of the sum may be lost in rounding.
    first = np.searchsorted(held, share * held[-1] * (1 - 1e-12))
    return float(np.sqrt(squared[order][first]))


def rms_radius(
    field: Float[ArrayLike, "height width"], centre: tuple[float, float]
) -> float:
    """Root of the mean squared distance from the centre in pixels, weighted by a field.

    Args:
        field: not negative, as `effective_receptive_field`; ones for a reference that
            depends on all pixels alike.
        centre: see `pixel_of`.

    Raises:
        ValueError: the field is zero everywhere.
    """
    field, squared = with_distances(field, centre)
    return float(np.sqrt(field @ squared / field.sum()))


def with_distances(
    field: Float[ArrayLike, "height width"], centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The field and the squared distances of its pixels from the centre, both flat.

    Raises:
        ValueError: the field is zero everywhere.
    """
    field = np.asarray(field, np.float64)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]]
    if not field.sum() > 0:
        raise ValueError(
            "the receptive field is zero everywhere: the output does not depend on the "
            "images"
        )
    return field.ravel(), ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).ravel()
