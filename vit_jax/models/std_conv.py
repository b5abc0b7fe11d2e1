"""Weight-standardised convolution (arXiv 1903.10520) and the GroupNorm beside it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

GROUPS = 32


def standardize(
    kernel: Float[Array, "p q i o"], std_epsilon: float, variance_epsilon: float
) -> Float[Array, "p q i o"]:
    """Gives each output feature's weights mean 0 and variance 1."""
    kernel = kernel.astype(jnp.float32)
    centred = kernel - kernel.mean(axis=(0, 1, 2))
    variance = jnp.square(centred).mean(axis=(0, 1, 2))
    return centred / (jnp.sqrt(variance + variance_epsilon) + std_epsilon)


class StdConv(nn.Module):
    """Square convolution without bias, its kernel standardised.

    Attributes:
        same: TensorFlow's SAME padding; otherwise size // 2 zeros on all four sides.
    """

    features: int
    size: int
    stride: int
    same: bool
    std_epsilon: float
    variance_epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        kernel = standardize(kernel, self.std_epsilon, self.variance_epsilon)
        border = self.size // 2
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding="SAME" if self.same else ((border, border), (border, border)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def group_norm(
    name: str,
    epsilon: float,
    dtype: Any,
    *,
    scale: float = 1.0,
    axes: tuple[int, ...] = (1, 2, 3),
) -> nn.GroupNorm:
    """Norm of 32 groups of features over all places of an image (arXiv 1803.08494).

    The variance takes two passes: in the stream of a v2 ResNet the mean is large, and
    the difference of two large numbers is not exact enough for released weights.

    Args:
        scale: initial value of the learned scale.
        axes: that a group's statistics are taken over, the features' last.
    """
    return nn.GroupNorm(
        GROUPS,
        epsilon=epsilon,
        dtype=dtype,
        scale_init=nn.initializers.constant(scale),
        reduction_axes=axes,
        use_fast_variance=False,
        name=name,
    )
