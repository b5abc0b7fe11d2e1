"""Attention distances of each head of each layer (arXiv 2010.11929, Fig. 11)."""

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.analysis.attention import (
    attention_entropy,
    attention_mass_within,
    distance_ratio,
    mean_attention_distance,
)
from vit_jax.analysis.features import attention_weights
from vit_jax.models import AnyModel


class AttentionMeasures(NamedTuple):
    """Measures of one layer, a number for each head: see `analysis/attention.py`.

    Attributes:
        distance: mean attention distance in pixels.
        ratio: that distance over the distance of uniform attention.
        entropy: entropy over log l, from 0 to 1.
        mass_within_1: share of attention in the 3 x 3 patches around the query.
    """

    distance: Float[Array | np.ndarray, " k"]
    ratio: Float[Array | np.ndarray, " k"]
    entropy: Float[Array | np.ndarray, " k"]
    mass_within_1: Float[Array | np.ndarray, " k"]


def attention_measures(
    model: AnyModel,
    params: Any,
    images: Float[Array | np.ndarray, "b height width 3"],
    *,
    batch_size: int = 64,
) -> OrderedDict[str, AttentionMeasures]:
    """The measures of attention of each layer by name, means over the images.

    Args:
        batch_size: images on the device at a time, with their attention.

    Returns:
        As `attention_weights`: empty for a model without attention over patches.
    """
    sums, number = OrderedDict(), len(images)
    for start in range(0, number, batch_size):
        batch = jnp.asarray(images[start : start + batch_size])
        means = measure_attention(model, params, batch)
        share = len(batch) / number
        part = jax.tree.map(lambda x, share=share: np.asarray(x) * share, means)
        sums = jax.tree.map(np.add, sums, part) if sums else part
    return sums


@partial(jax.jit, static_argnames="model")
def measure_attention(
    model: AnyModel, params: Any, images: Float[Array, "b height width 3"]
) -> OrderedDict[str, AttentionMeasures]:
    """`attention_measures` of one batch, compiled."""

    def measures(weights: Array) -> AttentionMeasures:
        grid, prefix = model.grid, model.num_prefix_tokens
        distance = mean_attention_distance(
            weights, grid, model.patch_size, num_prefix_tokens=prefix
        )
        return AttentionMeasures(
            distance,
            distance_ratio(distance, grid, model.patch_size),
            attention_entropy(weights, normalize=True),
            attention_mass_within(weights, grid, 1, num_prefix_tokens=prefix),
        )

    return jax.tree.map(measures, attention_weights(model, params, images))
