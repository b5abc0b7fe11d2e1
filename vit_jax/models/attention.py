"""Multi-head self-attention (arXiv 2010.11929, appendix A, Eqs. 5-8)."""

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.positions import RelativePositions
from vit_jax.models.softmax_attention import softmax_attention

IMPLEMENTATIONS = ("auto", "xla", "cudnn")


class MultiHeadAttention(nn.Module):
    """Multi-head attention of queries `x` over `keys_values` (`x` itself if None).

    Attributes:
        num_heads: number of heads k; must divide the width d.
        dropout_rate: dropout of the attention probabilities, in [0, 1).
        implementation: `xla`; `cudnn` (flash attention; GPU, half precision); `auto`
            takes `cudnn` where it can run and `xla` elsewhere.
        relative: kind of relative positions, `relative` or `relative2d`; "" for none.
        grid: rows and columns of patches that those are learned for.
        dtype: of the matrix products; logits and softmax are float32 always.
    """

    num_heads: int
    dropout_rate: float = 0.0
    implementation: str = "auto"
    relative: str = ""
    grid: tuple[int, int] = (0, 0)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        keys_values: Float[Array, "b l d"] | None = None,
        *,
        train: bool,
        return_weights: bool = False,
        grid: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b k q l"] | None]:
        """Returns the output and, if asked for, the float32 attention weights.

        `grid` is that of the tokens, if it is not the one of the attribute.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"the width must be a multiple of the number of heads, but {width} is "
                f"not a multiple of {self.num_heads}"
            )
        keys_values = x if keys_values is None else keys_values

        def project(name: str, inputs: Array) -> Array:
            return nn.DenseGeneral(
                (self.num_heads, width // self.num_heads),
                kernel_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
                name=name,
            )(inputs)

        query = project("query", x)
        key = project("key", keys_values)
        value = project("value", keys_values)

        bias = None
        if self.relative:
            positions = RelativePositions(
                self.relative, self.grid, name="relative_positions"
            )
            scaled = query * query.shape[-1] ** -0.5
            bias = positions(scaled, grid or self.grid)

        dropout = self.dropout_rate if train else 0.0
        weights = None
        if not return_weights and can_fuse(
            self.implementation, query, dropout, self.relative
        ):
            x = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        elif train and not (return_weights or dropout or self.relative):
            x = softmax_attention(query, key, value)
        else:
            scores, total = attention_scores(query, key, bias)
            weights = scores / total
            scores = nn.Dropout(self.dropout_rate)(scores, deterministic=not train)
            x = attend(scores.astype(value.dtype), total, value)

        x = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name="out",
        )(x)
        return x, weights if return_weights else None


def can_fuse(
    implementation: str,
    query: Float[Array, "b q k e"],
    dropout_rate: float,
    relative: str = "",
) -> bool:
    """Whether the fused kernel is to be used, without dropout or relative positions.

    Raises:
        ValueError: unknown implementation, or `cudnn` asked for where it cannot run.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown attention implementation {implementation!r}: wanted one of "
            f"{', '.join(IMPLEMENTATIONS)}"
        )
    if implementation == "xla":
        return False
    head_width = query.shape[-1]
    obstacles = []
    if not has_flash_attention(jax.devices()[0]):
        obstacles.append(
            "an NVIDIA GPU of compute capability 8 or more, but the device is "
            f"{jax.devices()[0].device_kind}"
        )
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        obstacles.append(f"bfloat16 or float16, but the dtype is {query.dtype}")
    if head_width % 8 or head_width > 128:
        obstacles.append(f"a head width of 8, 16, ... 128, but it is {head_width}")
    if dropout_rate > 0:
        obstacles.append(f"no attention dropout, but its rate is {dropout_rate}")
    if relative:
        obstacles.append(f"no relative positions, but they are {relative!r}")
    if implementation == "cudnn" and obstacles:
        raise ValueError(
            "attention implementation 'cudnn' needs "
            + " and ".join(obstacles)
            + "; use 'auto' or 'xla'"
        )
    return not obstacles


def has_flash_attention(device: Any) -> bool:
    """Whether cuDNN's flash attention runs on a JAX device: NVIDIA, Ampere or newer."""
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind:
        return False
    return float(device.compute_capability) >= 8


def attention_scores(
    query: Float[Array, "b q k e"],
    key: Float[Array, "b l k e"],
    bias: Float[Array, "b k q l"] | None = None,
) -> tuple[Float[Array, "b k q l"], Float[Array, "b k q 1"]]:
    """Numerator and denominator of the attention probabilities, float32 (Eq. 6).

    Args:
        bias: added to the logits.
    """
    # Heads are moved in front first: on CPU the batched product of (b k l e) arrays is
    # a third faster than the same einsum over (b l k e).
    query = einops.rearrange(query, "b q k e -> b k q e")
    key = einops.rearrange(key, "b l k e -> b k l e")
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum(
        "bkqe,bkle->bkql", query * scale, key, preferred_element_type=jnp.float32
    )
    if bias is not None:
        logits = logits + bias
    # The probabilities do not depend on what is subtracted.
    largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    scores = jnp.exp(logits - largest)
    return scores, scores.sum(axis=-1, keepdims=True)


def attend(
    scores: Float[Array, "b k q l"],
    total: Float[Array, "b k q 1"],
    value: Float[Array, "b l k e"],
) -> Float[Array, "b q k e"]:
    """Mean of the values of each head, weighted by scores / total (Eq. 7)."""
    # Divided after the product: e numbers a query instead of l, and the (q l) array
    # of probabilities is never stored.
    value = einops.rearrange(value, "b l k e -> b k l e")
    x = jnp.einsum("bkql,bkle->bkqe", scores, value, preferred_element_type=jnp.float32)
    return einops.rearrange((x / total).astype(value.dtype), "b k q e -> b q k e")
