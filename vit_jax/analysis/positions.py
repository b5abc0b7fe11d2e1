"""The 2-D structure of position embeddings (arXiv 2010.11929, Figs 7 and 10).

The paper shows the cosine similarities; here three numbers summarise them, each with
the value for an embedding without structure:

    rank_correlation_with_distance  0, with a deviation of about 1 / sqrt(n (n - 1))
    true_neighbour_share            chance_neighbour_share
    row_column_r2                   chance_row_column_r2

Axes: `n` patches in raster order, `d` features.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.stats import rankdata

from vit_jax.analysis.attention import token_distances, window

CONNECTIVITIES = (4, 8)


def position_similarity(table: Float[ArrayLike, "n d"]) -> Float[np.ndarray, "n n"]:
    """Cosine similarities of the positions of patches, in [-1, 1] (Fig. 7, centre).

    Args:
        table: a vector for each patch, without the class token's.

    Raises:
        ValueError: a vector is zero and has no direction.
    """
    vectors = np.asarray(table, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(
            "a position embedding of zeros has no direction: there is no cosine "
            f"similarity for {np.sum(lengths == 0)} of the {len(vectors)} patches"
        )
    vectors = vectors / lengths
    return vectors @ vectors.T


def rank_correlation_with_distance(
    similarity: Float[ArrayLike, "n n"], grid: tuple[int, int]
) -> float:
    """Spearman's correlation of similarity and nearness, mean over the patches.

    Each patch is correlated over all others, as in its tile of the paper's figure, so
    that only similarities to the same patch are compared. Ties have their mean rank.

    Args:
        grid: rows and columns of patches.

    Returns:
        In [-1, 1]; 1 where the nearer of two patches is always the more similar, and
        patches equally far equally similar; 0 by chance. A patch that is equally
        similar to all others counts 0.

    Raises:
        ValueError: the grid has another number of patches, or fewer than 3.
    """
    similarity = checked(similarity, grid, at_least=3)
    others = ~np.eye(len(similarity), dtype=bool)
    correlations = []
    for row, near, other in zip(
        similarity, -token_distances(grid, 1), others, strict=True
    ):
        one, two = rankdata(row[other]), rankdata(near[other])
        one, two = one - one.mean(), two - two.mean()
        size = np.sqrt((one @ one) * (two @ two))
        correlations.append(one @ two / size if size else 0.0)
    return float(np.mean(correlations))


def true_neighbour_share(
    similarity: Float[ArrayLike, "n n"],
    grid: tuple[int, int],
    *,
    connectivity: int = 8,
) -> float:
    """Share of patches whose most similar other patch is a neighbour on the grid.

    Args:
        grid: rows and columns of patches.
        connectivity: 4, above, below, left and right; or 8, diagonals too.

    Returns:
        In [0, 1]; by chance `chance_neighbour_share`. A patch with several most similar
        others counts by the share of them that are neighbours.

    Raises:
        ValueError: the grid has another number of patches or a single one, or
            another connectivity.
    """
    similarity = checked(similarity, grid, at_least=2)
    neighbours = neighbourhood(grid, connectivity)
    others = np.where(np.eye(len(similarity), dtype=bool), -np.inf, similarity)
    best = others == others.max(axis=1, keepdims=True)
    return float(np.mean((best & neighbours).sum(axis=1) / best.sum(axis=1)))


def chance_neighbour_share(grid: tuple[int, int], *, connectivity: int = 8) -> float:
    """The `true_neighbour_share` if the most similar patch is any other one."""
    neighbours = neighbourhood(grid, connectivity)
    return float(neighbours.sum() / (len(neighbours) * (len(neighbours) - 1)))


def row_column_r2(similarity: Float[ArrayLike, "n n"], grid: tuple[int, int]) -> float:
    """Share of the variance of similarity that an additive model explains.

    R^2 of the best S_ij = f(|y_i - y_j|) + g(|x_i - x_j|) with any f and g, over all
    pairs of two patches. High for a learned or fixed 2-D embedding, whose halves are
    column and row, and for the rows and columns that the paper sees in Fig. 7.

    Args:
        grid: rows and columns of patches.

    Returns:
        In [0, 1]; by chance `chance_row_column_r2`. 0 if all similarities are the same.

    Raises:
        ValueError: the grid has another number of patches, or fewer than 3.
    """
    similarity = checked(similarity, grid, at_least=3)
    i, j = np.triu_indices(len(similarity), k=1)
    target = similarity[i, j] - similarity[i, j].mean()
    total = target @ target
    # Similarities that differ by rounding alone have no variance to explain.
    if total <= len(target) * np.finfo(np.float32).eps ** 2:
        return 0.0
    (y1, x1), (y2, x2) = (np.unravel_index(k, grid) for k in (i, j))
    rows = abs(y1 - y2)[:, None] == np.arange(grid[0])
    columns = abs(x1 - x2)[:, None] == np.arange(grid[1])
    regressors = np.hstack([rows, columns]).astype(np.float64)
    fit = regressors @ np.linalg.lstsq(regressors, target, rcond=None)[0]
    rest = target - fit
    return float(1 - rest @ rest / total)


def chance_row_column_r2(grid: tuple[int, int]) -> float:
    """The mean of `row_column_r2` over similarities that are independent noise."""
    n = grid[0] * grid[1]
    return (grid[0] + grid[1] - 2) / (n * (n - 1) / 2 - 1)


def neighbourhood(grid: tuple[int, int], connectivity: int) -> np.ndarray:
    """Which patches (n n, bool) are neighbours.

    Raises:
        ValueError: another connectivity than 4 or 8.
    """
    if connectivity not in CONNECTIVITIES:
        raise ValueError(f"connectivity is {connectivity}: wanted 4 or 8")
    if connectivity == 8:
        return window(grid, 1) & ~window(grid, 0)
    return token_distances(grid, 1) == 1


def checked(
    similarity: Float[ArrayLike, "n n"], grid: tuple[int, int], *, at_least: int
) -> np.ndarray:
    """The similarities as float64.

    Raises:
        ValueError: the grid has another number of patches, or of too few.
    """
    similarity = np.asarray(similarity, np.float64)
    rows, columns = grid
    if len(similarity) != rows * columns:
        raise ValueError(
            f"the similarities are of {len(similarity)} patches: wanted "
            f"{rows * columns}, for a grid of {rows} x {columns}"
        )
    if len(similarity) < at_least:
        raise ValueError(
            f"a grid of {rows} x {columns} patches is too small: wanted at least "
            f"{at_least} patches"
        )
    return similarity
