"""MLP-Mixer (arXiv 2105.01601): MLPs over the patches, then over the features.

Sizes, layout and initial values are those of the released code
(google-research/vision_transformer, `models_mixer.py`).

Axes: `b` batch, `h w` patch grid, `l` tokens, `d` width. Parameters are float32. Matrix
products and the residual stream are in `dtype`; LayerNorm statistics and the logits are
float32.
"""

from typing import TYPE_CHECKING, Annotated, Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers import (
    Activation,
    Mlp,
    PatchEmbedding,
    ResidualBranch,
    classifier,
)
from vit_jax.models.pixels import HALF, Deviation, Mean, check_grid, prepare
from vit_jax.values import (
    Count,
    ImageSize,
    NotNegative,
    Range,
    Rate,
    Size,
    check_fields,
)


class MixerBlock(nn.Module):
    """Token-mixing MLP, then channel-mixing MLP, each behind a norm and a residual."""

    token_mlp_dim: int
    channel_mlp_dim: int
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    norm_epsilon: float = 1e-6
    activation: str = "gelu_tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool
    ) -> tuple[Float[Array, "b l d"], dict[str, Array]]:
        out = {}
        y = self.norm("token_norm")(x)
        y = einops.rearrange(y, "b l d -> b d l")
        y = self.mlp("token_mlp", self.token_mlp_dim)(y, train=train)
        y = einops.rearrange(y, "b d l -> b l d")
        out["token_mlp"] = self.branch("token_branch", y, train)
        x = x + out["token_mlp"]

        y = self.norm("channel_norm")(x)
        y = self.mlp("channel_mlp", self.channel_mlp_dim)(y, train=train)
        out["channel_mlp"] = self.branch("channel_branch", y, train)
        x = out["output"] = x + out["channel_mlp"]
        return x, out

    def norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=name)

    def mlp(self, name: str, hidden_dim: int) -> Mlp:
        return Mlp(
            hidden_dim,
            self.dropout_rate,
            self.activation,
            self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
            bias_init=nn.initializers.zeros,
            name=name,
        )

    def branch(self, name: str, x: Array, train: bool) -> Array:
        return ResidualBranch(name=name)(x, self.stochastic_depth_rate, train=train)


class MixerEncoder(nn.Module):
    """A stack of blocks and a final LayerNorm.

    `stochastic_depth_rate` is that of the last block; it grows linearly from 0.
    """

    depth: int
    stochastic_depth_rate: float
    block: dict[str, Any]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool
    ) -> tuple[Float[Array, "b l d"], dict[str, Any]]:
        out = {}
        for i in range(self.depth):
            rate = self.stochastic_depth_rate * i / max(self.depth - 1, 1)
            name = f"block_{i:02d}"
            block = MixerBlock(**self.block, stochastic_depth_rate=rate, name=name)
            x, out[name] = block(x, train=train)
        epsilon, dtype = self.block["norm_epsilon"], self.block["dtype"]
        return nn.LayerNorm(epsilon, dtype=dtype, name="norm")(x), out


class Mixer(nn.Module):
    """Image classifier: patches, mixer blocks, mean over patches, head.

    Attributes:
        num_classes: outputs of the head; 0 leaves the head out and returns the
            representation (pre-logits).
        image_size: (height, width) in pixels; the token MLPs fit its grid alone.
        patch_size: side of a patch in pixels.
        depth, width: blocks and features of a token.
        token_mlp_dim, channel_mlp_dim: hidden widths D_S and D_C of the MLPs.
        norm_epsilon: of each LayerNorm.
        activation: of the MLPs: `gelu_tanh`, `gelu`, ... (`models/layers.py`).
        head_bias_init: initial value of the head's bias; its kernel starts at zero.
        dropout_rate: after every dense layer of the blocks.
        stochastic_depth_rate: of the last block, growing linearly from 0.
        pixel_mean, pixel_std: of pixels in [0, 1], that the weights expect.
        dtype: of matrix products and of the residual stream.
    """

    num_classes: Count
    image_size: ImageSize
    patch_size: Size
    depth: Annotated[int, Range(1, 10_000)]
    width: Size
    token_mlp_dim: Size
    channel_mlp_dim: Size
    norm_epsilon: NotNegative = 1e-6
    activation: Activation = "gelu_tanh"
    head_bias_init: float = 0.0
    dropout_rate: Rate = 0.0
    stochastic_depth_rate: Rate = 0.0
    pixel_mean: Mean = HALF
    pixel_std: Deviation = HALF
    dtype: Any = jnp.float32

    if TYPE_CHECKING:  # Flax writes it, so that models can be static arguments.

        def __hash__(self) -> int: ...

    def __post_init__(self) -> None:
        """Raises ValueError for an option out of its range, or of another type."""
        check_fields(self)
        super().__post_init__()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

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
            return_attention: there is none; all models take the argument.
            image_size: likewise; nothing but the model's own is possible.

        Returns:
            float32 logits, and a dict of activations: `stem` (b h w d), `encoder` (per
            block `token_mlp`, `channel_mlp` and `output`), `encoded` (b l d),
            `pre_logits` (b d).

        Raises:
            ValueError: images of another shape, size or dtype than the model's, or of
                0..255 (outside of `jit`).
        """
        del return_attention
        height, width = image_size or self.image_size
        self.check((height, width))
        images = prepare(images, self.image_size, self.pixel_mean, self.pixel_std)
        out = {}
        patch_size = (self.patch_size, self.patch_size)
        stem = PatchEmbedding(patch_size, self.width, self.dtype, name="embedding")
        x = out["stem"] = stem(images, train=train)
        x = einops.rearrange(x, "b h w d -> b (h w) d")
        block = {
            "token_mlp_dim": self.token_mlp_dim,
            "channel_mlp_dim": self.channel_mlp_dim,
            "dropout_rate": self.dropout_rate,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation,
            "dtype": self.dtype,
        }
        encoder = MixerEncoder(
            self.depth, self.stochastic_depth_rate, block, name="encoder"
        )
        x, out["encoder"] = encoder(x, train=train)
        out["encoded"] = x
        x = out["pre_logits"] = x.astype(jnp.float32).mean(axis=1)
        if self.num_classes:
            x = classifier(self.num_classes, self.head_bias_init)(x)
        return x, out

    def check(self, image_size: tuple[int, int]) -> None:
        """Raises ValueError for a size that is not the model's or has no whole grid."""
        if image_size != self.image_size:
            raise ValueError(
                "a Mixer's token MLPs fit the patches of one image size: wanted "
                f"{self.image_size}, but it is called with {image_size}"
            )
        check_grid(image_size, self.patch_size)
