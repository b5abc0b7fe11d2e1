"""RandAugment with the sixteen operations of "How to train your ViT".

Levels, constants and truncation follow the TensorFlow implementation that the paper
used (level scale 10, fill 128, translate constant 100, cutout constant 40). Like there,
a selected operation is always applied: the probability that it draws is never used.
Unlike there, contrast blends with the mean grey, as AutoAugment defines it, and not
with the number of pixels / 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

_MAX_LEVEL = 10.0
_FILL = (128, 128, 128)
# Constants in pixels of a 224-pixel image; smaller images get their share.
_REFERENCE_SIDE = 224
_TRANSLATE = 100
_CUTOUT = 40
_GREY = np.array([0.2989, 0.5870, 0.1140], np.float32)
_LEVELS = np.arange(256)


def randaugment(
    image: np.ndarray, layers: int, magnitude: float, rng: np.random.Generator
) -> np.ndarray:
    """Applies `layers` operations, each drawn uniformly from the sixteen.

    Args:
        image: uint8 (h, w, 3).
        layers: number of operations, one after the other (l in the paper).
        magnitude: strength (m in the paper), scale 10; 20 is the paper's strongest.
          Zero is not "no change": solarize and posterize are strongest there.
        rng: source of all randomness.

    Returns:
        uint8 (h, w, 3). Geometry is nearest-neighbour with grey (128) outside.
        Translate and cutout move by a share of the image side, equal to the published
        100 and 40 pixels at level 10 for a side of 224.

    Source: Cubuk et al. 2019; Steiner et al. 2021 (arXiv 2106.10270), section 3.
    """
    image = np.ascontiguousarray(image)
    for _ in range(layers):
        operation = _OPERATIONS[int(rng.integers(len(_OPERATIONS)))]
        image = operation(image, magnitude / _MAX_LEVEL, rng)
    return image


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to 0..255; a constant channel stays; uint8 (h, w, 3)."""
    low, high = image.min((0, 1)).astype(float), image.max((0, 1)).astype(float)
    table = np.empty((256, 3), np.uint8)
    for channel in range(3):
        span = high[channel] - low[channel]
        scaled = (_LEVELS - low[channel]) * (255.0 / span) if span > 0 else _LEVELS
        table[:, channel] = np.clip(scaled, 0, 255)
    return _look_up(image, table)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flattens each channel's histogram as Pillow's equalize does; uint8 (h, w, 3)."""
    table = np.empty((256, 3), np.uint8)
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (image[..., channel].size - counts[counts > 0][-1]) // 255
        if step == 0:
            table[:, channel] = _LEVELS
        else:
            before = np.cumsum(counts) - counts
            table[:, channel] = np.clip((before + step // 2) // step, 0, 255)
    return _look_up(image, table)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest `bits` (0 to 8) bits of each value; uint8 (h, w, 3)."""
    return image & np.uint8(0xFF & ~(0xFF >> min(bits, 8)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values that reach `threshold` (0 to 256); uint8 (h, w, 3)."""
    return cv2.LUT(
        image, np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS).astype(np.uint8)
    )


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Adds `addition` to the values below 128, limited to 255; uint8 (h, w, 3)."""
    raised = np.minimum(_LEVELS + addition, 255)
    return cv2.LUT(image, np.where(_LEVELS < 128, raised, _LEVELS).astype(np.uint8))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the grey picture: 0 is grey, 1 the image; uint8 (h, w, 3)."""
    return _blend(_grey(image)[..., None], image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the mean grey: 0 is flat, 1 the image; uint8 (h, w, 3)."""
    mean = np.floor(_grey(image).mean() + 0.5)
    table = np.clip(mean + factor * (_LEVELS - mean), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies by `factor`, limited to 255; uint8 (h, w, 3)."""
    return cv2.LUT(image, np.clip(_LEVELS * factor, 0, 255).astype(np.uint8))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a smoothed picture: 0 is smooth, 1 the image; uint8 (h, w, 3).

    The border pixels stay as they are, as in Pillow.
    """
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]
    return _blend(smooth, image, factor)


def affine(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Samples the nearest pixel at matrix @ (x, y, 1), grey (128) outside.

    Args:
        image: uint8 (h, w, 3).
        matrix: (2, 3), from places in the result to places in `image`, in pixels.
    """
    return cv2.warpAffine(
        image,
        np.asarray(matrix, np.float64),
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FILL,
    )


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates about the centre, counter-clockwise if positive; uint8 (h, w, 3)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    return affine(
        image,
        np.array(
            [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]
        ),
    )


def cutout(image: np.ndarray, half_side: int, rng: np.random.Generator) -> np.ndarray:
    """Greys (128) a square of side 2 `half_side` around a random pixel.

    Takes and returns uint8 (h, w, 3); the square is clipped at the border.
    """
    row, column = int(rng.integers(image.shape[0])), int(rng.integers(image.shape[1]))
    image = image.copy()
    image[
        max(0, row - half_side) : row + half_side,
        max(0, column - half_side) : column + half_side,
    ] = _FILL
    return image


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, table.reshape(1, 256, 3))


def _grey(image: np.ndarray) -> np.ndarray:
    return np.floor(image @ _GREY)


def _blend(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    first = first.astype(np.float32)
    return np.clip(first + factor * (second - first), 0, 255).astype(np.uint8)


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _enhance(share: float) -> float:
    return 0.1 + 1.8 * share


def _shift(share: float, side: int, rng: np.random.Generator) -> float:
    return _sign(rng) * share * _TRANSLATE * side / _REFERENCE_SIDE


def _translate(image: np.ndarray, x: float, y: float) -> np.ndarray:
    return affine(image, np.array([[1, 0, x], [0, 1, y]]))


def _half_side(share: float, image: np.ndarray) -> int:
    return round(share * _CUTOUT * min(image.shape[:2]) / _REFERENCE_SIDE)


# Each takes (image, level / 10, rng). Order and ranges as in the TensorFlow original.
_OPERATIONS: tuple[
    Callable[[np.ndarray, float, np.random.Generator], np.ndarray], ...
] = (
    lambda image, _share, _rng: autocontrast(image),
    lambda image, _share, _rng: equalize(image),
    lambda image, _share, _rng: 255 - image,
    lambda image, share, rng: rotate(image, _sign(rng) * share * 30),
    lambda image, share, _rng: posterize(image, int(share * 4)),
    lambda image, share, _rng: solarize(image, int(share * 256)),
    lambda image, share, _rng: color(image, _enhance(share)),
    lambda image, share, _rng: contrast(image, _enhance(share)),
    lambda image, share, _rng: brightness(image, _enhance(share)),
    lambda image, share, _rng: sharpness(image, _enhance(share)),
    lambda image, share, rng: affine(
        image, np.array([[1, _sign(rng) * share * 0.3, 0], [0, 1, 0]])
    ),
    lambda image, share, rng: affine(
        image, np.array([[1, 0, 0], [_sign(rng) * share * 0.3, 1, 0]])
    ),
    lambda image, share, rng: _translate(image, _shift(share, image.shape[1], rng), 0),
    lambda image, share, rng: _translate(image, 0, _shift(share, image.shape[0], rng)),
    lambda image, share, rng: cutout(image, _half_side(share, image), rng),
    lambda image, share, _rng: solarize_add(image, int(share * 110)),
)
