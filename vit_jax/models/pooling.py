"""Attention pooling: from the tokens to the representation of the image."""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.layers import Mlp, make_norm


class MapHead(nn.Module):
    """Multi-head attention pooling: a learned query attends to all tokens, then a
    residual MLP (arXiv 2106.04560, section 3.2; the query has no residual)."""

    num_heads: int
    mlp_dim: int
    norm_epsilon: float = 1e-6
    activation: str = "gelu_tanh"
    norm: str = "layernorm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], *, train: bool) -> Float[Array, "b d"]:
        init = nn.initializers.xavier_uniform()
        probe = self.param("probe", init, (1, 1, x.shape[-1])).astype(x.dtype)
        probe = einops.repeat(probe, "1 1 d -> b 1 d", b=x.shape[0])
        # The fused kernel gains nothing with one query.
        attention = MultiHeadAttention(
            self.num_heads, implementation="xla", dtype=self.dtype, name="attention"
        )
        x, _ = attention(probe, x, train=train)
        norm = make_norm(self.norm, self.norm_epsilon, self.dtype, "norm", train=train)
        y = norm(x)
        mlp = Mlp(self.mlp_dim, 0.0, self.activation, self.dtype, name="mlp")
        x = x + mlp(y, train=train)
        return einops.rearrange(x, "b 1 d -> b d")
