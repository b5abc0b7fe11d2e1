"""Layers in the form that moves least in a GPU's memory, for half precision.

The same functions and parameters as elsewhere, with gradients of their own. What XLA
makes of a form is decided by patterns and layouts, so that a form here names the one
it is written for. Bytes of each, compiled for an H100: docs/performance.md.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.flash_attention import traced_device

Saved = tuple[Array, ...]


def for_gpu(dtype: Any) -> bool:
    """Whether a function is traced for a GPU, with products of this dtype in halves."""
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return half and traced_device().platform == "gpu"


def as_rows(x: Float[Array, "*b d"], dtype: Any) -> Float[Array, "*_ d"]:
    """All tokens as rows of one matrix if it is for a GPU, else unchanged.

    XLA then leaves the tokens in this order in memory, where it would put examples
    last and transpose them before and after each product; and it finds what cuBLASLt
    can do with the result of a product, which a change of shape would hide.
    """
    return x.reshape(-1, x.shape[-1]) if for_gpu(dtype) else x


def add(
    x: Float[Array, "b l d"], change: Float[Array, "b l d"]
) -> Float[Array, "b l d"]:
    """The residual stream and what is added to it, on GPUs by the product itself."""
    total = as_rows(x, x.dtype) + as_rows(change, x.dtype)
    return total.reshape(x.shape)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, for training on GPUs with `layer_norm`.

    Attributes:
        train: whether a gradient of reverse mode is all that is asked for.
    """

    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        if self.is_initializing() or not (self.train and for_gpu(self.dtype)):
            return super().__call__(x)
        scale, bias = (self.get_variable("params", n) for n in ("scale", "bias"))
        rows: Array = x.astype(self.dtype).reshape(-1, x.shape[-1])
        normed: Array = layer_norm(rows, scale, bias, self.epsilon)
        return normed.reshape(x.shape)


def to_heads(
    params: Mapping[str, Array], x: Float[Array, "b l d"], dtype: Any
) -> Float[Array, "b l k e"]:
    """`nn.DenseGeneral` to heads, by one axis of features until the end.

    cuBLASLt adds a bias of one axis; that of heads by features is a pass of its own.

    Args:
        params: `kernel` (d k e) and, unless there is none, `bias` (k e).
    """
    kernel = params["kernel"].astype(dtype)
    y = as_rows(x.astype(dtype), dtype) @ einops.rearrange(kernel, "d k e -> d (k e)")
    if "bias" in params:
        y = y + params["bias"].astype(dtype).reshape(-1)
    return y.reshape(*x.shape[:2], *kernel.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float,
) -> Float[Array, "*b d"]:
    """LayerNorm over the last axis, its statistics float32, its result of x's dtype.

    Nothing is kept but x. The backward pass has two kernels: sums over the features,
    from which both statistics and both means of the gradient follow, then everything
    else, sums over the tokens included.
    """
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    centred = x32 - mean
    # In this form the kernel reads x once: it holds a row while it is summed.
    variance = (centred**2).mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + epsilon) * scale + bias
    return y.astype(x.dtype)


def _norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Saved]:
    return layer_norm(x, scale, bias, epsilon), (x, scale)


def _norm_backward(epsilon: float, saved: Saved, gradient: Array) -> Saved:
    # Behind the barrier, so that all sums over the features are one kernel. Without it
    # those of x are shared with the forward pass, and a kernel of their own.
    x, scale = saved
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    x, scale, gradient = (a.astype(jnp.float32) for a in (x, scale, gradient))
    slopes = gradient * scale

    def mean(array: Array) -> Array:
        return array.mean(-1, keepdims=True)

    centre = mean(x)
    variance = jnp.maximum(mean(x**2) - centre**2, 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    shift = mean(slopes)
    tilt = (mean(slopes * x) - centre * shift) * inverse
    normed = (x - centre) * inverse
    change = inverse * (slopes - shift - normed * tilt)
    tokens = tuple(range(x.ndim - 1))
    return (
        change.astype(saved[0].dtype),
        (gradient * normed).sum(tokens),
        gradient.sum(tokens),
    )


layer_norm.defvjp(_norm_forward, _norm_backward)


@jax.custom_vjp
def gelu_tanh(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """GELU's tanh approximation, of which nothing is kept but x.

    Autodiff keeps the tanh as well, another array of the same size.
    """
    return nn.gelu(x)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return nn.gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    x32 = x.astype(jnp.float32)
    _, pull = jax.vjp(nn.gelu, x32)
    (slope,) = pull(gradient.astype(jnp.float32))
    return (slope.astype(x.dtype),)


gelu_tanh.defvjp(_gelu_forward, _gelu_backward)
