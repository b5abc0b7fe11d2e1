"""The training crops, the flip and the canvas on the device, for data that lie there.

The same distributions as on the host (`augment.py`, `boxes.py`), from JAX's random
numbers: the draws themselves differ. Results are rounded to uint8, as on the host.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.data.boxes import (
    INCEPTION_ASPECT,
    INCEPTION_TRIES,
    RESIZED_ASPECT,
    RESIZED_TRIES,
)
from vit_jax.data.canvas import GREY
from vit_jax.data.pipeline import Data
from vit_jax.data.scramble import plane_order

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def make_augment(data: Data) -> Augment:
    """Builds the pure `(key, images) -> images` of a data section.

    Takes uint8 (b, h, w, 3) from `Data.stored_transform`, returns uint8 (b, height,
    width, 3) of `data.image_size`.
    """
    size, area, flips = data.crop_size, data.crop_area, data.flips()
    order = None
    if data.scramble:
        order = plane_order(data.image_size, data.scramble_patch, data.scramble)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        count, height, width, _ = images.shape
        shape = height, width
        if data.crop in BOXES:
            keys = jax.random.split(crop_key, count)
            boxes = jax.vmap(lambda key: BOXES[data.crop](key, shape, area))(keys)
            images = jax.vmap(lambda x, box: resized_box(x, box, size))(images, boxes)
        elif data.crop != "resize":
            spare = jnp.array([shape[0] - size[0] + 1, shape[1] - size[1] + 1])
            corners = jax.random.randint(crop_key, (count, 2), 0, spare)
            images = jax.vmap(lambda x, corner: cut(x, corner, size))(images, corners)
        if flips:
            flipped = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
            images = jnp.where(flipped, images[:, :, ::-1], images)
        if data.object_size:
            # A third key, beside the two of above, which do not change by it.
            place_key = jax.random.fold_in(key, 2)
            images = on_canvas(place_key, images, data.image_size)
        if order is not None:
            pixels = images.reshape(count, -1, 3)[:, order]
            images = pixels.reshape(images.shape)
        return images

    return augment


def inception_box(
    key: jax.Array, shape: tuple[int, int], area: tuple[float, float]
) -> jax.Array:
    """As `boxes.inception_box`, all tries at once: int32 (4,).

    Args:
        shape: (height, width) of the image.
        area: range of the box's share of the image.
    """
    aspect_key, height_key, place_key = jax.random.split(key, 3)
    tries, (low, high) = (INCEPTION_TRIES,), INCEPTION_ASPECT
    least, most = (share * shape[0] * shape[1] for share in area)
    aspects = jax.random.uniform(aspect_key, tries, minval=low, maxval=high)

    def height_of(limit: float) -> jax.Array:
        return jnp.round(jnp.sqrt(limit / aspects)).astype(jnp.int32)

    def area_of(heights: jax.Array) -> jax.Array:
        return heights * jnp.round(heights * aspects)

    widest = ((shape[1] + 0.5 - 1e-7) / aspects).astype(jnp.int32)
    tallest = jnp.minimum(jnp.minimum(height_of(most), shape[0]), widest)
    shortest = jnp.minimum(height_of(least), tallest)
    heights = jax.random.randint(height_key, tries, shortest, tallest + 1)
    heights += area_of(heights) < least
    heights -= area_of(heights) > most
    areas = area_of(heights)
    widths = jnp.round(heights * aspects).astype(jnp.int32)
    fits = (heights > 0) & (widths > 0) & (least <= areas) & (areas <= most)
    fits &= (heights <= shape[0]) & (widths <= shape[1])
    sides, _ = first_fit(fits, heights, widths, shape)
    # The last place of a side is never drawn there, but for the only one.
    places = jnp.maximum(1, jnp.array(shape, jnp.int32) - sides)
    return jnp.concatenate([jax.random.randint(place_key, (2,), 0, places), sides])


def random_resized_box(
    key: jax.Array, shape: tuple[int, int], area: tuple[float, float]
) -> jax.Array:
    """As `boxes.random_resized_box`, all tries at once: int32 (4,)."""
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    tries = (RESIZED_TRIES,)
    areas = jax.random.uniform(area_key, tries, minval=area[0], maxval=area[1]) * (
        shape[0] * shape[1]
    )
    low, high = map(math.log, RESIZED_ASPECT)
    ratios = jnp.exp(jax.random.uniform(aspect_key, tries, minval=low, maxval=high))
    widths = jnp.maximum(1, jnp.round(jnp.sqrt(areas * ratios))).astype(jnp.int32)
    heights = jnp.maximum(1, jnp.round(jnp.sqrt(areas / ratios))).astype(jnp.int32)
    fits = (widths <= shape[1]) & (heights <= shape[0])
    # Without a fit: the largest centred box with an allowed aspect.
    largest = (
        max(1, min(shape[0], round(shape[1] / RESIZED_ASPECT[0]))),
        max(1, min(shape[1], round(shape[0] * RESIZED_ASPECT[1]))),
    )
    sides, fit = first_fit(fits, heights, widths, largest)
    spare = jnp.array(shape, jnp.int32) - sides
    drawn = jax.random.randint(place_key, (2,), 0, spare + 1)
    return jnp.concatenate([jnp.where(fit, drawn, spare // 2), sides])


def first_fit(
    fits: jax.Array, heights: jax.Array, widths: jax.Array, fallback: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """(height, width) of the first try that fits, and whether there is one."""
    first, fit = jnp.argmax(fits), fits.any()
    sides = jnp.stack([heights[first], widths[first]])
    return jnp.where(fit, sides, jnp.array(fallback, jnp.int32)), fit


# By the name of the crop in the config.
BOXES = {"inception": inception_box, "random_resized_crop": random_resized_box}


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


def on_canvas(key: jax.Array, images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """As `canvas.on_canvas`: uint8 (b, h, w, 3) to uint8 (b, height, width, 3)."""
    count, height, width, _ = images.shape
    spare = jnp.array([size[0] - height + 1, size[1] - width + 1])
    corners = jax.random.randint(key, (count, 2), 0, spare)
    canvas = jnp.full((*size, 3), GREY, jnp.uint8)

    def put(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(canvas, image, (corner[0], corner[1], 0))

    return jax.vmap(put)(images, corners)


def cut(image: jax.Array, corner: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The box of `size` (height, width) at a corner, int32 (top, left); (h, w, 3)."""
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (*size, 3))
