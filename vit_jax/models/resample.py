"""Learned weights for another grid of patches, or another patch size.

Position embeddings are interpolated on their grid (arXiv 2010.11929, section 3.2);
patch embeddings are resized by a pseudo-inverse (FlexiViT, arXiv 2212.08013).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resample_grid(
    table: Float[Array, "h w d"] | Float[np.ndarray, "h w d"],
    grid: tuple[int, int],
    method: str = "bilinear",
) -> Float[Array, "_ _ d"] | Float[np.ndarray, "_ _ d"]:
    """Interpolates a table on a grid, square or not, to another one.

    Args:
        table: a vector for each place of the old grid.
        grid: rows and columns wanted; if they are there already, the table itself is
            returned.
        method: `bilinear`, corners on corners, as the paper's code does
            (`scipy.ndimage.zoom` of order 1). The others put borders on borders:
            `bicubic`, antialiased, as timm does; `bicubic_plain`, without, as
            transformers; `linear`, antialiased, as FlexiViT's authors; `linear_plain`,
            without, as timm does for FlexiViT.

    Raises:
        ValueError: unknown method.
    """
    if method not in MATRICES:
        raise ValueError(
            f"unknown resampling {method!r}: wanted one of {', '.join(MATRICES)}"
        )
    if table.shape[:2] == tuple(grid):
        return table
    rows, columns = (
        MATRICES[method](*sizes) for sizes in zip(table.shape[:2], grid, strict=True)
    )
    return jnp.einsum("Hh,Ww,hwd->HWd", rows, columns, table, precision="highest")


def corner_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Linear interpolation of `old` values at `new` places, the ends on the ends."""
    places = np.linspace(0, old - 1, new)
    distance = np.abs(places[:, None] - np.arange(old))
    return np.maximum(0, 1 - distance).astype(np.float32)


def area_matrix(
    old: int, new: int, kernel: str = "cubic", *, antialias: bool = True
) -> Float[np.ndarray, "new old"]:
    """Cubic (Keys, a = -0.5) or linear interpolation, borders on borders."""
    eye = np.eye(old, dtype=np.float32)
    return np.asarray(jax.image.resize(eye, (new, old), kernel, antialias=antialias))


def linear_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Linear interpolation between two neighbours, borders on borders."""
    return area_matrix(old, new, "linear", antialias=False)


def plain_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Cubic interpolation of torch's `interpolate` (Keys, a = -0.75), borders on
    borders: four neighbours, of which those outside repeat the last inside."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((new, old))
    for neighbour in range(-1, 3):
        x = np.abs(places - first - neighbour)
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        column = np.clip(first + neighbour, 0, old - 1)
        np.add.at(matrix, (np.arange(new), column), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


MATRICES = {
    "bilinear": corner_matrix,
    "bicubic": area_matrix,
    "bicubic_plain": plain_matrix,
    "linear": functools.partial(area_matrix, kernel="linear"),
    "linear_plain": linear_matrix,
}


def resample_patches(
    kernel: Float[Array, "p q c d"] | Float[np.ndarray, "p q c d"],
    patch_size: tuple[int, int],
    method: str = "bilinear",
) -> Float[Array, "_ _ c d"] | Float[np.ndarray, "_ _ c d"]:
    """Resizes a patch embedding so that resized patches give the same tokens.

    With B the matrix that resizes a patch, the new kernel is the pseudo-inverse of
    B^T times the old one (FlexiViT, section 3.4): exact if patches grow, the nearest
    in the mean over white noise if they shrink.

    Args:
        kernel: the last axes, input and output features, are left alone.
        patch_size: (height, width) wanted, in the kernel's own unit; if it is that
            already, the kernel itself is returned.
        method: that of the positions. B is `linear_plain` with the linear ones, as in
            FlexiViT's code, and else `bicubic`, as timm's.
    """
    if kernel.shape[:2] == tuple(patch_size):
        return kernel
    matrix = linear_matrix if method in ("linear", "linear_plain") else area_matrix
    # The resize is separable, and so is its pseudo-inverse.
    rows, columns = (
        np.linalg.pinv(matrix(*sizes).T.astype(np.float64)).astype(np.float32)
        for sizes in zip(kernel.shape[:2], patch_size, strict=True)
    )
    return jnp.einsum("Pp,Qq,pqcd->PQcd", rows, columns, kernel, precision="highest")


def resample_offsets(
    table: Float[Array, "o d"] | Float[np.ndarray, "o d"], size: int
) -> Float[Array, "_ d"] | Float[np.ndarray, "_ d"]:
    """Interpolates a table of the 2n - 1 offsets -(n-1)..(n-1) to another n."""
    return resample_grid(table[:, None], (2 * size - 1, 1))[:, 0]


def resample_raster_offsets(
    table: Float[Array, "o d"] | Float[np.ndarray, "o d"],
    old: tuple[int, int],
    new: tuple[int, int],
) -> Float[Array, "_ d"] | Float[np.ndarray, "_ d"]:
    """Interpolates a table of raster offsets to another grid.

    A raster offset k stands for several steps on the grid: k = rows * width + columns.
    The one with the fewest columns is taken, scaled to the old grid, and read there
    between its four neighbours.
    """
    if tuple(old) == tuple(new):
        return table
    count = new[0] * new[1]
    offsets = np.arange(1 - count, count)
    rows = np.rint(offsets / new[1])
    columns = offsets - rows * new[1]
    rows *= (old[0] - 1) / max(new[0] - 1, 1)
    columns *= (old[1] - 1) / max(new[1] - 1, 1)
    middle = old[0] * old[1] - 1
    total = 0.0
    for row in (np.floor(rows), np.floor(rows) + 1):
        for column in (np.floor(columns), np.floor(columns) + 1):
            share = (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
            place = np.clip(row * old[1] + column + middle, 0, 2 * middle).astype(int)
            total += share[:, None].astype(np.float32) * table[place]
    return total


def resample_bias(
    table: Float[Array, "h w k"] | Float[np.ndarray, "h w k"], grid: tuple[int, int]
) -> Float[Array, "_ _ k"] | Float[np.ndarray, "_ _ k"]:
    """Interpolates the numbers of all row and column offsets to another grid's."""
    return resample_grid(table, (2 * grid[0] - 1, 2 * grid[1] - 1))


def resample_relative(
    name: str, table: Any, old: tuple[int, int], new: tuple[int, int]
) -> Any:
    """A parameter of relative positions, by its name in their module."""
    if name == "embedding":
        return resample_raster_offsets(table, old, new)
    if name == "offsets":
        return resample_bias(table, new)
    if name in ("row", "column"):
        return resample_offsets(table, new[name == "column"])
    return table


def resample_params(
    params: dict[str, Any], old: Any, new: Any, method: str = "bilinear"
) -> dict[str, Any]:
    """Fits the parameters of one Vision Transformer to another grid or patch size.

    Args:
        params: of `old`; what depends on neither grid nor patch size is not touched.
        old, new: models that differ in `image_size` or `patch_size` only.
        method: as in `resample_grid`.
    """

    def convert(path: tuple[Any, ...], leaf: Any) -> Any:
        *above, name = (key.key for key in path)
        parent = above[-1] if above else ""
        if above == ["embedding"] and name == "kernel":
            side = leaf.shape[0] * new.patch_size // old.patch_size
            return resample_patches(leaf, (side, side), method)
        if parent == "relative_positions":
            return resample_relative(name, leaf, old.grid, new.grid)
        if parent != "positions" or name == "class_token":
            return leaf
        if name in ("row", "column"):
            size = new.grid[name == "column"]
            return resample_grid(leaf[:, None], (size, 1), method)[:, 0]
        prefix = leaf.shape[1] - old.grid[0] * old.grid[1]
        return resample_table(leaf, old.grid, new.grid, prefix, method)

    return jax.tree_util.tree_map_with_path(convert, params)


def resample_table(
    table: Float[Array, "1 l d"] | Float[np.ndarray, "1 l d"],
    old: tuple[int, int],
    new: tuple[int, int],
    prefix: int,
    method: str = "bilinear",
) -> Float[Array, "1 _ d"] | Float[np.ndarray, "1 _ d"]:
    """Resamples a position table in raster order behind `prefix` rows, kept as is."""
    if tuple(old) == tuple(new):
        return table
    patches = resample_grid(table[0, prefix:].reshape(*old, -1), new, method)
    patches = patches.reshape(1, new[0] * new[1], -1)
    return jnp.concatenate([table[:, :prefix], patches], axis=1)
