"""Training on CPUs: the same functions with gradients that XLA computes fast there.

XLA's CPU backend takes the operations as they come, and those that JAX derives come in
an order that costs: what is kept for the backward pass, what is transposed in memory
and where bfloat16 is emulated is said at each function. `docs/performance.md` has what
each of them brings. Accelerators choose layouts and fusions themselves and get Flax's
formulation, and so does everything outside of training: a gradient of one's own has
no derivative of forward mode, which the analyses take.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vit_jax.models.flash_attention import traced_device


def trains_on_cpu(train: bool) -> bool:
    """Whether a function is traced for training on a CPU."""
    return train and traced_device().platform == "cpu"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(x: Array, kernel: Array, bias: Array, contracted: int) -> Array:
    """The last `contracted` axes of x times the first of the kernel, plus the bias."""
    return jnp.tensordot(x, kernel, contracted) + bias


def _dense_forward(
    x: Array, kernel: Array, bias: Array, contracted: int
) -> tuple[Array, tuple[Array, Array]]:
    return dense(x, kernel, bias, contracted), (x, kernel)


def _dense_backward(
    contracted: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel = saved
    features = kernel.ndim - contracted
    examples = tuple(range(x.ndim - contracted))
    outputs = tuple(range(len(examples), gradient.ndim))
    plain = (), ()
    to_x = (outputs, tuple(range(contracted, kernel.ndim))), plain
    x_gradient = lax.dot_general(gradient, kernel, to_x)

    # XLA transposes the left operand in memory: let it be the smaller one. Derived by
    # JAX, the result has its axes the other way round, and in bfloat16 that product
    # takes a plain loop, a fortieth of the speed; the barrier keeps XLA from it.
    both = (examples, examples), plain
    if math.prod(kernel.shape[:contracted]) <= math.prod(kernel.shape[contracted:]):
        kernel_gradient = lax.dot_general(x, gradient, both)
    else:
        swapped = lax.optimization_barrier(lax.dot_general(gradient, x, both))
        kernel_gradient = jnp.moveaxis(
            swapped, range(features), range(contracted, kernel.ndim)
        )
    if gradient.dtype == jnp.float32:
        bias_gradient = gradient.sum(examples)
    else:
        # A sum would be a chain of small ones, in float32 copies of the gradient.
        ones = jnp.ones(gradient.shape[: len(examples)], gradient.dtype)
        rows = (examples, examples), plain
        bias_gradient = lax.dot_general(ones, gradient, rows)
    return x_gradient, kernel_gradient, bias_gradient


dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float,
) -> Float[Array, "*b d"]:
    """LayerNorm, its statistics in float32, as `flax.linen.LayerNorm`.

    Derived by JAX, the scale is written as an array of the size of x, twice; here x
    and the statistics of each token are kept, and all else is computed again.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.maximum(0, (wide * wide).mean(-1, keepdims=True) - mean * mean)
    factor = lax.rsqrt(variance + epsilon)
    y = (wide - mean) * (factor * scale) + bias
    return y.astype(x.dtype), (x, mean, factor, scale)


def _layer_norm_backward(
    epsilon: float, saved: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    del epsilon
    x, mean, factor, scale = saved
    wide = gradient.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * factor
    slope = wide * scale
    x_gradient = factor * (
        slope
        - slope.mean(-1, keepdims=True)
        - normed * (slope * normed).mean(-1, keepdims=True)
    )
    tokens = tuple(range(x.ndim - 1))
    return x_gradient.astype(x.dtype), (wide * normed).sum(tokens), wide.sum(tokens)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu_tanh(x: Array) -> Array:
    """GELU by its tanh approximation, as `jax.nn.gelu`, in float32 inside.

    bfloat16 is emulated operation by operation otherwise; and x alone is kept, not
    the hyperbolic tangent beside it.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + _inner(wide))).astype(x.dtype), x


def _inner(x: Array) -> Array:
    return jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    # Without the barrier XLA would take the tangent from the forward pass, and keep it.
    x, gradient = lax.optimization_barrier((x, gradient))
    wide = x.astype(jnp.float32)
    inner = _inner(wide)
    steepness = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * wide**2)
    slope = 0.5 * (1 + inner) + 0.5 * wide * (1 - inner**2) * steepness
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu_tanh.defvjp(_gelu_forward, _gelu_backward)
