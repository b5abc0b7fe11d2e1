"""Convolutions and GroupNorm in the form that is fastest on a CPU (see `forms.py`).

XLA's CPU backend multiplies matrices at two to five times the speed of its
convolutions, and is slowest in the gradient of a kernel. Elsewhere these are XLA's own
convolution and Flax's norm. What each form brings is in docs/performance.md.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vit_jax.models import forms

Padding = tuple[tuple[int, int], ...]


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "p p c d"],
    stride: int,
    padding: str | Padding,
    *,
    train: bool,
) -> Float[Array, "b _ _ d"]:
    """A convolution, x and kernel of one dtype; `train` asks for no forward mode."""
    size, _, features, _ = kernel.shape
    if isinstance(padding, str):
        window, strides = (size, size), (stride, stride)
        padding = tuple(lax.padtype_to_pads(x.shape[1:3], window, strides, padding))
    if forms.on_cpu() and size == 1:
        x = x[:, ::stride, ::stride]
        y = forms.dense(x.reshape(-1, features), kernel[0, 0], None, train=train)
        return y.reshape(*x.shape[:3], -1)
    if forms.on_cpu() and train:
        return _trained_convolution(x, kernel, stride, padding)
    return _convolution(x, kernel, stride, padding)


def _convolution(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=axes
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _trained_convolution(
    x: Array, kernel: Array, stride: int, padding: Padding
) -> Array:
    """A convolution whose gradients are products of matrices, of all patches."""
    return _convolution(x, kernel, stride, padding)


def _conv_forward(
    x: Array, kernel: Array, stride: int, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return _convolution(x, kernel, stride, padding), (x, kernel)


def _conv_backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    size, _, features, _ = kernel.shape

    def patches(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        return jnp.concatenate(_shifted(x, size, stride), -1)

    flat = size**2 * features
    rows = gradient.reshape(-1, gradient.shape[-1])
    kernel_gradient = forms.kernel_gradient(patches(x).reshape(-1, flat), rows)
    slopes = rows @ kernel.reshape(flat, -1).T
    slopes = slopes.reshape(*gradient.shape[:3], flat)
    (x_gradient,) = jax.linear_transpose(patches, x)(slopes)
    return x_gradient, kernel_gradient.reshape(kernel.shape)


def _shifted(x: Float[Array, "b h w c"], size: int, stride: int) -> list[Array]:
    """For each place of a window what is there, of all windows: (b _ _ c)."""
    height, width = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    return [
        x[:, row : row + height : stride, column : column + width : stride]
        for row in range(size)
        for column in range(size)
    ]


_trained_convolution.defvjp(_conv_forward, _conv_backward)


def group_norm(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
    *,
    relu: bool,
    train: bool,
) -> Float[Array, "b h w c"]:
    """Norm of groups of features over all places, in float32, its result of x's dtype.

    The sums are over the places first, for each feature, and of few numbers then. The
    variance takes two passes. For CPUs; `train` asks for no forward mode, and then x is
    kept, and a few numbers a feature.
    """
    if train:
        return _trained_group_norm(x, scale, bias, groups, epsilon, relu)
    return _normed(x, scale, bias, groups, epsilon, relu)[0]


def _normed(
    x: Array, scale: Array, bias: Array, groups: int, epsilon: float, relu: bool
) -> tuple[Array, tuple[Array, Array]]:
    """The result, and each feature's mean and inverse deviation, (b 1 1 c)."""
    x32 = x.astype(jnp.float32)
    mean = _group_mean(x32, groups)
    variance = _group_mean(jnp.square(x32 - mean), groups)
    inverse = lax.rsqrt(variance + epsilon)
    y = (x32 - mean) * (inverse * scale) + bias
    y = jax.nn.relu(y) if relu else y
    return y.astype(x.dtype), (mean, inverse)


def _group_mean(x: Float[Array, "b h w c"], groups: int) -> Float[Array, "b 1 1 c"]:
    """The mean of each feature's group."""
    return _over_groups(x.mean((1, 2), keepdims=True), groups)


def _over_groups(x: Float[Array, "b 1 1 c"], groups: int) -> Float[Array, "b 1 1 c"]:
    means = x.reshape(*x.shape[:3], groups, -1).mean(-1)
    return jnp.repeat(means, x.shape[-1] // groups, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _trained_group_norm(
    x: Array, scale: Array, bias: Array, groups: int, epsilon: float, relu: bool
) -> Array:
    return _normed(x, scale, bias, groups, epsilon, relu)[0]


def _norm_forward(
    x: Array, scale: Array, bias: Array, groups: int, epsilon: float, relu: bool
) -> tuple[Array, Any]:
    y, statistics = _normed(x, scale, bias, groups, epsilon, relu)
    return y, (x, scale, bias, statistics)


def _norm_backward(
    groups: int, epsilon: float, relu: bool, saved: Any, gradient: Array
) -> tuple[Array, Array, Array]:
    x, scale, bias, (mean, inverse) = saved
    del epsilon  # It is in the inverse.
    normed = (x.astype(jnp.float32) - mean) * inverse
    gradient = gradient.astype(jnp.float32)
    if relu:
        gradient = jnp.where(normed * scale + bias > 0, gradient, 0)
    shift = gradient.mean((1, 2), keepdims=True)
    tilt = (gradient * normed).mean((1, 2), keepdims=True)
    change = gradient * scale - _over_groups(shift * scale, groups)
    change = (change - normed * _over_groups(tilt * scale, groups)) * inverse
    places = x.shape[1] * x.shape[2]
    return (
        change.astype(x.dtype),
        places * tilt.sum((0, 1, 2)),
        places * shift.sum((0, 1, 2)),
    )


_trained_group_norm.defvjp(_norm_forward, _norm_backward)


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: str, *, train: bool
) -> Float[Array, "b _ _ c"]:
    """The largest of each window; the first of equal numbers has the gradient."""
    window, strides = (size, size), (stride, stride)
    if not (train and forms.on_cpu()):
        return nn.max_pool(x, window, strides, padding)
    pads = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    return _trained_max_pool(x, size, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _trained_max_pool(x: Array, size: int, stride: int) -> Array:
    return functools.reduce(jnp.maximum, _shifted(x, size, stride))


def _pool_forward(x: Array, size: int, stride: int) -> tuple[Array, Any]:
    y = functools.reduce(jnp.maximum, _shifted(x, size, stride))
    return y, (x, y)


def _pool_backward(
    size: int, stride: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    x, y = saved
    taken = jnp.zeros(y.shape, bool)
    parts = []
    for numbers in _shifted(x, size, stride):
        largest = (numbers == y) & ~taken
        parts.append(jnp.where(largest, gradient, 0))
        taken |= largest
    return jax.linear_transpose(lambda x: _shifted(x, size, stride), x)(parts)


_trained_max_pool.defvjp(_pool_forward, _pool_backward)


def standardize(
    kernel: Float[Array, "p q i o"],
    std_epsilon: float,
    variance_epsilon: float,
    *,
    train: bool = False,
) -> Float[Array, "p q i o"]:
    """Gives each output feature's weights mean 0 and variance 1, in float32.

    `train` asks for no forward mode: of autodiff's sums some are plain loops on CPUs.
    """
    kernel = kernel.astype(jnp.float32)
    if train and forms.on_cpu():
        return _trained_standardize(kernel, std_epsilon, variance_epsilon)
    return _standardize(kernel, std_epsilon, variance_epsilon)


def _standardize(kernel: Array, std_epsilon: float, variance_epsilon: float) -> Array:
    centred = kernel - kernel.mean(axis=(0, 1, 2))
    variance = jnp.square(centred).mean(axis=(0, 1, 2))
    return centred / (jnp.sqrt(variance + variance_epsilon) + std_epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _trained_standardize(
    kernel: Array, std_epsilon: float, variance_epsilon: float
) -> Array:
    return _standardize(kernel, std_epsilon, variance_epsilon)


def _standardize_forward(
    kernel: Array, std_epsilon: float, variance_epsilon: float
) -> tuple[Array, Array]:
    return _standardize(kernel, std_epsilon, variance_epsilon), kernel


def _standardize_backward(
    std_epsilon: float, variance_epsilon: float, kernel: Array, gradient: Array
) -> tuple[Array]:
    over = (0, 1, 2)
    centred = kernel - kernel.mean(over)
    deviation = jnp.sqrt(jnp.square(centred).mean(over) + variance_epsilon)
    inverse = 1 / (deviation + std_epsilon)
    tilt = (gradient * centred).mean(over) * inverse / deviation
    return (inverse * (gradient - gradient.mean(over) - centred * tilt),)


_trained_standardize.defvjp(_standardize_forward, _standardize_backward)
