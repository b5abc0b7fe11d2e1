"""Pixels on their way into a model: value range, mean and deviation, size."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from vit_jax.values import Positive

HALF = (0.5, 0.5, 0.5)
# No normalisation of pixels goes so far from 0; noise of deviation 1 does not either.
FARTHEST = 10
Mean = tuple[float, float, float]
Deviation = tuple[Positive, Positive, Positive]


def normalize(images: Shaped[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Maps pixels 0..255 to float32 in [-1, 1], as the released models expect.

    Raises:
        ValueError: floats, which may be in any range, or what has no whole numbers.
    """
    dtype = getattr(images, "dtype", None)
    if dtype is None or dtype.kind not in "iuf":
        raise ValueError(
            "normalize takes an array of integer pixels in 0..255, got "
            f"{dtype or type(images).__name__}"
        )
    if jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"normalize takes integer pixels in 0..255, got {images.dtype}; of floats "
            "in [0, 1] the model wants 2 * images - 1"
        )
    return images.astype(jnp.float32) / 127.5 - 1.0


def prepare(
    images: Array,
    image_size: tuple[int, int],
    mean: tuple[float, float, float] = HALF,
    std: tuple[float, float, float] = HALF,
) -> Float[Array, "b height width 3"]:
    """Checks images in [-1, 1] and gives them the mean and deviation of the weights.

    Values are looked at only where there are some: not within `jit`, `grad` or `vmap`,
    which compile for any values.

    Args:
        images: floats of shape (b, *image_size, 3) in [-1, 1].
        mean, std: that the weights were trained with, of pixels in [0, 1]; a half each
            leaves the images as they are.

    Raises:
        ValueError: images of another dtype or shape, or with values of 0..255.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floats in [-1, 1], but their dtype is {images.dtype}; "
            "for uint8 pixels use vit_jax.normalize(images)"
        )
    if images.ndim != 4 or images.shape[1:] != (*image_size, 3):
        wanted = ("batch", *image_size, 3)
        raise ValueError(
            f"images must have shape {wanted}, but theirs is {images.shape}; a "
            "ViT takes another size if created, loaded or called with "
            "image_size=(height, width)"
        )
    if (largest := largest_value(images)) > FARTHEST:
        raise ValueError(
            f"images must be floats in [-1, 1], but theirs go up to {largest:g}; for "
            "floats in 0..255 use vit_jax.normalize(images.astype(np.uint8))"
        )
    if tuple(mean) == HALF == tuple(std):
        return images
    return ((images + 1) / 2 - jnp.asarray(mean)) / jnp.asarray(std)


def largest_value(images: Array) -> float:
    """The largest absolute value of images; 0 where none can be looked at."""
    if isinstance(images, Tracer) or not images.size:
        return 0.0
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return 0.0
    # By NumPy: within `jit` an operation of JAX on a constant is traced too.
    return float(np.abs(np.asarray(images)).max())


def check_grid(image_size: tuple[int, int], patch_size: int) -> None:
    """Raises ValueError if an image cannot be cut into whole patches."""
    for side, pixels in zip(("height", "width"), image_size, strict=True):
        if pixels < 1 or pixels % patch_size:
            raise ValueError(
                f"the image {side} must be a multiple of the patch size, but "
                f"{pixels} is not a multiple of {patch_size}"
            )
