"""Random weights and pixels that are the same everywhere, so that none are stored.

A tensor depends on its name and shape alone: `RandomState` promises its numbers for
ever, and nothing is done with them but sums and products.
"""

import zlib

import numpy as np


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 tensor that shows if it is forgotten, swapped or transposed.

    Kernels keep the size of what goes through them, scales are in [0.5, 1.5], biases
    and tokens are far from zero.
    """
    x = uniform(name, shape)
    if name.endswith("bias"):
        x = 0.3 * x
    elif len(shape) == 1:
        x = 1 + 0.5 * x
    elif shape[0] > 1:
        x = x * np.sqrt(3 / np.prod(shape[1:]))
    return x.astype(np.float32)


def random_pixels(image_size: tuple[int, int]) -> np.ndarray:
    """Two images of float32 pixels in [0, 1], (2, height, width, 3)."""
    x = uniform("pixels", (2, *image_size, 3))
    return ((x + 1) / 2).astype(np.float32)


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return 2 * generator.random_sample(shape) - 1
