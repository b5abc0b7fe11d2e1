"""Measures of position embeddings and filters, on tables made for the purpose."""

import numpy as np
import pytest

from vit_jax.analysis.attention import token_distances
from vit_jax.analysis.filters import principal_filters
from vit_jax.analysis.positions import (
    chance_neighbour_share,
    chance_row_column_r2,
    position_similarity,
    rank_correlation_with_distance,
    row_column_r2,
    true_neighbour_share,
)
from vit_jax.models.positions import sincos2d

GRID = (6, 7)
RNG = np.random.default_rng(0)


def noise(n: int, rng: np.random.Generator = RNG) -> np.ndarray:
    """A symmetric matrix of independent numbers."""
    upper = np.triu(rng.normal(size=(n, n)), 1)
    return upper + upper.T


def test_cosines():
    table = np.array([[1.0, 0.0], [3.0, 3.0], [-2.0, 0.0]], np.float32)
    half = 0.5**0.5
    expected = [[1, half, -1], [half, 1, -half], [-1, -half, 1]]
    np.testing.assert_allclose(position_similarity(table), expected, atol=1e-12)


def test_fixed_positions_know_the_plane():
    similarity = position_similarity(sincos2d(*GRID, 64))
    # The similarity is a sum of cosines of the offset in x and of that in y.
    assert row_column_r2(similarity, GRID) == pytest.approx(1)
    assert rank_correlation_with_distance(similarity, GRID) > 0.85
    assert true_neighbour_share(similarity, GRID) == 1


def test_random_positions_know_nothing():
    similarity = position_similarity(RNG.normal(size=(42, 64)))
    assert abs(rank_correlation_with_distance(similarity, GRID)) < 0.07
    assert abs(true_neighbour_share(similarity, GRID) - 0.15) < 0.15
    assert row_column_r2(similarity, GRID) < 3 * chance_row_column_r2(GRID)


def test_rank_correlation_of_what_falls_with_distance():
    near = np.exp(-token_distances(GRID, 16))
    assert rank_correlation_with_distance(near, GRID) == pytest.approx(1)
    assert rank_correlation_with_distance(-near, GRID) == pytest.approx(-1)
    # Patches have a scale of their own, as rows of the paper's figure do.
    scaled = near * np.arange(1, 43)[:, None]
    assert rank_correlation_with_distance(scaled, GRID) == pytest.approx(1)
    assert rank_correlation_with_distance(np.ones((42, 42)), GRID) == 0


def test_rank_correlation_by_hand():
    # A row of three: the ends see one near and one far patch, the middle two as near.
    similarity = np.array([[1, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 1]])
    actual = rank_correlation_with_distance(similarity, (1, 3))
    assert actual == pytest.approx((1 + 0 + 1) / 3)


def test_diagonal_neighbours():
    # Each patch of a 2 x 2 grid is most like the one across.
    across = np.eye(4)[::-1] + np.eye(4)
    assert true_neighbour_share(across, (2, 2)) == 1
    assert true_neighbour_share(across, (2, 2), connectivity=4) == 0


def test_neighbours_by_hand():
    # A row of four; the first is most like the last, the second as much like both
    # beside it and the last, the others like the one before.
    similarity = np.zeros((4, 4))
    similarity[0, 3] = similarity[1, [0, 2, 3]] = similarity[2, 1] = 1
    similarity[3, 2] = 1
    actual = true_neighbour_share(similarity, (1, 4))
    assert actual == pytest.approx((0 + 2 / 3 + 1 + 1) / 4)


def test_neighbours_by_chance():
    assert chance_neighbour_share((2, 2)) == 1
    assert chance_neighbour_share((2, 2), connectivity=4) == pytest.approx(2 / 3)
    assert chance_neighbour_share((3, 3)) == pytest.approx((4 * 3 + 4 * 5 + 8) / 72)
    assert chance_neighbour_share((3, 3), connectivity=4) == pytest.approx(24 / 72)
    rng = np.random.default_rng(1)
    shares = [true_neighbour_share(noise(16, rng), (4, 4)) for _ in range(300)]
    assert np.mean(shares) == pytest.approx(chance_neighbour_share((4, 4)), abs=0.03)


def test_rows_and_columns_apart():
    y, x = np.divmod(np.arange(42), 7)
    rows, columns = abs(y[:, None] - y), abs(x[:, None] - x)
    separable = RNG.normal(size=6)[rows] + RNG.normal(size=7)[columns]
    assert row_column_r2(separable, GRID) == pytest.approx(1)
    assert row_column_r2(3 - 2 * separable, GRID) == pytest.approx(1)
    together = ((rows + columns) % 2).astype(float)  # neither alone says anything
    assert row_column_r2(together, GRID) < 0.2
    assert row_column_r2(np.ones((42, 42)), GRID) == 0
    halves = separable + 100 * np.eye(42)  # oneself is no pair
    assert row_column_r2(halves, GRID) == pytest.approx(1)


def test_rows_and_columns_by_chance():
    rng = np.random.default_rng(2)
    actual = [row_column_r2(noise(12, rng), (3, 4)) for _ in range(300)]
    assert np.mean(actual) == pytest.approx(chance_row_column_r2((3, 4)), abs=0.01)


def test_position_errors():
    with pytest.raises(ValueError, match="no cosine similarity for 1 of the 2 patches"):
        position_similarity(np.array([[0.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="of 5 patches: wanted 6, for a grid of 2 x 3"):
        row_column_r2(np.eye(5), (2, 3))
    with pytest.raises(ValueError, match="too small: wanted at least 3"):
        rank_correlation_with_distance(np.eye(2), (1, 2))
    with pytest.raises(ValueError, match="connectivity is 6: wanted 4 or 8"):
        true_neighbour_share(np.eye(4), (2, 2), connectivity=6)


def test_principal_filters_are_those_that_the_kernel_was_made_of():
    basis = np.linalg.qr(RNG.normal(size=(48, 3)))[0]
    amounts = RNG.normal(size=(3, 200))
    amounts -= amounts.mean(axis=1, keepdims=True)
    amounts = np.linalg.svd(amounts, full_matrices=False)[2]  # orthonormal rows
    sizes = np.array([3.0, 2.0, 1.0])
    mean = RNG.normal(size=(48, 1))  # of all filters: no component
    kernel = (basis * sizes @ amounts + mean).reshape(4, 4, 3, 200)
    filters = principal_filters(kernel, 3)
    actual = filters.components.reshape(3, 48)
    np.testing.assert_allclose(abs(actual @ basis), np.eye(3), atol=1e-10)
    np.testing.assert_allclose(filters.explained_variance, sizes**2 / 14)
    largest = abs(actual).max(axis=1)
    np.testing.assert_allclose(actual.max(axis=1), largest)  # the sign is not left open
    scaled = 2 * filters.images.reshape(3, 48) - 1
    np.testing.assert_allclose(scaled * largest[:, None], actual)
    assert filters.images.min() >= 0 and filters.images.max() == 1


def test_filter_errors():
    with pytest.raises(ValueError, match="of 3 colours, but these are of 64 features"):
        principal_filters(np.zeros((1, 1, 64, 8)), 2)
    with pytest.raises(ValueError, match="have 7 principal components: wanted 1 to 7"):
        principal_filters(RNG.normal(size=(4, 4, 3, 8)), 8)
