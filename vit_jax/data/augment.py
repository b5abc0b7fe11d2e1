"""Host-side geometry of images: crops, resizes and the flip, uint8 in, uint8 out.

Everything is a pure function of its arguments and of the generator passed in.
Training resizes with OpenCV's bilinear filter (fast, not antialiased); evaluation
with Pillow's (antialiased, equal to `jax.image.resize` to one grey level), bilinear or
bicubic, with which other projects evaluate too.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # top, left, height, width, in pixels
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
FILTERS = tuple(_FILTERS)


def resized_box(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Cuts a box and resizes it; uint8 (h, w, 3) to uint8 (height, width, 3)."""
    top, left, height, width = box
    return resize(image[top : top + height, left : left + width], size)


def random_crop(
    image: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Cuts a box of `size` (height, width) at a uniformly random place.

    Takes uint8 (h, w, 3), returns uint8 (height, width, 3).

    Raises:
        ValueError: the image is smaller than `size`.
    """
    rows, columns = _spare(image, size)
    top, left = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
    return image[top : top + size[0], left : left + size[1]]


def padded_random_crop(
    image: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    padding: int = 4,
) -> np.ndarray:
    """Resizes to cover `size`, pads by reflection, cuts a box at a random place.

    The "simple random crop" of DeiT III (arXiv 2204.07118): nearly all of the image is
    kept. Takes uint8 (h, w, 3), returns uint8 (height, width, 3).

    Args:
        size: (height, width) of the result.
        rng: source of all randomness.
        padding: pixels added on each side.
    """
    return random_crop(padded(image, size, padding=padding), size, rng)


def padded(image: np.ndarray, size: tuple[int, int], *, padding: int = 4) -> np.ndarray:
    """Resizes to cover `size` and pads each side by reflection; uint8 (h, w, 3)."""
    sides = ((padding, padding), (padding, padding), (0, 0))
    return np.pad(resize_small(image, size), sides, mode="reflect")


def center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts a box of `size` (height, width) from the middle.

    Takes uint8 (h, w, 3), returns uint8 (height, width, 3).

    Raises:
        ValueError: the image is smaller than `size`.
    """
    rows, columns = _spare(image, size)
    top, left = rows // 2, columns // 2
    return image[top : top + size[0], left : left + size[1]]


def _spare(image: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = image.shape[0] - size[0], image.shape[1] - size[1]
    if rows < 0 or columns < 0:
        raise ValueError(
            f"a crop of {size[0]}x{size[1]} pixels does not fit into an image of "
            f"{image.shape[0]}x{image.shape[1]}; resize the image to more than that"
        )
    return rows, columns


def resize(
    image: np.ndarray, size: tuple[int, int], *, antialias: str = ""
) -> np.ndarray:
    """Resizes to `size` (height, width), ignoring the aspect.

    Args:
        image: uint8 (h, w, 3).
        size: (height, width) of the result.
        antialias: "" is OpenCV's bilinear filter (training); "bilinear" and "bicubic"
          are Pillow's (evaluation).

    Returns:
        uint8 (height, width, 3); the image itself if it has that size already.
    """
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    if antialias:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize((width, height), _FILTERS[antialias]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_small(
    image: np.ndarray, size: tuple[int, int], *, antialias: str = ""
) -> np.ndarray:
    """Resizes, keeping the aspect, to the smallest image that covers `size`.

    For a square `size` (s, s) the smaller side becomes s, hence the name.

    Args:
        image: uint8 (h, w, 3).
        size: (height, width) to cover.
        antialias: as in `resize`.

    Returns:
        uint8 (at least height, at least width, 3), one of the two being equal.
    """
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height = max(size[0], round(image.shape[0] * scale))
    width = max(size[1], round(image.shape[1] * scale))
    return resize(image, (height, width), antialias=antialias)


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left and right with probability one half; uint8 (h, w, 3)."""
    return flip(image) if rng.random() < 0.5 else image


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors left and right; uint8 (h, w, 3), a copy."""
    # NumPy takes twenty times as long to copy a mirrored view into a batch.
    return cv2.flip(image, 1)


def enlarged(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Scales (height, width) so that the longer side is `longer`; 0 scales by 8/7."""
    scale = longer / max(size) if longer else 8 / 7
    return max(size[0], round(size[0] * scale)), max(size[1], round(size[1] * scale))
