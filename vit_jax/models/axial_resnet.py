"""Axial attention in the place of a ResNet's 3x3 convolutions (arXiv 2010.11929, D.6).

Places attend to their row, then to their column, so that two layers see the whole map.
The paper says only that it replaced the 3x3 convolutions of a ResNet-50 by row and
column self-attention "augmented by relative positional encoding", after Axial-DeepLab
(arXiv 2003.07853), with a footnote on its public code. From there, and from the same
authors' scenic (`baselines/axial_resnet.py`), come: offsets that are learned for
queries, keys and values; keys and queries of half the width of values; eight heads; a
norm of the projections and one after each attention; the stride as a mean over 2x2
places at the end. The paper leaves open the norms (batch norm in Axial-DeepLab,
GroupNorm in scenic and here), their epsilon and the form of the units around (v1 in
scenic and by default here). Ours: logits are divided by the root of the key width, as
is usual, where Axial-DeepLab norms them and scenic leaves them.

Axes: `b` batch, `h w` rows and columns, `m n` lines and places in a line, `c` features,
`k` heads, `e` features of a head, `q l` places as queries and keys.
"""

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.std_conv import group_norm


class LineAttention(nn.Module):
    """Self-attention within each line, with learned relative positions.

    Nothing passes between lines: the norm is of each line too. The table of offsets
    fits one length of lines, that of the first call.
    """

    num_heads: int
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b m n c"]) -> Float[Array, "b m n c"]:
        features = x.shape[-1]
        if features % (2 * self.num_heads):
            raise ValueError(
                f"the features of a unit must be a multiple of twice the number of "
                f"axial heads, but {features} is not a multiple of {2 * self.num_heads}"
            )
        dense = nn.Dense(2 * features, use_bias=False, dtype=self.dtype, name="qkv")
        norm = group_norm("qkv_norm", self.norm_epsilon, self.dtype, axes=(2, 3))
        x = einops.rearrange(
            norm(dense(x)), "b m n (k e) -> b m k n e", k=self.num_heads
        )
        width = features // self.num_heads
        query, key, value = jnp.split(x, [width // 2, width], axis=-1)
        offsets = self.offsets(x.shape[-2], width).astype(self.dtype)
        query_offset, key_offset, value_offset = jnp.split(
            offsets, [width // 2, width], axis=-1
        )

        def score(formula: str, *arrays: Array) -> Array:
            return jnp.einsum(formula, *arrays, preferred_element_type=jnp.float32)

        query = query * (width // 2) ** -0.5
        key_offset = key_offset * (width // 2) ** -0.5
        logits = (
            score("bmkqe,bmkle->bmkql", query, key)
            + score("bmkqe,qle->bmkql", query, query_offset)
            + score("bmkle,qle->bmkql", key, key_offset)
        )
        weights = jax.nn.softmax(logits).astype(self.dtype)
        x = jnp.einsum("bmkql,bmkle->bmkqe", weights, value)
        x = x + jnp.einsum("bmkql,qle->bmkqe", weights, value_offset)
        return einops.rearrange(x, "b m k n e -> b m n (k e)")

    def offsets(self, length: int, width: int) -> Float[Array, "q l _"]:
        """The vectors of each pair of places, which depend on their offset alone."""
        table = self.param(
            "relative_positions",
            nn.initializers.normal(width**-0.5),
            (2 * length - 1, 2 * width),
        )
        places = np.arange(length)
        return table[places[:, None] - places + length - 1]


class AxialAttention(nn.Module):
    """Row attention, then column attention, then the stride as a mean over places."""

    num_heads: int
    stride: int
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
        options = (self.num_heads, self.norm_epsilon, self.dtype)
        x = LineAttention(*options, name="row")(x)
        x = group_norm("row_norm", *options[1:], train=self.train)(x)
        x = einops.rearrange(x, "b h w c -> b w h c")
        x = LineAttention(*options, name="column")(x)
        x = einops.rearrange(x, "b w h c -> b h w c")
        if self.stride == 1:
            return x
        window = (self.stride, self.stride)
        return nn.avg_pool(x, window, window, "SAME", count_include_pad=False)
