"""RandAugment with the sixteen operations of "How to train your ViT".

Two variants. "tensorflow" computes what the code of the papers computes
(google-research/big_vision, `autoaugment.py`), accidents included:

- The threshold of solarize is a uint8 there, in which 256 wraps to 0: magnitudes 10 and
  20 invert the whole image, 15 inverts from 128 on (big_vision, issue 110).
- Contrast blends with a grey of height x width / 256 (196 at 224 pixels), since the
  authors add up the histogram's counts in the place of its mean.
- Translate and cutout move by 100 and 40 pixels at level 10, whatever the image size.

"intended" is without these: the threshold does not wrap, so that solarize changes
nothing at magnitude 10 and above, contrast blends with the mean grey, as AutoAugment
defines it, and pixels are those of a 224-pixel image, of which others get their share.

In both, a selected operation is always applied: the probability that the original draws
is never used. Posterize keeps at least one bit, as TensorFlow, which limits shifts of
uint8 to 7 bits, and Pillow do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

_MAX_LEVEL = 10.0
_FILL = (128, 128, 128)
_REFERENCE_SIDE = 224
_TRANSLATE = 100
_CUTOUT = 40
_GREY = np.array([0.2989, 0.5870, 0.1140], np.float32)
_LEVELS = np.arange(256, dtype=np.float32)
# Of sharpness, float32 numbers as float64.
_OUTER, _INNER = (np.float64(np.float32(x) / np.float32(13)) for x in (1, 5))
_BAND = 32

Operation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def randaugment(
    image: np.ndarray,
    layers: int,
    magnitude: float,
    rng: np.random.Generator,
    variant: str = "tensorflow",
) -> np.ndarray:
    """Applies `layers` operations, each drawn uniformly from the sixteen.

    Args:
        image: uint8 (h, w, 3).
        layers: number of operations, one after the other (l in the paper).
        magnitude: strength (m in the paper), scale 10; 20 is the paper's strongest.
          Zero is not "no change": solarize and posterize are strongest there.
        rng: source of all randomness.
        variant: "tensorflow", or "intended", as above.

    Returns:
        uint8 (h, w, 3). Geometry is nearest-neighbour with grey (128) outside.

    Source: Cubuk et al. 2019; Steiner et al. 2021 (arXiv 2106.10270), section 3.
    """
    image = np.ascontiguousarray(image)
    operations = tuple(OPERATIONS[variant].values())
    for _ in range(layers):
        operation = operations[int(rng.integers(len(operations)))]
        image = operation(image, magnitude / _MAX_LEVEL, rng)
    return image


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to 0..255; a constant channel stays; uint8 (h, w, 3)."""
    table = np.empty((256, 3), np.uint8)
    # Split first: a minimum over interleaved channels takes twenty times as long.
    for channel, values in enumerate(cv2.split(image)):
        low, high = np.float32(values.min()), np.float32(values.max())
        scale = np.float32(255 / (high - low)) if high > low else np.float32(1)
        offset = -low * scale if high > low else np.float32(0)
        table[:, channel] = np.clip(_LEVELS * scale + offset, 0, 255)
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
    """Keeps the highest `bits` (1 to 8) bits of each value; uint8 (h, w, 3)."""
    return image & np.uint8(0xFF & ~(0xFF >> max(1, min(bits, 8))))


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
    return cv2.LUT(image, _blend(mean * np.ones(256), _LEVELS, factor))


def contrast_by_size(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a grey of number of pixels / 256, as TensorFlow; uint8 (h, w, 3)."""
    grey = np.floor(min(255.0, image.shape[0] * image.shape[1] / 256))
    return cv2.LUT(image, _blend(grey * np.ones(256), _LEVELS, factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies by `factor`, limited to 255; uint8 (h, w, 3)."""
    return cv2.LUT(image, _blend(np.zeros(256), _LEVELS, factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a smoothed picture: 0 is smooth, 1 the image; uint8 (h, w, 3).

    The border pixels stay as they are, as in Pillow.
    """
    if min(image.shape[:2]) < 3:
        return image
    smooth = image.copy()
    # In bands of rows, whose sums stay in the processor's cache.
    for first in range(1, image.shape[0] - 1, _BAND):
        rows = image[first - 1 : first + _BAND + 1]
        smooth[first : first + len(rows) - 2, 1:-1] = _smoothed(rows)
    return _blend(smooth, image, factor)


def _smoothed(image: np.ndarray) -> np.ndarray:
    """Weighted means over 3 x 3 pixels, without the border, float32."""
    height, width = image.shape[:2]
    # One axis: a neighbour is then a fixed number of values away, and an addition is of
    # contiguous values. The sums that reach into the next row are cut off at the end.
    length = 3 * ((height - 2) * width - 2)
    outer, inner = image.ravel() * _OUTER, image.ravel() * _INNER
    sums = np.zeros(3 * (height - 2) * width, np.float32)
    total = sums[:length]
    # TensorFlow's order, and its one rounding for a product and its sum: truncation
    # then makes the same whole numbers of flat parts one less.
    for row, column in np.ndindex(3, 3):
        first = 3 * (row * width + column)
        part = (inner if row == column == 1 else outer)[first : first + length]
        np.add(total, part, out=total, dtype=np.float64, casting="unsafe")
    return sums.reshape(height - 2, width, 3)[:, :-2]


def affine(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Samples the nearest pixel at matrix @ (x, y, 1), grey (128) outside.

    Args:
        image: uint8 (h, w, 3).
        matrix: (2, 3), from places in the result to places in `image`, in pixels.
    """
    # As TensorFlow, in float32 and with halves rounded away from zero: OpenCV's own
    # warp takes another pixel in one place of a hundred.
    y, x = (np.arange(side, dtype=np.float32) for side in image.shape[:2])
    y = y[:, None]
    nearest = np.empty((*image.shape[:2], 2), np.int16)
    for axis, (by_x, by_y, shift) in enumerate(np.asarray(matrix, np.float32)):
        # What a place does not depend on is left out: a row or column is enough then.
        place = by_x * x if by_x else np.float32(0)
        place = (place + by_y * y if by_y else place) + shift
        nearest[..., axis] = place + np.copysign(np.float32(0.5), place)
    return cv2.remap(
        image,
        nearest,
        np.empty(0, np.uint16),  # the fractions of places, of which there are none
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FILL,
    )


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates about the centre, counter-clockwise if positive; uint8 (h, w, 3)."""
    angle = np.float32(degrees * math.pi / 180)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = np.float32(image.shape[1] - 1), np.float32(image.shape[0] - 1)
    return affine(
        image,
        np.array(
            [
                [cos, -sin, (x - (cos * x - sin * y)) / 2],
                [sin, cos, (y - (sin * x + cos * y)) / 2],
            ]
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
    # As TensorFlow: to [0, 1], and back by 255.5 without its fraction.
    share = image.astype(np.float32) * np.float32(1 / 255)
    return np.floor(share @ _GREY * np.float32(255.5))


def _blend(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    first, second = first.astype(np.float32), second.astype(np.float32)
    return np.clip(first + np.float32(factor) * (second - first), 0, 255).astype(
        np.uint8
    )


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _enhance(share: float) -> float:
    return 0.1 + 1.8 * share


def _translate(image: np.ndarray, x: float, y: float) -> np.ndarray:
    return affine(image, np.array([[1, 0, x], [0, 1, y]]))


def _part(image: np.ndarray, axis: int) -> float:
    """The side of an image as a multiple of 224 pixels."""
    return image.shape[axis] / _REFERENCE_SIDE


# Each takes (image, level / 10, rng). Order and ranges as in the TensorFlow original.
_INTENDED: dict[str, Operation] = {
    "AutoContrast": lambda image, _share, _rng: autocontrast(image),
    "Equalize": lambda image, _share, _rng: equalize(image),
    "Invert": lambda image, _share, _rng: 255 - image,
    "Rotate": lambda image, share, rng: rotate(image, _sign(rng) * share * 30),
    "Posterize": lambda image, share, _rng: posterize(image, int(share * 4)),
    "Solarize": lambda image, share, _rng: solarize(image, int(share * 256)),
    "Color": lambda image, share, _rng: color(image, _enhance(share)),
    "Contrast": lambda image, share, _rng: contrast(image, _enhance(share)),
    "Brightness": lambda image, share, _rng: brightness(image, _enhance(share)),
    "Sharpness": lambda image, share, _rng: sharpness(image, _enhance(share)),
    "ShearX": lambda image, share, rng: affine(
        image, np.array([[1, _sign(rng) * share * 0.3, 0], [0, 1, 0]])
    ),
    "ShearY": lambda image, share, rng: affine(
        image, np.array([[1, 0, 0], [_sign(rng) * share * 0.3, 1, 0]])
    ),
    "TranslateX": lambda image, share, rng: _translate(
        image, _sign(rng) * share * _TRANSLATE * _part(image, 1), 0
    ),
    "TranslateY": lambda image, share, rng: _translate(
        image, 0, _sign(rng) * share * _TRANSLATE * _part(image, 0)
    ),
    "Cutout": lambda image, share, rng: cutout(
        image, round(share * _CUTOUT * min(_part(image, 0), _part(image, 1))), rng
    ),
    "SolarizeAdd": lambda image, share, _rng: solarize_add(image, int(share * 110)),
}
_TENSORFLOW: dict[str, Operation] = {
    "Solarize": lambda image, share, _rng: solarize(image, int(share * 256) % 256),
    "Contrast": lambda image, share, _rng: contrast_by_size(image, _enhance(share)),
    "TranslateX": lambda image, share, rng: _translate(
        image, _sign(rng) * share * _TRANSLATE, 0
    ),
    "TranslateY": lambda image, share, rng: _translate(
        image, 0, _sign(rng) * share * _TRANSLATE
    ),
    "Cutout": lambda image, share, rng: cutout(image, int(share * _CUTOUT), rng),
}
# Of each variant, in the order in which they are drawn.
OPERATIONS = {"tensorflow": _INTENDED | _TENSORFLOW, "intended": _INTENDED}
