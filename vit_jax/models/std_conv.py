"""Weight-standardised convolution (arXiv 1903.10520) and the GroupNorm beside it."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models import forms

GROUPS = 32


class StdConv(nn.Module):
    """Square convolution without bias, its kernel standardised.

    Attributes:
        same: TensorFlow's SAME padding; otherwise size // 2 places on all four sides.
        train: whether a gradient of reverse mode is all that is asked for.
        circular: whether the border is filled from the opposite side, not with zeros.
    """

    features: int
    size: int
    stride: int
    same: bool
    std_epsilon: float
    variance_epsilon: float
    dtype: Any = jnp.float32
    train: bool = False
    circular: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        # Here, as no other model needs them; so below and in `resnet.py`.
        from vit_jax.models import conv_forms

        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        epsilons = (self.std_epsilon, self.variance_epsilon)
        kernel = conv_forms.standardize(kernel, *epsilons, train=self.train)
        border = self.size // 2
        padding = "SAME" if self.same else ((border, border), (border, border))
        if self.circular:
            from vit_jax.models.borders import wrap

            x, padding = wrap(x, self.size, self.stride, padding), "VALID"
        return conv_forms.convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.stride,
            padding,
            train=self.train,
        )


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` in the form for the device, and a ReLU after it if asked for.

    Attributes:
        relu: whether the result is rectified.
        train: whether a gradient of reverse mode is all that is asked for.
    """

    relu: bool = False
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        groups = self.num_groups if self.reduction_axes == (1, 2, 3) else None
        if self.is_initializing() or groups is None or not forms.on_cpu():
            x = super().__call__(x)
            return nn.relu(x) if self.relu else x
        from vit_jax.models import conv_forms

        scale, bias = (self.get_variable("params", n) for n in ("scale", "bias"))
        options = {"relu": self.relu, "train": self.train}
        return conv_forms.group_norm(
            x.astype(self.dtype), scale, bias, groups, self.epsilon, **options
        )


def group_norm(
    name: str,
    epsilon: float,
    dtype: Any,
    *,
    scale: float = 1.0,
    axes: tuple[int, ...] = (1, 2, 3),
    relu: bool = False,
    train: bool = False,
) -> GroupNorm:
    """Norm of 32 groups of features over all places of an image (arXiv 1803.08494).

    The variance takes two passes: in the stream of a v2 ResNet the mean is large, and
    the difference of two large numbers is not exact enough for released weights.

    Args:
        scale: initial value of the learned scale.
        axes: that a group's statistics are taken over, the features' last.
        relu, train: see `GroupNorm`.
    """
    return GroupNorm(
        GROUPS,
        epsilon=epsilon,
        dtype=dtype,
        scale_init=nn.initializers.constant(scale),
        reduction_axes=axes,
        use_fast_variance=False,
        relu=relu,
        train=train,
        name=name,
    )
