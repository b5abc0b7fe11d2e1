"""Multi-head self-attention (arXiv 2010.11929, appendix A, Eqs. 5-8)."""

from collections.abc import Mapping
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.flash_attention import (
    compute_capability,
    flash_attention,
    pad_to_even,
    traced_device,
)
from vit_jax.models.layers import Dense, make_norm
from vit_jax.models.positions import OFFSET_BIASES, RelativePositions
from vit_jax.models.relative_bias import RelativeBias
from vit_jax.models.rotary import RotaryPositions
from vit_jax.models.softmax_attention import softmax_attention

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
BIASES = ("qkv", "qk", "qv", "kv", "q", "k", "v", "none")


class MultiHeadAttention(nn.Module):
    """Multi-head attention of queries `x` over `keys_values` (`x` itself if None).

    Attributes:
        num_heads: number of heads k; must divide the width d.
        dropout_rate: dropout of the attention probabilities, in [0, 1).
        implementation: `xla`; `cudnn` (flash attention; GPU, half precision); `auto`
            takes `cudnn` where it can run, but for one query, and `xla` elsewhere. The
            weights are xla's always. See docs/attention.md.
        relative: kind of relative positions, `relative`, `relative2d`, `relative_bias`
            or `relative_mlp`; "" for none.
        relative_mlp_dim: hidden features of the MLP of `relative_mlp`.
        grid: rows and columns of patches that those are learned for.
        rotary: options of the `RotaryPositions` of queries and keys, None for none.
        biases: those of query, key and value that have a bias, by their initials:
            `qkv`, `qv`, ... `none`.
        qk_norm: kind of a norm of each head's queries and keys, before they are turned;
            `none` for none (arXiv 2302.05442).
        inner_norm: kind of a norm of all heads' outputs together, "" for none.
        norm_epsilon: of these norms.
        dtype: of the matrix products; logits and softmax are float32 always.
    """

    num_heads: int
    dropout_rate: float = 0.0
    implementation: str = "auto"
    relative: str = ""
    relative_mlp_dim: int = 128
    grid: tuple[int, int] = (0, 0)
    rotary: Mapping[str, Any] | None = None
    biases: str = "qkv"
    qk_norm: str = "none"
    inner_norm: str = ""
    norm_epsilon: float = 1e-6
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
        bias: Float[Array, "_ k q l"] | None = None,
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b k q l"] | None]:
        """Returns the output and, if asked for, the float32 attention weights.

        `grid` is that of the tokens, if it is not the one of the attribute. `bias` is
        added to the logits instead of own relative positions.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"the width must be a multiple of the number of heads, but {width} is "
                f"not a multiple of {self.num_heads}"
            )
        keys_values = x if keys_values is None else keys_values
        num_queries, num_keys = x.shape[1], keys_values.shape[1]
        dropout = self.dropout_rate if train else 0.0
        kernel = choose_kernel(
            self.implementation,
            num_queries=num_queries,
            num_keys=num_keys,
            head_width=width // self.num_heads,
            dtype=self.dtype,
            train=train,
            dropout_rate=dropout,
            relative=self.relative,
            return_weights=return_weights,
            device=traced_device(),
        )
        if kernel == "cudnn":
            # Before the projections: the row is written and dropped by operations
            # that pass over the tokens anyway.
            same = keys_values is x
            x = pad_to_even(x)
            keys_values = x if same else pad_to_even(keys_values)

        query, key, value = self.project(x, keys_values, train=train)
        places = grid or self.grid
        if self.rotary is not None:
            turn = RotaryPositions(**self.rotary, name="rotary")
            query, key = turn(query, key, places, num_keys - places[0] * places[1])
        if self.relative and bias is None:
            bias = self.relative_logits(query, places)

        weights = None
        if kernel == "cudnn":
            x = flash_attention(query, key, value, num_keys, x)
        elif kernel == "tpu":
            # Here, as other devices do not need Pallas.
            from vit_jax.models.tpu_attention import tpu_attention

            x = tpu_attention(query, key, value)
        elif kernel == "softmax":
            x = softmax_attention(query, key, value)
        elif kernel == "library":
            x = jax.nn.dot_product_attention(query, key, value, implementation="xla")
        else:
            scores, total = attention_scores(query, key, bias)
            weights = scores / total
            scores = nn.Dropout(self.dropout_rate)(scores, deterministic=not train)
            x = attend(scores.astype(value.dtype), total, value)

        if self.inner_norm:
            heads = x.shape[-2:]
            x = einops.rearrange(x, "b l k e -> b l (k e)")
            x = make_norm(self.inner_norm, self.norm_epsilon, self.dtype, "norm")(x)
            x = x.reshape(*x.shape[:-1], *heads)
        x = Dense(
            (width,),
            inputs=2,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name="out",
        )(x, train=train)
        if kernel == "cudnn":
            x = x[:, :num_queries]
        return x, weights if return_weights else None

    def relative_logits(
        self, query: Float[Array, "b l k e"], grid: tuple[int, int]
    ) -> Float[Array, "_ k l l"]:
        """The logits of relative positions."""
        name = "relative_positions"
        if self.relative in OFFSET_BIASES:
            sizes = (self.num_heads, self.relative_mlp_dim)
            positions = RelativeBias(self.relative, self.grid, *sizes, name=name)
            return positions(query.shape[1], grid)[None]
        positions = RelativePositions(self.relative, self.grid, name=name)
        return positions(query * query.shape[-1] ** -0.5, grid)

    def project(
        self,
        x: Float[Array, "b q d"],
        keys_values: Float[Array, "b l d"],
        *,
        train: bool,
    ) -> tuple[
        Float[Array, "b q k e"], Float[Array, "b l k e"], Float[Array, "b l k e"]
    ]:
        """Queries, keys and values of each head, the first two normed if asked for."""

        def part(name: str, inputs: Array) -> Array:
            return Dense(
                (self.num_heads, x.shape[-1] // self.num_heads),
                use_bias=name[0] in self.biases,
                kernel_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
                name=name,
            )(inputs, train=train)

        query = part("query", x)
        key = part("key", keys_values)
        value = part("value", keys_values)
        if self.qk_norm != "none":
            kind, epsilon, dtype = self.qk_norm, self.norm_epsilon, self.dtype
            query = make_norm(kind, epsilon, dtype, "query_norm")(query)
            key = make_norm(kind, epsilon, dtype, "key_norm")(key)
        return query, key, value


def choose_kernel(
    implementation: str,
    *,
    num_queries: int,
    num_keys: int,
    head_width: int,
    dtype: Any,
    train: bool,
    dropout_rate: float,
    relative: str,
    return_weights: bool,
    device: Any,
) -> str:
    """How attention is computed: `cudnn`, `tpu`, `softmax`, `library` or `einsum`.

    `cudnn` is `flash_attention`, `tpu` is `tpu_attention`, `softmax` is
    `softmax_attention`: each has a gradient of its own and no derivative of forward
    mode. `library` is what JAX makes of
    `jax.nn.dot_product_attention` without a kernel. `einsum` can do everything. What
    speaks for each is in docs/attention.md.

    Args:
        device: that the program is for, see `traced_device`.

    Raises:
        ValueError: `cudnn` where it cannot run; or `auto` for
            a card of which nothing is known.
    """
    otherwise = "einsum"
    if train and not (dropout_rate or relative or return_weights):
        otherwise = "library" if device.platform == "gpu" else "softmax"
    if implementation == "xla" or return_weights:
        return otherwise
    if device.platform == "tpu" and implementation == "auto":
        from vit_jax.models.tpu_attention import can_run

        if otherwise == "softmax" and can_run(dtype, num_queries, num_keys):
            return "tpu"
    capability = compute_capability(device)
    widest = 256 if capability and capability[0] == 9 else 128
    obstacles = []
    if not capability or capability < (8, 0):
        obstacles.append(
            "an NVIDIA GPU of compute capability 8 or more, but the device is "
            f"{device.device_kind}"
        )
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        obstacles.append(
            f"bfloat16 or float16, but the dtype is {jnp.dtype(dtype).name}"
        )
    if head_width % 8 or head_width > widest:
        obstacles.append(f"a head width of 8, 16, ... {widest}, but it is {head_width}")
    if dropout_rate:
        obstacles.append(f"no attention dropout, but its rate is {dropout_rate}")
    if relative:
        obstacles.append(f"no relative positions, but they are {relative!r}")
    if implementation == "cudnn" and obstacles:
        raise ValueError(
            "attention implementation 'cudnn' needs "
            + " and ".join(obstacles)
            + "; use 'auto' or 'xla'"
        )
    if obstacles or (implementation == "auto" and num_queries == 1):
        return otherwise
    return "cudnn"


def attention_scores(
    query: Float[Array, "b q k e"],
    key: Float[Array, "b l k e"],
    bias: Float[Array, "_ k q l"] | None = None,
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


def with_plain_attention(model: Any) -> Any:
    """The same model, its attention made of XLA's own operations if it has any.

    They run on all devices, have derivatives of both modes with `train=False`, and can
    be counted; the kernels do not.
    """
    if hasattr(model, "attention_implementation"):
        return model.clone(attention_implementation="xla")
    return model
