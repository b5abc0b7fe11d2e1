"""BiT ResNets (arXiv 1912.11370), as classifiers and as the stem of hybrids.

The forms v1 and v2 are described in `models/bottleneck.py`; the released code of each
also has epsilons of its own, see `EPSILONS`.
"""

from typing import TYPE_CHECKING, Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.bottleneck import Layers, Stage
from vit_jax.models.layers import classifier
from vit_jax.models.pixels import HALF, Deviation, Mean, prepare
from vit_jax.models.std_conv import GROUPS, group_norm
from vit_jax.values import Choice, Count, ImageSize, NotNegative, Size, check_fields

# Of the released code; the logits of its checkpoints depend on them.
EPSILONS = {
    "v1": {"norm_epsilon": 1e-6, "std_epsilon": 1e-5, "variance_epsilon": 0.0},
    "v2": {"norm_epsilon": 1e-5, "std_epsilon": 0.0, "variance_epsilon": 1e-10},
}


def epsilons(version: str) -> dict[str, float]:
    """The numbers that a version's released code adds to deviations and variances.

    Raises:
        ValueError: unknown version.
    """
    if version not in EPSILONS:
        raise ValueError(
            f"unknown version {version!r}: wanted one of {', '.join(EPSILONS)}"
        )
    return dict(EPSILONS[version])


class ResNetTrunk(nn.Module):
    """From images to a feature map: root block, then stages of bottleneck units.

    The root is a 7x7 convolution and a max-pool, each of stride 2. Each stage after
    the first halves the grid and doubles the features.

    Attributes:
        blocks: units in each stage; () is the root block alone.
        width: features of the root, a multiple of 32; 64 times the width factor.
        version: `v1` or `v2`. The latter's output is not normed yet.
        norm_epsilon: of each GroupNorm.
        std_epsilon, variance_epsilon: of the weight standardisation, added to the
            deviation and to the variance.
        axial_heads: heads of the axial attention in the place of the 3x3
            convolutions (`models/axial_resnet.py`); 0 for convolutions.
        conv_padding, antialias: as in `ResNet`; not with axial attention.
        dtype: of the convolutions and of the residual stream; statistics and the
            standardised kernels are float32 before they are rounded to it.

    Raises:
        ValueError: when called, for an unknown version or a width that cannot be.
    """

    blocks: tuple[int, ...]
    width: int = 64
    version: str = "v1"
    norm_epsilon: float = 1e-6
    std_epsilon: float = 1e-5
    variance_epsilon: float = 0.0
    axial_heads: int = 0
    dtype: Any = jnp.float32
    conv_padding: str = "zeros"
    antialias: bool = False

    @property
    def stride(self) -> int:
        """Pixels a side that one place of the output stands for."""
        return 4 * 2 ** max(len(self.blocks) - 1, 0)

    @property
    def features(self) -> int:
        """Features of the output."""
        if not self.blocks:
            return self.width
        return 4 * self.width * 2 ** (len(self.blocks) - 1)

    def __call__(
        self, images: Float[Array, "b height width 3"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        return self.stages(images, train=train)[0]

    @nn.compact
    def stages(
        self, images: Float[Array, "b height width 3"], *, train: bool
    ) -> tuple[Float[Array, "b h w c"], dict[str, Any]]:
        """The output, and by name that of the root and of each unit of each stage."""
        if self.width < 1 or self.width % GROUPS:
            raise ValueError(
                f"the width of a ResNet must be a multiple of {GROUPS}, the groups of "
                f"its norms, but it is {self.width}"
            )
        layers = Layers(
            self.version,
            self.norm_epsilon,
            self.std_epsilon,
            self.variance_epsilon,
            self.axial_heads,
            self.dtype,
            train,
            self.conv_padding,
            self.antialias,
        )
        out = {}
        x = out["root"] = self.root(images, layers)
        for i, units in enumerate(self.blocks):
            name, stride = f"stage_{i + 1}", 1 if i == 0 else 2
            stage = Stage(units, self.width * 2**i, stride, layers, name=name)
            x, out[name] = stage(x)
        return x, out

    def root(self, images: Array, layers: Layers) -> Float[Array, "b h w c"]:
        from vit_jax.models.conv_forms import max_pool

        stride, blurred = layers.own_stride(2), layers.blurred
        x = layers.conv("root", self.width, 7, stride)(images)
        padding = "SAME"
        if self.version == "v1":
            x = layers.norm("root_norm", relu=True)(x)
        x = blurred(x, 2)
        if self.conv_padding == "circular":
            from vit_jax.models.borders import wrap

            border = "SAME" if self.version == "v1" else ((1, 1), (1, 1))
            x, padding = wrap(x, 3, stride, border), "VALID"
        elif self.version == "v2":
            # Zeros, not minus infinity: features are not rectified yet, so it matters.
            x, padding = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), "VALID"
        return blurred(max_pool(x, 3, stride, padding, train=layers.train), 2)


class ResNet(nn.Module):
    """Image classifier: a ResNet trunk, the mean over its places, a head.

    Attributes:
        num_classes: outputs of the head; 0 leaves the head out and returns the
            representation (pre-logits).
        image_size: (height, width) in pixels.
        blocks: units in each stage: (3, 4, 6, 3) in a ResNet-50.
        width: features of the root, a multiple of 32; 64 times the width factor.
        version: `v2`, the BiT paper's, or `v1`.
        head_bias_init: initial value of the head's bias; its kernel starts at zero.
        norm_epsilon, std_epsilon, variance_epsilon: as in `ResNetTrunk`; the defaults
            are those of v2, `create_model` gives v1 its own.
        axial_heads: of the attention that replaces the 3x3 convolutions; 0 for none.
        conv_padding: what is beyond the border, for all convolutions and the root's
            pooling: `zeros` (v1's pooling ignores it), or `circular`, the opposite
            side, with which the trunk commutes exactly with moves in a circle by its
            stride, if that divides the image.
        antialias: blurs wherever places are skipped (`models/borders.py`): of all
            convolutions and the root's pooling the stride moves into a fixed filter
            behind them. No parameter changes, and weights can be taken over. The
            layers with strides cost four times as much.
        pixel_mean, pixel_std: of pixels in [0, 1], that the weights expect.
        dtype: of convolutions and of the residual stream.
    """

    num_classes: Count
    image_size: ImageSize
    blocks: tuple[Size, ...]
    width: Size = 64
    version: Annotated[str, Choice(*EPSILONS)] = "v2"
    head_bias_init: float = 0.0
    norm_epsilon: NotNegative = 1e-5
    std_epsilon: NotNegative = 0.0
    variance_epsilon: NotNegative = 1e-10
    axial_heads: Count = 0
    pixel_mean: Mean = HALF
    pixel_std: Deviation = HALF
    dtype: Any = jnp.float32
    conv_padding: Annotated[str, Choice("zeros", "circular")] = "zeros"
    antialias: bool = False

    if TYPE_CHECKING:  # Flax writes it, so that models can be static arguments.

        def __hash__(self) -> int: ...

    def __post_init__(self) -> None:
        """Raises ValueError for an option out of its range, or of another type."""
        check_fields(self)
        if self.axial_heads and (self.conv_padding != "zeros" or self.antialias):
            raise ValueError(
                "an axial ResNet attends where others convolve, to whole rows and "
                "columns and with strides of its own: use conv_padding='zeros' and "
                "antialias=False"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Array,
        *,
        train: bool = False,
        return_attention: bool = False,
        image_size: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "b n"], dict[str, Any]]:
        """Classifies images: floats in [-1, 1] of shape (b, *image_size, 3).

        Args:
            train: whether a gradient is asked for.
            return_attention: nothing depends on it; all models take it.
            image_size: (height, width) of the images if not the model's.

        Returns:
            float32 logits, and a dict of activations: `resnet` (`root` and, per stage
            `stage_1`, ..., `unit_01`, ..., all b h w c), `encoded` (b h w c, what is
            pooled), `pre_logits` (b d).

        Raises:
            ValueError: images of another shape, size or dtype than the model's, or of
                0..255 (outside of `jit`); or an unknown version or impossible width.
        """
        del return_attention  # every model is called with it
        height, width = image_size or self.image_size
        image_size = height, width
        if self.axial_heads and image_size != self.image_size:
            raise ValueError(
                "an axial ResNet has learned offsets for the rows and columns of "
                f"{self.image_size} and takes no other image size, but it is called "
                f"with {image_size}"
            )
        images = prepare(images, image_size, self.pixel_mean, self.pixel_std)
        out = {}
        x, out["resnet"] = self.trunk().stages(images, train=train)
        if self.version == "v2":
            options = (self.norm_epsilon, self.dtype)
            x = group_norm("norm", *options, relu=True, train=train)(x)
        out["encoded"] = x
        x = out["pre_logits"] = x.astype(jnp.float32).mean(axis=(1, 2))
        if self.num_classes:
            x = classifier(self.num_classes, self.head_bias_init)(x)
        return x, out

    def trunk(self) -> ResNetTrunk:
        return ResNetTrunk(
            self.blocks,
            self.width,
            self.version,
            self.norm_epsilon,
            self.std_epsilon,
            self.variance_epsilon,
            self.axial_heads,
            self.dtype,
            self.conv_padding,
            self.antialias,
            name="resnet",
        )
