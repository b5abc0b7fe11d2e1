"""Attention rollout (arXiv 2010.11929, section D.8; arXiv 2005.00928, section 3).

The attention of all layers combined: where the output gets its information from.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def attention_rollout(
    weights: Float[Array, "layers b k l l"] | Sequence[Float[Array, "b k l l"]],
) -> Float[Array, "b l l"]:
    """Multiplies the attention matrices of all layers, from the first to the last.

    Heads are averaged; half of the identity stands for the residual connection; rows
    are divided by their sum, so that those of the result sum to 1 too.

    Args:
        weights: attention probabilities of each layer, the first one first. A
            sequence lets each layer's be freed before the next one's are made.

    Returns:
        Share of each input token (last axis) in each output token.

    Raises:
        ValueError: there is no layer.
    """
    rollout = None
    for layer in weights:
        attention = layer.mean(axis=1)
        attention = 0.5 * attention + 0.5 * jnp.eye(attention.shape[-1])
        attention = attention / attention.sum(axis=-1, keepdims=True)
        if rollout is None:
            rollout = attention
        else:
            # The default on GPU and TPU rounds to fewer bits.
            rollout = jnp.einsum(
                "bij,bjl->bil", attention, rollout, precision="highest"
            )
    if rollout is None:
        raise ValueError("attention rollout needs the weights of at least one layer")
    return rollout


def rollout_map(
    weights: Float[Array, "layers b k l l"] | Sequence[Float[Array, "b k l l"]],
    grid: tuple[int, int],
    *,
    num_prefix_tokens: int,
    class_token: int | None,
) -> Float[Array, "b h w"]:
    """The share of each patch in the representation that the image is classified by.

    Args:
        weights: as `attention_rollout`.
        grid: rows and columns of patches.
        num_prefix_tokens: tokens before the patches, class token included.
        class_token: position of the class token; None takes the mean over the
            patches, for a model that pools them.

    Returns:
        Values in [0, 1]; their sum is 1 less the share of the prefix tokens.

    Raises:
        ValueError: the weights have another number of tokens.
    """
    rows, columns = grid
    tokens = num_prefix_tokens + rows * columns
    rollout = attention_rollout(weights)
    if rollout.shape[-1] != tokens:
        raise ValueError(
            f"the attention weights are of {rollout.shape[-1]} tokens: wanted {tokens}"
            f", a grid of {rows} x {columns} after {num_prefix_tokens} prefix tokens"
        )
    if class_token is None:
        output = rollout[:, num_prefix_tokens:].mean(axis=1)
    else:
        output = rollout[:, class_token]
    return output[:, num_prefix_tokens:].reshape(-1, rows, columns)
