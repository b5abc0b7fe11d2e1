"""A plain flax.linen ViT, as most would write it first: a baseline of speed.

Convolution stem, `nn.MultiHeadDotProductAttention`, `optax.adamw`, no tricks.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class PlainViT(nn.Module):
    """The ViT of arXiv 2010.11929 with a class token and a linear head."""

    num_classes: int
    patch_size: int
    depth: int
    width: int
    mlp_dim: int
    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (b, height, width, 3) to logits (b, n)."""
        p = self.patch_size
        x = nn.Conv(self.width, (p, p), (p, p), padding="VALID", dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, self.width)
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
        x = nn.LayerNorm(dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
        return nn.Dense(self.num_classes)(x)


def make_linen_step(
    model: PlainViT, batch: dict[str, jax.Array]
) -> tuple[Callable[..., Any], Any]:
    """The jitted training step `(state, batch) -> (state, loss)` and its first state.

    Args:
        batch: `image` (b h w 3, uint8) and `label` (b, int32).
    """
    optimizer = optax.adamw(1e-3, weight_decay=0.1)

    def scaled(images):
        return images.astype(jnp.float32) / 127.5 - 1.0

    def step(state, batch):
        def mean_loss(params):
            logits = model.apply({"params": params}, scaled(batch["image"]))
            losses = optax.softmax_cross_entropy_with_integer_labels
            return losses(logits, batch["label"]).mean()

        params, opt_state = state
        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    init = jax.jit(lambda key: model.init(key, scaled(batch["image"][:1])))
    params = init(jax.random.key(0))["params"]
    return jax.jit(step, donate_argnums=0), (params, optimizer.init(params))
