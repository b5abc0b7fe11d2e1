"""One fixed permutation of the image plane, the same for all images of all runs.

Patches change places, or the pixels in each patch, or both. No content is lost: what a
model loses is the worth of what it was built to know of the plane. A ViT with learned
positions loses nothing if its patches are these: with the rows of its positions in
`patch_order`, and those of its patch embedding in `pixel_order`, it is the same
function, and a random start is as likely with its rows in one order as in the other.
"""

import functools

import einops
import numpy as np
from jaxtyping import Int32, Int64, UInt8

# Of no meaning, and never to be changed: runs of several days are compared.
SEED = 2010_11929


def check_patch(image_size: tuple[int, int], patch: int) -> None:
    """Raises ValueError where patches of so many pixels a side do not tile an image."""
    if not patch or any(side % patch for side in image_size):
        height, width = image_size
        raise ValueError(
            "data.scramble needs data.scramble_patch, pixels that divide both sides of "
            f"data.image_size, {height}x{width}: it is {patch}"
        )


def scrambled(
    image: UInt8[np.ndarray, "h w 3"], patch: int, kind: str
) -> UInt8[np.ndarray, "h w 3"]:
    """The image whose pixel p, in raster order, is pixel `plane_order(...)[p]`."""
    order = plane_order(image.shape[:2], patch, kind)
    return image.reshape(-1, 3)[order].reshape(image.shape)


@functools.lru_cache(maxsize=8)
def plane_order(
    image_size: tuple[int, int], patch: int, kind: str
) -> Int32[np.ndarray, " hw"]:
    """The permutation of the pixels of an image in raster order.

    Args:
        image_size: (height, width), multiples of `patch`.
        patch: pixels a side.
        kind: `patches`, `pixels` or `both`.
    """
    rows, columns = (side // patch for side in image_size)
    places = np.arange(rows * columns * patch**2, dtype=np.int32)
    sizes = {"y": rows, "p": patch, "x": columns, "q": patch}
    blocks = einops.rearrange(places, "(y p x q) -> (y x) (p q)", **sizes)
    if kind != "pixels":
        blocks = blocks[patch_order((rows, columns))]
    if kind != "patches":
        blocks = blocks[:, pixel_order(patch)]
    return einops.rearrange(blocks, "(y x) (p q) -> (y p x q)", **sizes)


def patch_order(grid: tuple[int, int]) -> Int64[np.ndarray, " l"]:
    """The number of the patch that comes to each place of a grid, in raster order."""
    return generator(*grid).permutation(grid[0] * grid[1])


def pixel_order(patch: int) -> Int64[np.ndarray, " p"]:
    """The number of the pixel that comes to each place of every patch."""
    return generator(patch, 0).permutation(patch**2)


def generator(*numbers: int) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence((SEED, *numbers)))
    )
