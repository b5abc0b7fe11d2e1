"""Bottleneck units of a ResNet with weight-standardised convolutions and GroupNorm.

Two forms of the same unit exist:

    v1  convolution, norm, ReLU; the sum is rectified. The released hybrids' stem
        (google-research/vision_transformer, `models_resnet.py`).
    v2  norm, ReLU, convolution; nothing after the sum, so the network ends in a norm.
        The BiT paper's models (google-research/big_transfer, big_vision
        `bit_paper.py`).

They also differ in padding. In both the stride is in the 3x3 convolution, which axial
attention can stand in for. Axes: `b` batch, `h w` rows and columns, `c` features.
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
            name=name,
        )

    def norm(self, name: str, scale: float = 1.0, *, relu: bool = False) -> GroupNorm:
        return group_norm(
            name,
            self.norm_epsilon,
            self.dtype,
            scale=scale,
            relu=relu,
            train=self.train,
        )

    def spatial(self, features: int, stride: int) -> nn.Module:
        """The middle of a unit, the only layer that sees more than one place."""
        if not self.axial_heads:
            return self.conv("conv2", features, 3, stride)
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
            shortcut = conv("shortcut", 4 * self.features, stride=self.stride)(x)
            shortcut = norm("shortcut_norm")(shortcut)
        x = norm("norm1", relu=True)(conv("conv1", self.features)(x))
        x = self.layers.spatial(self.features, self.stride)(x)
        x = norm("norm2", relu=True)(x)
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
            shortcut = conv("shortcut", 4 * self.features, stride=self.stride)(x)
        x = norm("norm2", relu=True)(conv("conv1", self.features)(x))
        x = self.layers.spatial(self.features, self.stride)(x)
        x = conv("conv3", 4 * self.features)(norm("norm3", relu=True)(x))
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
