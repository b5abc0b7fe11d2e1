"""A plain flax.linen ViT, as most would write it first: a baseline of speed.

Convolution stem, `nn.MultiHeadDotProductAttention`, no tricks.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PlainViT(nn.Module):
    """The ViT of arXiv 2010.11929 with a linear head.

    Attributes:
        pooling: `cls`, a class token, or `gap`, the mean of the tokens.
    """

    num_classes: int
    patch_size: int
    depth: int
    width: int
    mlp_dim: int
    num_heads: int
    pooling: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (b, height, width, 3) to logits (b, n)."""
        p = self.patch_size
        x = nn.Conv(self.width, (p, p), (p, p), padding="VALID", dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.pooling == "cls":
            token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
            token = jnp.tile(token, (x.shape[0], 1, 1)).astype(x.dtype)
            x = jnp.concatenate([token, x], axis=1)
        init = nn.initializers.normal(0.02)
        positions = self.param("positions", init, (1, *x.shape[1:]))
        x = x + positions.astype(x.dtype)
        for _ in range(self.depth):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x = x + nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(y)
            y = nn.LayerNorm(dtype=self.dtype)(x)
            y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype)(y))
            x = x + nn.Dense(self.width, dtype=self.dtype)(y)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        x = x[:, 0] if self.pooling == "cls" else x.mean(1)
        return nn.Dense(self.num_classes)(x.astype(jnp.float32))
