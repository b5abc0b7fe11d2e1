"""3-Augment and colour jitter, the augmentation of DeiT III (arXiv 2204.07118).

The blur's radius and the jitter's factors are those of facebookresearch/deit,
`augment.py`; the operations themselves are RandAugment's, which equal Pillow's.
"""

from __future__ import annotations

import cv2
import numpy as np

from vit_jax.data.randaug import brightness, color, contrast, solarize

_BLUR_SIGMA = (0.1, 2.0)  # pixels
_SOLARIZE_THRESHOLD = 128


def three_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies one of greyscale, solarisation and Gaussian blur, drawn uniformly.

    Args:
        image: uint8 (h, w, 3).
        rng: source of all randomness.

    Returns:
        uint8 (h, w, 3).
    """
    operation = int(rng.integers(3))
    if operation == 0:
        return color(image, 0.0)
    if operation == 1:
        return solarize(np.ascontiguousarray(image), _SOLARIZE_THRESHOLD)
    return blur(image, rng.uniform(*_BLUR_SIGMA))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of standard deviation `sigma` pixels; uint8 (h, w, 3).

    The border pixels are repeated outside.
    """
    return cv2.GaussianBlur(
        np.ascontiguousarray(image), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE
    )


def color_jitter(
    image: np.ndarray, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Changes brightness, contrast and saturation, in an order drawn at random.

    Args:
        image: uint8 (h, w, 3).
        strength: each factor is uniform in [max(0, 1 - strength), 1 + strength].
        rng: source of all randomness.

    Returns:
        uint8 (h, w, 3).
    """
    image = np.ascontiguousarray(image)
    operations = (brightness, contrast, color)
    for number in rng.permutation(len(operations)):
        factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
        image = operations[number](image, factor)
    return image
