"""Attention rollout against matrices that were worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis.rollout import attention_rollout, rollout_map


def _random_weights(layers: int, tokens: int) -> jax.Array:
    logits = jax.random.normal(jax.random.key(0), (layers, 2, 3, tokens, tokens))
    return jax.nn.softmax(3 * logits)


def test_identity_attention_gives_identity():
    weights = jnp.broadcast_to(jnp.eye(5), (4, 2, 3, 5, 5))
    np.testing.assert_allclose(attention_rollout(weights), np.stack([np.eye(5)] * 2))


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_uniform_attention_gives_the_known_matrix(layers):
    # With U = 1/l everywhere, U U = U, so (U/2 + I/2)^n = I / 2^n + (1 - 1 / 2^n) U.
    weights = jnp.full((layers, 1, 2, 4, 4), 0.25)
    expected = np.eye(4) / 2**layers + (1 - 1 / 2**layers) / 4
    np.testing.assert_allclose(attention_rollout(weights)[0], expected, rtol=1e-6)


def test_two_layers_worked_out_by_hand():
    # Heads [[1, 0], [1, 0]] and [[1, 0], [0, 1]] average to [[1, 0], [.5, .5]]; with
    # the residual that is A = [[1, 0], [.25, .75]].
    first = jnp.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    # Both heads [[0, 1], [0, 1]]: with the residual B = [[.5, .5], [0, 1]].
    second = jnp.array([[[[0.0, 1.0], [0.0, 1.0]]] * 2])
    # B A, the later layer on the left; A B would be [[.5, .5], [.125, .875]].
    np.testing.assert_allclose(
        attention_rollout([first, second])[0], [[0.625, 0.375], [0.25, 0.75]]
    )


def test_rows_sum_to_one_and_a_sequence_is_as_good_as_a_stack():
    weights = _random_weights(5, 7)
    rollout = attention_rollout(weights)
    np.testing.assert_allclose(rollout.sum(-1), np.ones((2, 7)), rtol=1e-5)
    np.testing.assert_array_equal(rollout, attention_rollout(list(weights)))


def test_rows_are_renormalised():
    doubled = jnp.full((1, 1, 1, 2, 2), 1.0)  # rows sum to 2, as with a wrong softmax
    np.testing.assert_allclose(
        attention_rollout(doubled)[0], [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], rtol=1e-6
    )


def test_map_of_a_class_token_behind_registers():
    # Tokens: two registers, the class token, then a 2 x 3 grid. The class token looks
    # at the last patch only, all the others at themselves.
    weights = np.eye(9)[None, None, None].copy()
    weights[..., 2, :] = np.eye(9)[8]
    heat = rollout_map(
        jnp.asarray(weights, jnp.float32), (2, 3), num_prefix_tokens=3, class_token=2
    )
    np.testing.assert_allclose(heat, [[[0, 0, 0], [0, 0, 0.5]]])


def test_map_of_pooled_patches_is_their_mean_row():
    # One register in front; every token looks at the second patch of a 1 x 2 grid.
    weights = jnp.zeros((1, 1, 1, 3, 3)).at[..., 2].set(1.0)
    heat = rollout_map(weights, (1, 2), num_prefix_tokens=1, class_token=None)
    np.testing.assert_allclose(heat, [[[0.25, 0.75]]])


def test_errors():
    with pytest.raises(ValueError, match="at least one layer"):
        attention_rollout([])
    with pytest.raises(ValueError, match="of 7 tokens: wanted 5, a grid of 2 x 2"):
        rollout_map(_random_weights(1, 7), (2, 2), num_prefix_tokens=1, class_token=0)
