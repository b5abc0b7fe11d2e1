"""Objects that stand anywhere on a larger canvas of one grey."""

import zlib

import numpy as np
from jaxtyping import UInt8

# Nearest to 0 once pixels are normalised by mean and deviation 0.5.
GREY = 128


def check_object(image_size: tuple[int, int], side: int) -> None:
    """Raises ValueError for an object that does not fit on its canvas."""
    if side > min(image_size):
        height, width = image_size
        raise ValueError(
            f"data.object_size={side} is larger than the canvas, data.image_size="
            f"{height}x{width}: lower it, or enlarge the canvas"
        )


def on_canvas(
    image: UInt8[np.ndarray, "h w 3"],
    size: tuple[int, int],
    rng: np.random.Generator | None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image at a uniformly random place of a grey canvas.

    Args:
        size: (height, width) of the canvas, no smaller than the image.
        rng: source of the place. None draws it from a checksum of the pixels, so that
            an image has one place whatever reads it, and on a larger canvas of the same
            form nearly the same place in shares of its sides.
    """
    if rng is None:
        checksum = zlib.crc32(image.tobytes())
        rng = np.random.Generator(np.random.Philox(key=checksum))
    height, width, _ = image.shape
    top = int(rng.integers(size[0] - height + 1))
    left = int(rng.integers(size[1] - width + 1))
    canvas = np.full((*size, 3), GREY, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas
