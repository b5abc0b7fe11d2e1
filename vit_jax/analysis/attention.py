"""How far attention looks (arXiv 2010.11929, section 4.5, Figs 7 and 11).

Distances are between the centres of patches, in pixels of the model's input. The paper
does not mention the class token; here the rows and columns of prefix tokens (class
token, registers) are left out, and each remaining row is divided by its sum. So uniform
attention gives `uniform_attention_distance` with or without a class token. A well-known
reimplementation (Keras, "Probing ViTs") does not divide: `renormalize=False`.

Axes: `b` images, `k` heads, `l` tokens as queries, then as keys, `n` patches.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def token_distances(grid: tuple[int, int], patch_size: int) -> Float[np.ndarray, "n n"]:
    """Euclidean distances in pixels between the centres of the patches of a grid.

    Args:
        grid: rows and columns; patches are in raster order.
        patch_size: pixels a side.
    """
    y, x = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    return patch_size * np.hypot(y[:, None] - y, x[:, None] - x)


def mean_attention_distance(
    weights: Float[ArrayLike, "b k l l"],
    grid: tuple[int, int],
    patch_size: int,
    *,
    num_prefix_tokens: int,
    renormalize: bool = True,
) -> Float[Array, " k"]:
    """Mean over images and query patches of the attention distance.

    That of a query is the sum over the patches of attention times distance.

    Args:
        weights: attention probabilities of a layer.
        grid, patch_size: as `token_distances`.
        num_prefix_tokens: tokens before the patches.
        renormalize: divide a query's attention by its sum over the patches.

    Returns:
        Pixels, for each head.

    Raises:
        ValueError: the weights have another number of tokens.
    """
    weights = patch_attention(weights, grid, num_prefix_tokens, renormalize)
    distances = jnp.asarray(token_distances(grid, patch_size), weights.dtype)
    return jnp.einsum("bkij,ij->bki", weights, distances).mean(axis=(0, 2))


def uniform_attention_distance(
    grid: tuple[int, int], patch_size: int, *, include_self: bool = True
) -> float:
    """The `mean_attention_distance` of uniform attention.

    Args:
        include_self: whether a patch attends to itself too.

    Returns:
        Pixels; 116.5 for 14 x 14 patches of 16 pixels.
    """
    distances = token_distances(grid, patch_size)
    n = len(distances)
    pairs = n * n if include_self else n * (n - 1)
    return float(distances.sum() / pairs)


def distance_ratio(
    distances: Float[ArrayLike, "..."], grid: tuple[int, int], patch_size: int
) -> Float[Array, "..."]:
    """Attention distances over that of uniform attention; comparable between grids.

    0 is attention of each patch to itself only, 1 that of uniform attention.

    Raises:
        ValueError: the grid has only one patch.
    """
    if grid[0] * grid[1] < 2:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} patches has no distances")
    return jnp.asarray(distances) / uniform_attention_distance(grid, patch_size)


def attention_entropy(
    weights: Float[ArrayLike, "b k l l"], *, normalize: bool = False
) -> Float[Array, " k"]:
    """Mean over images and queries of the entropy of attention, for each head.

    Queries and keys are all tokens, those before the patches too.

    Args:
        weights: attention probabilities; rows sum to 1.
        normalize: divide by that of uniform attention, log l.

    Returns:
        Nats from 0 (one token) to log l (uniform); normalised, from 0 to 1.
    """
    weights = jnp.asarray(weights)
    entropy = jax.scipy.special.entr(weights).sum(axis=-1).mean(axis=(0, 2))
    return entropy / np.log(weights.shape[-1]) if normalize else entropy


def attention_mass_within(
    weights: Float[ArrayLike, "b k l l"],
    grid: tuple[int, int],
    radius: int,
    *,
    num_prefix_tokens: int,
) -> Float[Array, " k"]:
    """Share of attention in a window of (2 radius + 1)^2 patches around the query.

    The window ends at the border of the image. Radius 1 is a 3 x 3 convolution's.

    Args:
        weights: attention probabilities of a layer.
        grid: rows and columns of patches.
        num_prefix_tokens: tokens before the patches; they are left out.

    Returns:
        Mean over images and query patches, in [0, 1], for each head; uniform attention
        has `uniform_mass_within`.

    Raises:
        ValueError: the weights have another number of tokens.
    """
    weights = patch_attention(weights, grid, num_prefix_tokens, renormalize=True)
    inside = jnp.asarray(window(grid, radius), weights.dtype)
    return jnp.einsum("bkij,ij->bki", weights, inside).mean(axis=(0, 2))


def uniform_mass_within(grid: tuple[int, int], radius: int) -> float:
    """The `attention_mass_within` of uniform attention."""
    return float(window(grid, radius).mean())


def window(grid: tuple[int, int], radius: int) -> np.ndarray:
    """Which patches (n n, bool) are at most `radius` rows and columns apart."""
    return steps_apart(grid) <= radius


def steps_apart(grid: tuple[int, int]) -> np.ndarray:
    """Rows or columns between patches (n n, integers), whichever are more."""
    y, x = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    return np.maximum(abs(y[:, None] - y), abs(x[:, None] - x))


def patch_attention(
    weights: Float[ArrayLike, "b k l l"],
    grid: tuple[int, int],
    num_prefix_tokens: int,
    renormalize: bool,
) -> Float[Array, "b k n n"]:
    """Attention of patches to patches; `renormalize` makes rows sum to 1 again.

    Raises:
        ValueError: the weights have another number of tokens.
    """
    weights = jnp.asarray(weights)
    tokens = num_prefix_tokens + grid[0] * grid[1]
    if weights.shape[-1] != tokens:
        raise ValueError(
            f"the attention weights are of {weights.shape[-1]} tokens: wanted {tokens}"
            f", a grid of {grid[0]} x {grid[1]} after {num_prefix_tokens} prefix tokens"
        )
    weights = weights[..., num_prefix_tokens:, num_prefix_tokens:]
    if renormalize:
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / jnp.maximum(total, jnp.finfo(weights.dtype).tiny)
    return weights
