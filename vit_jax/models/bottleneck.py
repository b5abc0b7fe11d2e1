"""Bottleneck units of a ResNet with weight-standardised convolutions and GroupNorm.

Two forms of the same unit exist:

    v1  convolution, norm, ReLU; the sum is rectified. The released hybrids' stem
        (google-research/vision_transformer, `models_resnet.py`).
    v2  norm, ReLU, convolution; nothing after the sum, so the network ends in a norm.
        The BiT paper's models (google-research/big_transfer, big_vision
        `bit_paper.py`).

They also differ in padding. In both the stride is in the 3x3 convolution, which axial
attention can stand in for. Antialiased, that convolution has no stride, and a blur with
the stride follows the norm and ReLU after it; in the shortcut the blur comes before the
1x1 convolution (arXiv 1904.11486, section 3.2, and its released ResNet).

Axes: `b` batch, `h w` rows and columns, `c` features.
"""

from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.models.axial_resnet import AxialAttention
from vit_jax.models.std_conv import GroupNorm, StdConv, group_norm


class Layers(NamedTuple):
    """Makes the layers of a trunk, all with its numerics."""

    version: str
    norm_epsilon: float
    std_epsilon: float
    variance_epsilon: float
    axial_heads: int
    dtype: Any
    train: bool
    conv_padding: str
    antialias: bool

    def conv(self, name: str, features: int, size: int = 1, stride: int = 1) -> StdConv:
        return StdConv(
            features,
            size,
            stride,
            self.version == "v1",
            self.std_epsilon,
            self.variance_epsilon,
            self.dtype,
            self.train,
            self.conv_padding == "circular",
            name=name,
        )

    def own_stride(self, stride: int) -> int:
        """That of a convolution or a pooling, which may leave it to a blur."""
        return 1 if self.antialias else stride

    def blurred(self, x: Float[Array, "b h w c"], stride: int) -> Array:
        """The features with the stride that a layer before has left to a blur."""
        if not self.antialias or stride == 1:
            return x
        from vit_jax.models.borders import blur

        return blur(x, stride, circular=self.conv_padding == "circular")

    def norm(self, name: str, scale: float = 1.0, *, relu: bool = False) -> GroupNorm:
        return group_norm(
            name,
            self.norm_epsilon,
            self.dtype,
            scale=scale,
            relu=relu,
            train=self.train,
        )

    def shortcut(self, features: int, stride: int, x: Float[Array, "b h w c"]) -> Array:
        """The 1x1 convolution beside a unit that changes the size of its input."""
        conv = self.conv("shortcut", features, stride=self.own_stride(stride))
        return conv(self.blurred(x, stride))

    def spatial(self, features: int, stride: int) -> nn.Module:
        """The middle of a unit, the only layer that sees more than one place."""
        if not self.axial_heads:
            return self.conv("conv2", features, 3, self.own_stride(stride))
        return AxialAttention(
            self.axial_heads,
            stride,
            self.norm_epsilon,
            self.dtype,
            self.train,
            name="axial",
        )


class UnitV1(nn.Module):
    """Bottleneck unit, norms after the convolutions: `features` inside, 4x outside."""

    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        conv, norm = self.layers.conv, self.layers.norm
        shortcut = x
        if x.shape[-1] != 4 * self.features or self.stride > 1:
            shortcut = self.layers.shortcut(4 * self.features, self.stride, x)
            shortcut = norm("shortcut_norm")(shortcut)
        x = norm("norm1", relu=True)(conv("conv1", self.features)(x))
        x = self.layers.spatial(self.features, self.stride)(x)
        x = self.layers.blurred(norm("norm2", relu=True)(x), self.stride)
        # Scale 0: the unit starts as its shortcut.
        x = norm("norm3", scale=0.0)(conv("conv3", 4 * self.features)(x))
        return nn.relu(shortcut + x)


class UnitV2(nn.Module):
    """Bottleneck unit, norms before the convolutions: `features` inside, 4x outside.

    A convolution in the shortcut reads the normed input, an identity the plain one.
    """

    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        conv, norm = self.layers.conv, self.layers.norm
        shortcut = x
        x = norm("norm1", relu=True)(x)
        if x.shape[-1] != 4 * self.features or self.stride > 1:
            shortcut = self.layers.shortcut(4 * self.features, self.stride, x)
        x = norm("norm2", relu=True)(conv("conv1", self.features)(x))
        x = self.layers.spatial(self.features, self.stride)(x)
        x = self.layers.blurred(norm("norm3", relu=True)(x), self.stride)
        x = conv("conv3", 4 * self.features)(x)
        return shortcut + x


class Stage(nn.Module):
    """Units of one resolution; the first of them has the stride."""

    units: int
    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b _ _ d"], dict[str, Array]]:
        """The output, and by name that of each unit."""
        unit = UnitV1 if self.layers.version == "v1" else UnitV2
        out = {}
        for i in range(self.units):
            name, stride = f"unit_{i + 1:02d}", self.stride if i == 0 else 1
            x = unit(self.features, stride, self.layers, name=name)(x)
            out[name] = x
        return x, out
