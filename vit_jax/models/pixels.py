"""Pixels on their way into a model: value range, mean and deviation, size."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vit_jax.values import Positive

HALF = (0.5, 0.5, 0.5)
Mean = tuple[float, float, float]
Deviation = tuple[Positive, Positive, Positive]


def normalize(images: Shaped[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Maps pixels 0..255 to float32 in [-1, 1], as the released models expect.

    Raises:
        ValueError: floats, which may be in any range.
    """
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

    Args:
        images: floats of shape (b, *image_size, 3) in [-1, 1].
        mean, std: that the weights were trained with, of pixels in [0, 1]; a half each
            leaves the images as they are.

    Raises:
        ValueError: images of another dtype or shape.
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
    if tuple(mean) == HALF == tuple(std):
        return images
    return ((images + 1) / 2 - jnp.asarray(mean)) / jnp.asarray(std)


def check_grid(image_size: tuple[int, int], patch_size: int) -> None:
    """Raises ValueError if an image cannot be cut into whole patches."""
    for side, pixels in zip(("height", "width"), image_size, strict=True):
        if pixels < 1 or pixels % patch_size:
            raise ValueError(
                f"the image {side} must be a multiple of the patch size, but "
                f"{pixels} is not a multiple of {patch_size}"
            )
