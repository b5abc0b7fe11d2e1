"""The training crops and the flip on the device, for a data set that lies there.

The same distributions as on the host (`augment.py`), from JAX's random numbers: the
draws themselves differ. Results are rounded to uint8, as on the host.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.data.augment import ASPECT, CROP_TRIES
from vit_jax.data.pipeline import Data

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def make_augment(data: Data) -> Augment:
    """Builds the pure `(key, images) -> images` of a data section.

    Takes uint8 (b, h, w, 3) from `Data.stored_transform`, returns uint8 (b, height,
    width, 3) of `data.image_size`.
    """
    size, area, flips = data.image_size, data.crop_area, data.flips()

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        count, height, width, _ = images.shape
        shape = height, width
        if data.crop == "inception":
            keys = jax.random.split(crop_key, count)
            boxes = jax.vmap(lambda key: sample_box(key, shape, area))(keys)
            images = jax.vmap(lambda x, box: resized_box(x, box, size))(images, boxes)
        elif data.crop != "resize":
            spare = jnp.array([shape[0] - size[0] + 1, shape[1] - size[1] + 1])
            corners = jax.random.randint(crop_key, (count, 2), 0, spare)
            images = jax.vmap(lambda x, corner: cut(x, corner, size))(images, corners)
        if flips:
            flipped = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
            images = jnp.where(flipped, images[:, :, ::-1], images)
        return images

    return augment


def sample_box(
    key: jax.Array, shape: tuple[int, int], area: tuple[float, float]
) -> jax.Array:
    """Draws the box of an Inception crop: int32 (top, left, height, width) in pixels.

    As `augment.sample_crop_box`, but all tries are drawn at once.

    Args:
        shape: (height, width) of the image.
        area: range of the box's share of the image, drawn uniformly.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    tries = (CROP_TRIES,)
    areas = jax.random.uniform(area_key, tries, minval=area[0], maxval=area[1]) * (
        shape[0] * shape[1]
    )
    low, high = map(math.log, ASPECT)
    ratios = jnp.exp(jax.random.uniform(aspect_key, tries, minval=low, maxval=high))
    widths = jnp.maximum(1, jnp.round(jnp.sqrt(areas * ratios))).astype(jnp.int32)
    heights = jnp.maximum(1, jnp.round(jnp.sqrt(areas / ratios))).astype(jnp.int32)
    fits = (widths <= shape[1]) & (heights <= shape[0])
    first, fit = jnp.argmax(fits), fits.any()
    # Without a fit: the largest centred box with an allowed aspect.
    whole = (
        max(1, min(shape[0], round(shape[1] / ASPECT[0]))),
        max(1, min(shape[1], round(shape[0] * ASPECT[1]))),
    )
    sides = jnp.where(
        fit, jnp.stack([heights[first], widths[first]]), jnp.array(whole, jnp.int32)
    )
    spare = jnp.array(shape, jnp.int32) - sides
    drawn = jax.random.randint(place_key, (2,), 0, spare + 1)
    return jnp.concatenate([jnp.where(fit, drawn, spare // 2), sides])


def resized_box(image: jax.Array, box: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Cuts a box and resizes it bilinearly, not antialiased, as OpenCV does.

    Two small products of matrices, which accelerators prefer to gathering pixels.

    Args:
        image: uint8 (h, w, 3).
        box: int32 (top, left, height, width) in pixels, in the image.
        size: (height, width) of the result.

    Returns:
        uint8 (height, width, 3), within one grey level of `augment.resize`.
    """
    rows = _weights(box[0], box[2], image.shape[0], size[0])
    columns = _weights(box[1], box[3], image.shape[1], size[1])
    exact = jax.lax.Precision.HIGHEST
    pixels = image.astype(jnp.float32)
    pixels = jnp.einsum("yh,hwc->ywc", rows, pixels, precision=exact)
    pixels = jnp.einsum("xw,ywc->yxc", columns, pixels, precision=exact)
    return jnp.round(pixels).astype(jnp.uint8)


def _weights(start: jax.Array, length: jax.Array, old: int, new: int) -> jax.Array:
    """The bilinear weights (new, old) of the pixels start..start+length-1 of a line."""
    place = (jnp.arange(new) + 0.5) * (length / new) - 0.5
    # Outside of the box its border pixels are repeated.
    place = start + jnp.clip(place, 0, length - 1)
    return jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(old)))


def cut(image: jax.Array, corner: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The box of `size` (height, width) at a corner, int32 (top, left); (h, w, 3)."""
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (*size, 3))
