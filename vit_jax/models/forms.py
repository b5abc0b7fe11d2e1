"""Layers in the form that is fastest on the device: the same functions and parameters.

What XLA makes of a function depends on how it is written, and on each platform on
something else: which patterns its libraries know, in which layout a product is asked
for, what is kept for the backward pass. Gradients of one's own have no derivative of
forward mode, so they are for training only. What each form brings is measured in
docs/performance.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vit_jax.models.flash_attention import traced_device

Saved = tuple[Array, ...]


def for_gpu(dtype: Any) -> bool:
    """Whether a function is traced for a GPU, with products of this dtype in halves."""
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return half and traced_device().platform == "gpu"


def on_cpu() -> bool:
    """Whether a function is traced for a CPU."""
    return traced_device().platform == "cpu"


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


def dense(
    x: Float[Array, "*b d"],
    kernel: Float[Array, "d n"],
    bias: Float[Array, " n"] | None,
    *,
    train: bool,
) -> Float[Array, "*b n"]:
    """x kernel + bias, all three of one dtype."""
    if train and on_cpu():
        y = _cpu_product(x, kernel)
        return y if bias is None else _cpu_add(y, bias)
    y = as_rows(x, x.dtype) @ kernel
    y = y if bias is None else y + bias
    return y.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _cpu_product(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, Saved]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: Saved, gradient: Array) -> Saved:
    x, kernel = saved
    return gradient @ kernel.T, kernel_gradient(x, gradient)


def kernel_gradient(
    x: Float[Array, "*b d"], gradient: Float[Array, "*b n"]
) -> Float[Array, "d n"]:
    """The gradient of a product's right side, x its left side, on CPUs."""
    tokens = tuple(range(x.ndim - 1))
    over_tokens = (tokens, tokens), ((), ())
    # XLA transposes the left operand in memory: let it be the smaller one. JAX would
    # derive the result with its axes the other way round, and in bfloat16 that product
    # is a plain loop, at a fortieth of the speed; the barrier keeps XLA from it.
    if x.shape[-1] <= gradient.shape[-1]:
        return lax.dot_general(x, gradient, over_tokens)
    return lax.optimization_barrier(lax.dot_general(gradient, x, over_tokens)).T


_cpu_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _cpu_add(x: Array, bias: Array) -> Array:
    return x + bias


def _add_forward(x: Array, bias: Array) -> tuple[Array, None]:
    return x + bias, None


def _add_backward(_: None, gradient: Array) -> tuple[Array, Array]:
    tokens = tuple(range(gradient.ndim - 1))
    if gradient.dtype == jnp.float32:
        return gradient, gradient.sum(tokens)
    # Summed by a product: in bfloat16 a sum is a chain of sums of a few numbers each,
    # of a float32 copy.
    ones = jnp.ones(gradient.shape[:-1], gradient.dtype)
    return gradient, lax.dot_general(ones, gradient, ((tokens, tokens), ((), ())))


_cpu_add.defvjp(_add_forward, _add_backward)


def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float,
) -> Float[Array, "*b d"]:
    """LayerNorm over the last axis, its statistics float32, its result of x's dtype.

    With Flax's, XLA on CPUs writes the scale as an array of the size of x.
    """
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    centred = x32 - mean
    # In this form a GPU's kernel reads x once: it holds a row while it is summed.
    variance = (centred**2).mean(-1, keepdims=True)
    y = centred * lax.rsqrt(variance + epsilon) * scale + bias
    return y.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def trained_layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """`layer_norm` for training: nothing is kept but x.

    On a GPU the backward pass has two kernels: sums over the features, from which both
    statistics and both means of the gradient follow, then everything else, sums over
    the tokens included.
    """
    return layer_norm(x, scale, bias, epsilon)


def _norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Saved]:
    return layer_norm(x, scale, bias, epsilon), (x, scale)


def _norm_backward(epsilon: float, saved: Saved, gradient: Array) -> Saved:
    # Behind the barrier, so that all sums over the features are one kernel. Without it
    # those of x are shared with the forward pass, and a kernel of their own.
    x, scale = saved
    x, gradient = lax.optimization_barrier((x, gradient))
    x, scale, gradient = (a.astype(jnp.float32) for a in (x, scale, gradient))
    slopes = gradient * scale

    def mean(array: Array) -> Array:
        return array.mean(-1, keepdims=True)

    centre = mean(x)
    variance = jnp.maximum(mean(x**2) - centre**2, 0)
    inverse = lax.rsqrt(variance + epsilon)
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


trained_layer_norm.defvjp(_norm_forward, _norm_backward)


@jax.custom_vjp
def trained_gelu_tanh(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """GELU's tanh approximation for training: nothing is kept but x.

    Autodiff keeps the tanh as well, another array of the same size.
    """
    # cuBLASLt's products have a GELU at their end, found by its form in x's own dtype.
    return in_float32(jax.nn.gelu)(x) if on_cpu() else jax.nn.gelu(x)


def in_float32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function computed in float32, its result of the argument's dtype.

    CPUs emulate bfloat16 operation by operation.
    """
    return lambda x: function(x.astype(jnp.float32)).astype(x.dtype)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return trained_gelu_tanh(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    if on_cpu():
        # Without the barrier XLA takes the tanh from the forward pass, and so keeps it.
        x, gradient = lax.optimization_barrier((x, gradient))
    _, pull = jax.vjp(jax.nn.gelu, x.astype(jnp.float32))
    (slope,) = pull(gradient.astype(jnp.float32))
    return (slope.astype(x.dtype),)


trained_gelu_tanh.defvjp(_gelu_forward, _gelu_backward)
