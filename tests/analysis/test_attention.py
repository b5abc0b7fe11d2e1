"""Attention distance, entropy and mass against values known without a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis.attention import (
    attention_entropy,
    attention_mass_within,
    distance_ratio,
    mean_attention_distance,
    token_distances,
    uniform_attention_distance,
    uniform_mass_within,
)

# Section 4 of the paper's facts, Fig. 11: pixels, where 200.05 and 16.55 are rounded
# from 200.048 and 16.546 first.
UNIFORM = [
    ((14, 14), 16, 116.5),
    ((7, 7), 32, 115.5),
    ((16, 16), 14, 116.6),
    ((24, 24), 16, 200.1),
    ((8, 8), 4, 16.6),
    ((4, 4), 8, 16.1),
]


def uniform(tokens: int) -> jax.Array:
    return jnp.full((2, 3, tokens, tokens), 1 / tokens)


def attending(targets: list[int]) -> jax.Array:
    """One image and head, in which token i attends to targets[i] only."""
    return jax.nn.one_hot(jnp.array(targets), len(targets))[None, None]


@pytest.mark.parametrize(("grid", "patch_size", "expected"), UNIFORM)
def test_uniform_attention_has_the_distance_of_the_paper(grid, patch_size, expected):
    actual = uniform_attention_distance(grid, patch_size)
    assert actual == pytest.approx(expected, abs=0.055)


def test_uniform_attention_has_the_uniform_distance():
    # With a class token, which takes its part of the attention.
    actual = mean_attention_distance(
        uniform(1 + 14 * 14), (14, 14), 16, num_prefix_tokens=1
    )
    np.testing.assert_allclose(actual, [116.5] * 3, atol=0.05)
    np.testing.assert_allclose(distance_ratio(actual, (14, 14), 16), 1, 1e-5)


def test_uniform_distance_to_others():
    actual = uniform_attention_distance((14, 14), 16, include_self=False)
    assert round(actual, 1) == 117.1


def test_distances_of_a_grid_by_hand():
    expected = 4 * np.array(
        [
            [0, 1, 2, 1, 2**0.5, 5**0.5],
            [1, 0, 1, 2**0.5, 1, 2**0.5],
            [2, 1, 0, 5**0.5, 2**0.5, 1],
        ]
    )
    np.testing.assert_allclose(token_distances((2, 3), 4)[:3], expected)


def test_distance_by_hand():
    # Each patch of a row of four attends to the next, the last one to the first.
    actual = mean_attention_distance(
        attending([1, 2, 3, 0]), (1, 4), 8, num_prefix_tokens=0
    )
    np.testing.assert_allclose(actual, [8 * (1 + 1 + 1 + 3) / 4])
    turned = mean_attention_distance(
        attending([1, 2, 3, 0]), (4, 1), 8, num_prefix_tokens=0
    )
    np.testing.assert_array_equal(turned, actual)


def test_heads_are_apart_and_images_are_averaged():
    near, far = attending([0, 1, 2]), attending([2, 1, 0])
    weights = jnp.concatenate(
        [jnp.concatenate([near, far], 1), jnp.concatenate([near, near], 1)]
    )
    actual = mean_attention_distance(weights, (1, 3), 6, num_prefix_tokens=0)
    # The far head of the first image: 12, 0 and 12 pixels.
    np.testing.assert_allclose(actual, [0, 8 / 2])


def test_attention_to_oneself():
    weights = attending([0, 1, 2, 3])
    options = {"grid": (2, 2), "num_prefix_tokens": 0}
    assert mean_attention_distance(weights, patch_size=16, **options) == 0
    assert attention_mass_within(weights, radius=0, **options) == 1
    assert attention_entropy(weights) == 0


def test_prefix_tokens_do_not_count():
    # Two of them; patches give a half to the first, the rest to themselves or to the
    # last patch.
    weights = np.zeros((1, 1, 5, 5), np.float32)
    weights[..., 2:, 0] = 0.5
    weights[..., 2, 4] = weights[..., 3, 3] = weights[..., 4, 4] = 0.5
    weights[..., :2, 1] = 1
    grid, options = (1, 3), {"num_prefix_tokens": 2}
    actual = mean_attention_distance(weights, grid, 4, **options)
    np.testing.assert_allclose(actual, [8 / 3])
    halved = mean_attention_distance(weights, grid, 4, **options, renormalize=False)
    np.testing.assert_allclose(halved, [4 / 3])
    actual = attention_mass_within(weights, grid, 1, **options)
    np.testing.assert_allclose(actual, [2 / 3])


def test_a_patch_that_looks_at_prefix_tokens_alone_is_no_division_by_zero():
    weights = jnp.zeros((1, 1, 3, 3)).at[..., 0].set(1.0)
    actual = mean_attention_distance(weights, (1, 2), 4, num_prefix_tokens=1)
    np.testing.assert_array_equal(actual, [0])


def test_entropy():
    np.testing.assert_allclose(attention_entropy(uniform(7)), [np.log(7)] * 3, 1e-6)
    np.testing.assert_allclose(attention_entropy(uniform(7), normalize=True), 1, 1e-6)
    weights = jnp.tile(jnp.array([0.5, 0.5, 0, 0]), (1, 1, 4, 1))
    np.testing.assert_allclose(attention_entropy(weights), [np.log(2)], 1e-6)
    np.testing.assert_allclose(attention_entropy(weights, normalize=True), 0.5, 1e-6)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_mass_of_uniform_attention(radius):
    actual = attention_mass_within(uniform(12), (3, 4), radius, num_prefix_tokens=0)
    np.testing.assert_allclose(actual, [uniform_mass_within((3, 4), radius)] * 3, 1e-6)


def test_mass_of_uniform_attention_by_hand():
    # Corners have 4 patches around them, edges 6, the middle 9.
    assert uniform_mass_within((3, 3), 1) == pytest.approx((4 * 4 + 4 * 6 + 9) / 81)
    assert uniform_mass_within((3, 3), 0) == pytest.approx(1 / 9)
    assert uniform_mass_within((3, 3), 2) == 1


def test_a_window_is_square():
    # From the corner of a 3 x 3 grid to its middle, a diagonal step.
    weights = attending([4] + [8] * 8)
    actual = attention_mass_within(weights, (3, 3), 1, num_prefix_tokens=0)
    near = 1 + 4  # patch 0, and those around patch 8: 4, 5, 7, 8
    np.testing.assert_allclose(actual, [near / 9], 1e-6)


def test_errors():
    with pytest.raises(ValueError, match="of 7 tokens: wanted 5, a grid of 2 x 2"):
        mean_attention_distance(uniform(7), (2, 2), 16, num_prefix_tokens=1)
    with pytest.raises(ValueError, match="of 7 tokens: wanted 4"):
        attention_mass_within(uniform(7), (2, 2), 1, num_prefix_tokens=0)
    with pytest.raises(ValueError, match="1 x 1 patches has no distances"):
        distance_ratio(jnp.zeros(3), (1, 1), 16)
