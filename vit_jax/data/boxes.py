"""The random boxes of training crops: TensorFlow's sampler, and torchvision's."""

from __future__ import annotations

import math

import numpy as np

from vit_jax.data.augment import Box

# Of the two samplers: boxes drawn before the fallback, their range of width / height.
INCEPTION_TRIES, INCEPTION_ASPECT = 100, (0.75, 1.33)
RESIZED_TRIES, RESIZED_ASPECT = 10, (3 / 4, 4 / 3)


def inception_box(
    shape: tuple[int, int], rng: np.random.Generator, area: tuple[float, float]
) -> Box:
    """Draws the box of an Inception crop: (top, left, height, width) in pixels.

    As TensorFlow's `sample_distorted_bounding_box`, with which Google's ViTs and BiT
    were trained: the aspect is uniform, then the height between those of the least and
    the most area, so that small boxes are more frequent than in `random_resized_box`.
    A box that touches the lower or the right edge without filling the side is never
    drawn. The whole image is the result of 100 draws that do not fit.

    Args:
        shape: (height, width) of the image.
        area: range of the box's share of the image.

    Source: Szegedy et al. 2015, section 6; TensorFlow's kernel for the details.
    """
    image_height, image_width = shape
    least, most = (share * image_height * image_width for share in area)
    for _ in range(INCEPTION_TRIES):
        aspect = rng.uniform(*INCEPTION_ASPECT)
        low, high = (round(math.sqrt(limit / aspect)) for limit in (least, most))
        # The largest height whose width, rounded, fits.
        high = min(high, image_height, int((image_width + 0.5 - 1e-7) / aspect))
        height = int(rng.integers(min(low, high), high + 1))
        # Rounding may have taken the area out of its range by one row.
        height += height * round(height * aspect) < least
        height -= height * round(height * aspect) > most
        width = round(height * aspect)
        fits = 0 < height <= image_height and 0 < width <= image_width
        if fits and least <= height * width <= most:
            top = int(rng.integers(max(1, image_height - height)))
            left = int(rng.integers(max(1, image_width - width)))
            return top, left, height, width
    return 0, 0, image_height, image_width


def random_resized_box(
    shape: tuple[int, int], rng: np.random.Generator, area: tuple[float, float]
) -> Box:
    """Draws the box of torchvision's RandomResizedCrop, as `inception_box`.

    Area and log aspect are uniform. A draw that does not fit is repeated, ten times at
    most; then the result is the largest centred box with an allowed aspect.
    """
    image_height, image_width = shape
    log_low, log_high = map(math.log, RESIZED_ASPECT)
    for _ in range(RESIZED_TRIES):
        box_area = image_height * image_width * rng.uniform(area[0], area[1])
        ratio = math.exp(rng.uniform(log_low, log_high))
        width = max(1, round(math.sqrt(box_area * ratio)))
        height = max(1, round(math.sqrt(box_area / ratio)))
        if width <= image_width and height <= image_height:
            top = int(rng.integers(image_height - height + 1))
            left = int(rng.integers(image_width - width + 1))
            return top, left, height, width
    width = max(1, min(image_width, round(image_height * RESIZED_ASPECT[1])))
    height = max(1, min(image_height, round(image_width / RESIZED_ASPECT[0])))
    return (image_height - height) // 2, (image_width - width) // 2, height, width


# By the name of the crop in the config.
BOXES = {"inception": inception_box, "random_resized_crop": random_resized_box}
