"""The Vision Transformer (arXiv 2010.11929, section 3.1 and appendix A).

Axes: `b` batch, `h w` patch grid, `c` colour, `l` tokens, `d` width, `k` heads, `e`
head width. Read bottom-up: patch embedding, block, encoder, pooling, model.

Parameters are float32. Matrix products and the residual stream are in `dtype`;
LayerNorm statistics, softmax and the logits are float32.
"""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.positions import PositionEmbedding

POOLINGS = ("token", "gap", "map")


class PatchEmbedding(nn.Module):
    """Cuts an image into non-overlapping patches and maps each to `width` features.

    The kernel is that of a convolution with stride `patch_size` and no padding, so
    released weights fit; it is computed as one matrix product, which is faster.
    """

    patch_size: tuple[int, int]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "b height width c"]
    ) -> Float[Array, "b h w d"]:
        p, q = self.patch_size
        shape = (p, q, images.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        patches = einops.rearrange(
            images.astype(self.dtype), "b (h p) (w q) c -> b h w (p q c)", p=p, q=q
        )
        kernel = einops.rearrange(kernel, "p q c d -> (p q c) d")
        return patches @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class Mlp(nn.Module):
    """Two dense layers with a GELU between, dropout after each."""

    hidden_dim: int
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool
    ) -> Float[Array, "b l d"]:
        def dense(name: str, features: int) -> nn.Dense:
            return nn.Dense(
                features,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(stddev=1e-6),
                dtype=self.dtype,
                name=name,
            )

        width = x.shape[-1]
        x = nn.gelu(dense("hidden", self.hidden_dim)(x))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        x = dense("out", width)(x)
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class ResidualBranch(nn.Module):
    """What happens to a branch's output before it is added: LayerScale, sample drop.

    LayerScale (arXiv 2103.17239, Eq. 5): a learned factor a feature, off if 0.
    Stochastic depth (arXiv 1603.09382): the branch is dropped for single samples,
    and scaled up for those that keep it.
    """

    layer_scale_init: float = 0.0
    drop_rate: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool
    ) -> Float[Array, "b l d"]:
        if self.layer_scale_init:
            init = nn.initializers.constant(self.layer_scale_init)
            x = x * self.param("layer_scale", init, (x.shape[-1],)).astype(x.dtype)
        drop_sample = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2))
        return drop_sample(x, deterministic=not train)


class EncoderBlock(nn.Module):
    """Pre-LN block: attention, then MLP, each behind a residual (Eqs. 2 and 3)."""

    num_heads: int
    mlp_dim: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    layer_scale_init: float = 0.0
    attention_implementation: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool, return_attention: bool
    ) -> tuple[Float[Array, "b l d"], dict[str, Array]]:
        out = {}
        y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        y, weights = MultiHeadAttention(
            self.num_heads,
            self.attention_dropout_rate,
            self.attention_implementation,
            self.dtype,
            name="attention",
        )(y, train=train, return_weights=return_attention)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        out["attention"] = self.branch("attention_branch")(y, train=train)
        x = x + out["attention"]

        y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        y = Mlp(self.mlp_dim, self.dropout_rate, self.dtype, name="mlp")(y, train=train)
        out["mlp"] = self.branch("mlp_branch")(y, train=train)
        x = out["output"] = x + out["mlp"]

        if weights is not None:
            out["attention_weights"] = weights
        return x, out

    def branch(self, name: str) -> ResidualBranch:
        return ResidualBranch(
            self.layer_scale_init, self.stochastic_depth_rate, name=name
        )


class Encoder(nn.Module):
    """A stack of blocks and a final LayerNorm.

    `stochastic_depth_rate` is that of the last block; it grows linearly from 0.
    """

    depth: int
    block: dict[str, Any]
    stochastic_depth_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool, return_attention: bool
    ) -> tuple[Float[Array, "b l d"], dict[str, Any]]:
        out = {}
        for i in range(self.depth):
            rate = self.stochastic_depth_rate * i / max(self.depth - 1, 1)
            name = f"block_{i:02d}"
            block = EncoderBlock(
                **self.block, stochastic_depth_rate=rate, dtype=self.dtype, name=name
            )
            x, out[name] = block(x, train=train, return_attention=return_attention)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x), out


class MapHead(nn.Module):
    """Multi-head attention pooling: a learned query attends to all tokens, then a
    residual MLP (arXiv 2106.04560, section 3.2; the query has no residual)."""

    num_heads: int
    mlp_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], *, train: bool) -> Float[Array, "b d"]:
        init = nn.initializers.xavier_uniform()
        probe = self.param("probe", init, (1, 1, x.shape[-1])).astype(x.dtype)
        probe = einops.repeat(probe, "1 1 d -> b 1 d", b=x.shape[0])
        # The fused kernel gains nothing with one query.
        attention = MultiHeadAttention(
            self.num_heads, implementation="xla", dtype=self.dtype, name="attention"
        )
        x, _ = attention(probe, x, train=train)
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        x = x + Mlp(self.mlp_dim, dtype=self.dtype, name="mlp")(y, train=train)
        return einops.rearrange(x, "b 1 d -> b d")


class VisionTransformer(nn.Module):
    """Image classifier: patches, class token, positions, encoder, pooling, head.

    Attributes:
        num_classes: outputs of the head; 0 leaves the head out and returns the
            representation (pre-logits).
        image_size: (height, width) in pixels; positions are learned for its grid.
        patch_size: side of a patch in pixels.
        depth, width, mlp_dim, num_heads: L, D, M, k of the paper's Table 1.
        pooling: `token`, the class token's output; `gap`, the mean over patches (no
            class token); `map`, attention pooling (no class token).
        positions: `learned` (1-D) or `sincos2d` (fixed).
        pre_logits: a tanh layer of the same width before the head, for pre-training.
        head_bias_init: initial value of the head's bias; its kernel starts at zero.
        dropout_rate: after every dense layer but q, k, v, and after the positions.
        attention_dropout_rate: of the attention probabilities.
        stochastic_depth_rate: of the last block, growing linearly from 0.
        layer_scale_init: initial LayerScale, 0 for none.
        num_registers: learned extra tokens without position (arXiv 2309.16588).
        attention_implementation: `auto`, `xla` or `cudnn`.
        dtype: of matrix products and of the residual stream.
    """

    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
    depth: int
    width: int
    mlp_dim: int
    num_heads: int
    pooling: str = "token"
    positions: str = "learned"
    pre_logits: bool = False
    head_bias_init: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    layer_scale_init: float = 0.0
    num_registers: int = 0
    attention_implementation: str = "auto"
    dtype: Any = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token and registers."""
        return int(self.pooling == "token") + self.num_registers

    @nn.compact
    def __call__(
        self,
        images: Array,
        *,
        train: bool,
        return_attention: bool = False,
    ) -> tuple[Float[Array, "b n"], dict[str, Any]]:
        """Classifies images: floats in [-1, 1] of shape (b, *image_size, 3).

        Returns:
            float32 logits, and a dict of activations: `stem` (b h w d), `embedded`
            (b l d, tokens after positions), `encoder` (per block `attention`, `mlp`,
            `output` and, with `return_attention`, `attention_weights` (b k l l)),
            `encoded` (b l d), `pre_logits` (b d). Under jit, what is not used of it
            costs nothing.

        Raises:
            ValueError: images of another shape, size or dtype than the model's.
        """
        self.check(images)
        out = {}
        patch_size = (self.patch_size, self.patch_size)
        stem = PatchEmbedding(patch_size, self.width, self.dtype, name="embedding")
        x = out["stem"] = stem(images)
        x = einops.rearrange(x, "b h w d -> b (h w) d")

        if self.pooling == "token":
            x = self.prepend(x, "class_token", 1, nn.initializers.zeros)
        x = PositionEmbedding(self.positions, self.grid, name="positions")(x)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        if self.num_registers:
            # In front of the class token, so that the patches stay contiguous.
            init = nn.initializers.normal(stddev=0.02)
            x = self.prepend(x, "registers", self.num_registers, init)
        out["embedded"] = x

        block = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "layer_scale_init": self.layer_scale_init,
            "attention_implementation": self.attention_implementation,
        }
        encoder = Encoder(
            self.depth, block, self.stochastic_depth_rate, self.dtype, name="encoder"
        )
        x, out["encoder"] = encoder(x, train=train, return_attention=return_attention)
        out["encoded"] = x

        x = self.pool(x, train=train)
        if self.pre_logits:
            x = nn.tanh(nn.Dense(self.width, dtype=self.dtype, name="pre_logits")(x))
        x = out["pre_logits"] = x.astype(jnp.float32)
        if self.num_classes:
            x = nn.Dense(
                self.num_classes,
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias_init),
                name="head",
            )(x)
        return x, out

    def prepend(self, x: Array, name: str, number: int, init: Any) -> Array:
        tokens = self.param(name, init, (1, number, self.width)).astype(x.dtype)
        tokens = einops.repeat(tokens, "1 n d -> b n d", b=x.shape[0])
        return jnp.concatenate([tokens, x], axis=1)

    def pool(self, x: Float[Array, "b l d"], *, train: bool) -> Float[Array, "b d"]:
        if self.pooling == "token":
            return x[:, self.num_registers]
        if self.pooling == "gap":
            return x[:, self.num_registers :].mean(axis=1)
        if self.pooling == "map":
            head = MapHead(self.num_heads, self.mlp_dim, self.dtype, name="map_head")
            return head(x, train=train)
        raise ValueError(
            f"unknown pooling {self.pooling!r}: wanted one of {', '.join(POOLINGS)}"
        )

    def check(self, images: Array) -> None:
        for side, pixels in zip(("height", "width"), self.image_size, strict=True):
            if pixels < 1 or pixels % self.patch_size:
                raise ValueError(
                    f"the image {side} must be a multiple of the patch size, but "
                    f"{pixels} is not a multiple of {self.patch_size}"
                )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images must be floats in [-1, 1], but their dtype is {images.dtype}; "
                "for uint8 pixels use vit_jax.normalize(images)"
            )
        if images.ndim != 4 or images.shape[1:] != (*self.image_size, 3):
            wanted = ("batch", *self.image_size, 3)
            raise ValueError(
                f"images must have shape {wanted}, but theirs is {images.shape}; a "
                "model takes another size if created with image_size=(height, width)"
            )
