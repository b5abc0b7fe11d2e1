"""The Vision Transformer (arXiv 2010.11929, section 3.1 and appendix A).

Axes: `b` batch, `h w` patch grid, `c` colour or features, `l` tokens, `d` width, `k`
heads, `e` head width. Layers are in `models/layers.py`, blocks in `models/encoder.py`.

Parameters are float32. Matrix products and the residual stream are in `dtype`;
the statistics of norms, softmax and the logits are float32.
"""

from typing import TYPE_CHECKING, Annotated, Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.models.attention import BIASES, IMPLEMENTATIONS
from vit_jax.models.depth import REMAT
from vit_jax.models.encoder import BLOCKS, MLPS, Encoder, block_options
from vit_jax.models.layers import (
    NORMS,
    Activation,
    Dense,
    Initialization,
    PatchEmbedding,
    classifier,
    divide_batch,
    make_norm,
)
from vit_jax.models.pixels import HALF, Deviation, Mean, check_grid, prepare
from vit_jax.models.pooling import MapHead
from vit_jax.models.positions import (
    ADDED,
    KINDS,
    OFFSET_BIASES,
    PLACES,
    PositionEmbedding,
    add_positions,
    check_positions,
    position_options,
)
from vit_jax.models.relative_bias import RelativeBias
from vit_jax.models.resnet import ResNetTrunk
from vit_jax.models.rotary import Axes, Coordinates, Frequencies, Grid, Layout
from vit_jax.values import (
    Choice,
    Count,
    ImageSize,
    NotNegative,
    Positive,
    Range,
    Rate,
    Size,
    check_fields,
)

ZEROS, NORMAL = nn.initializers.zeros, nn.initializers.normal(stddev=0.02)


class VisionTransformer(nn.Module):
    """Image classifier: stem, patches, class token, positions, encoder, pooling, head.

    Attributes:
        num_classes: outputs of the head; 0 leaves the head out and returns the
            representation (pre-logits).
        image_size: (height, width) in pixels; positions are learned for its grid.
        patch_size: pixels a side that a token stands for, a ResNet stem included.
        depth, width, mlp_dim, num_heads: L, D, M, k of the paper's Table 1.
        pooling: `token`, the class token's output; `gap`, the mean over patches;
            `map`, attention pooling; `token_gap`, the first two side by side.
        map_reads: what attention pooling reads: `all` tokens or the `patches`.
        class_token: `auto`, if the pooling reads it; `always`.
        class_token_position: whether the class token has a learned position, as in
            Eq. 1; big_vision adds positions before it puts the token in front.
        distillation_token: a token behind the class token with a head of its own; the
            logits are the mean of both heads' (DeiT, arXiv 2012.12877).
        positions, positions_at: kind and place, see `models/positions.py`.
        relative_mlp_dim: hidden features of the MLP of `relative_mlp`.
        rope_frequencies, rope_coordinates, rope_base, rope_layout, rope_axes,
            rope_grid, rope_register_base: of rotary positions, see `models/rotary.py`.
        attention: `full`, or `axial`: rows, then columns (appendix D.6); no class
            token or registers then.
        qkv_bias: which of query, key and value have a bias: `qkv`, `qv`, ... `none`.
        qk_norm: norm of each head's queries and keys: `none`, `layernorm`, `rmsnorm`.
        attention_inner_norm: a norm of the heads' outputs before the last projection.
        block: `pre_norm`, `post_norm`, `parallel` or `pairs`, see `models/encoder.py`.
        embedding_norm: a norm before the blocks, and no bias in the patch embedding
            (CLIP, arXiv 2103.00020).
        norm: kind of all norms: `layernorm` or `rmsnorm`.
        norm_after_pooling: the final norm comes after the pooling.
        norm_epsilon: of each norm.
        mlp: `plain`, or `swiglu`, whose gate is a third matrix of `mlp_dim` outputs.
        mlp_inner_norm: a norm before the last matrix of the MLPs (EVA-02).
        activation: of plain MLPs: `gelu_tanh`, `gelu`, ... (`ACTIVATIONS`).
        pre_logits: a tanh layer of the same width before the head, for pre-training.
        head_bias_init: initial value of the head's bias; its kernel starts at zero.
        dropout_rate: after every dense layer but q, k, v, and after the positions.
        attention_dropout_rate: of the attention probabilities.
        stochastic_depth_rate: of the last block, growing linearly from 0.
        stochastic_depth_uniform: that rate in every block (arXiv 2204.07118).
        layer_scale_init: initial LayerScale, 0 for none.
        initialization: what `init_params` draws: `xavier`, as Google's code;
            `trunc_normal`, as DeiT III, see `models/layers.py`; `mimetic` or `impulse`,
            with a structure in self-attention, see `models/initialization.py`.
        num_registers: learned extra tokens (arXiv 2309.16588), without a position but
            for `rope_register_base`.
        resnet_stem: units in each stage of a ResNet that the patches are cut from the
            features of (hybrid, section 3.1); () is its root alone, None no ResNet.
        stem_width: features of the stem's root.
        stem_norm_epsilon, stem_std_epsilon, stem_variance_epsilon: of its GroupNorms
            and weight standardisation, see `models/resnet.py`.
        pixel_mean, pixel_std: of pixels in [0, 1], that the weights expect.
        attention_implementation: `auto`, `xla` or `cudnn`.
        scan: compile one block and loop over the layers: compiles in a fraction of the
            time; parameters are then stacked, see `models/depth.py`, and activations
            of the encoder are not returned.
        remat: what is computed again in the backward pass: `none`, `dots` (all but the
            products with weights) or `full` (all of a block).
        patch_outputs: of a head on each patch, for masked patch prediction (appendix
            B.1.2); with it comes a mask token. 0 for neither.
        dtype: of matrix products and of the residual stream.
    """

    num_classes: Count
    image_size: ImageSize
    patch_size: Size
    depth: Annotated[int, Range(1, 10_000)]
    width: Size
    mlp_dim: Size
    num_heads: Size
    pooling: Annotated[str, Choice("token", "gap", "map", "token_gap")] = "token"
    map_reads: Annotated[str, Choice("all", "patches")] = "all"
    class_token: Annotated[str, Choice("auto", "always")] = "auto"
    class_token_position: bool = True
    distillation_token: bool = False
    positions: Annotated[str, Choice(*KINDS)] = "learned"
    positions_at: Annotated[str, Choice(*PLACES)] = "stem"
    relative_mlp_dim: Size = 128
    rope_frequencies: Frequencies = "axial"
    rope_coordinates: Coordinates = "centred"
    rope_base: Positive = 100.0
    rope_layout: Layout = "half"
    rope_axes: Axes = "yx"
    rope_grid: Grid = ()
    rope_register_base: NotNegative = 0.0
    attention: Annotated[str, Choice("full", "axial")] = "full"
    qkv_bias: Annotated[str, Choice(*BIASES)] = "qkv"
    qk_norm: Annotated[str, Choice("none", *NORMS)] = "none"
    attention_inner_norm: bool = False
    block: Annotated[str, Choice(*BLOCKS)] = "pre_norm"
    embedding_norm: bool = False
    norm: Annotated[str, Choice(*NORMS)] = "layernorm"
    norm_after_pooling: bool = False
    norm_epsilon: NotNegative = 1e-6
    mlp: Annotated[str, Choice(*MLPS)] = "plain"
    mlp_inner_norm: bool = False
    activation: Activation = "gelu_tanh"
    pre_logits: bool = False
    head_bias_init: float = 0.0
    dropout_rate: Rate = 0.0
    attention_dropout_rate: Rate = 0.0
    stochastic_depth_rate: Rate = 0.0
    stochastic_depth_uniform: bool = False
    layer_scale_init: NotNegative = 0.0
    initialization: Initialization = "xavier"
    num_registers: Count = 0
    resnet_stem: tuple[Count, ...] | None = None
    stem_width: Size = 64
    stem_norm_epsilon: NotNegative = 1e-6
    stem_std_epsilon: NotNegative = 1e-5
    stem_variance_epsilon: NotNegative = 0.0
    pixel_mean: Mean = HALF
    pixel_std: Deviation = HALF
    attention_implementation: Annotated[str, Choice(*IMPLEMENTATIONS)] = "auto"
    scan: bool = False
    remat: Annotated[str, Choice(*REMAT)] = "none"
    patch_outputs: Count = 0
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

    @property
    def has_class_token(self) -> bool:
        return self.class_token == "always" or self.pooling in ("token", "token_gap")

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: registers, class token, distillation token."""
        return self.num_registers + self.has_class_token + self.distillation_token

    @property
    def num_placed_tokens(self) -> int:
        """Those of them that have a row in the table of positions."""
        if not self.class_token_position:
            return 0
        return self.has_class_token + self.distillation_token

    @nn.compact
    def __call__(
        self,
        images: Array,
        *,
        train: bool = False,
        return_attention: bool = False,
        image_size: tuple[int, int] | None = None,
        patch_sources: Int[Array, "b hw"] | None = None,
    ) -> tuple[Float[Array, "b n"], dict[str, Any]]:
        """Classifies images: floats in [-1, 1] of shape (b, *image_size, 3).

        Args:
            image_size: (height, width) of the images if not the model's; learned
                positions are then interpolated (bilinear).
            patch_sources: number of the patch, row by row, whose embedding each one
                has instead of its own, before positions; h w is the mask token.

        Returns:
            float32 logits, and a dict of activations: `resnet` (of a hybrid: `root` and
            the units of each stage, b h w c), `stem` (b h w d), `embedded` (b l d,
            tokens after positions), `encoder` (per block `attention`, `mlp`, `output`
            and, with `return_attention`, `attention_weights` (b k l l)), `encoded`
            (b l d), `pre_logits` (b d) and, with `patch_outputs`, `patches`
            (b hw patch_outputs, float32); with a distillation token, `class_logits`
            and `distillation_logits`. Under jit, what is not used of it costs nothing.

        Raises:
            ValueError: images of another shape, size or dtype than the model's, or of
                0..255 (outside of `jit`); or options that do not go together.
        """
        height, width = image_size or self.image_size
        self.check((height, width))
        images = prepare(images, (height, width), self.pixel_mean, self.pixel_std)
        x, out = self.embed(images, train=train)
        out["stem"] = x
        grid = x.shape[1], x.shape[2]
        x = einops.rearrange(x, "b h w d -> b (h w) d")
        x = self.corrupt(x, patch_sources)
        if self.distillation_token:
            x = self.prepend(x, "distillation_token", 1, ZEROS)
        if self.has_class_token:
            x = self.prepend(x, "class_token", 1, ZEROS)
        table = self.position_table(grid)
        if table is not None and self.positions_at == "stem":
            x, table = add_positions(x, table), None
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        if self.num_registers:
            # In front of the class token, so that the patches stay contiguous.
            x = self.prepend(x, "registers", self.num_registers, NORMAL)
        if self.embedding_norm:
            x = self.make_norm("embedding_norm", train=train)(x)
        x = out["embedded"] = divide_batch(x)
        bias = self.shared_bias(x.shape[1], grid)
        x, out["encoder"] = self.make_encoder()(
            x, table, bias, grid=grid, train=train, return_attention=return_attention
        )
        out["encoded"] = x
        if self.patch_outputs:
            head = classifier(self.patch_outputs, 0.0, name="patch_head")
            patches = x[:, self.num_prefix_tokens :]
            out["patches"] = head(patches.astype(jnp.float32))
        x = self.pool(x, train=train)
        if self.norm_after_pooling:
            x = self.make_norm("pool_norm", train=train)(x)
        if self.pre_logits:
            pre_logits = Dense((self.width,), dtype=self.dtype, name="pre_logits")
            x = nn.tanh(pre_logits(x, train=train))
        x = out["pre_logits"] = x.astype(jnp.float32)
        if self.num_classes:
            x = classifier(self.num_classes, self.head_bias_init)(x)
        if self.distillation_token:
            x = self.distilled(x, out)
        return x, out

    def embed(
        self, images: Float[Array, "b height width 3"], *, train: bool
    ) -> tuple[Float[Array, "b h w d"], dict[str, Any]]:
        """Patches of the image, or of a ResNet's features of it; and those features."""
        x, side, out = images, self.patch_size, {}
        if self.resnet_stem is not None:
            trunk = ResNetTrunk(
                self.resnet_stem,
                self.stem_width,
                "v1",
                norm_epsilon=self.stem_norm_epsilon,
                std_epsilon=self.stem_std_epsilon,
                variance_epsilon=self.stem_variance_epsilon,
                dtype=self.dtype,
                name="resnet",
            )
            if side % trunk.stride:
                raise ValueError(
                    "the patch size must be a multiple of the stem's stride "
                    f"{trunk.stride}, but it is {side}"
                )
            x, out["resnet"] = trunk.stages(images, train=train)
            side //= trunk.stride
        patches = PatchEmbedding(
            (side, side),
            self.width,
            self.dtype,
            use_bias=not self.embedding_norm,
            name="embedding",
        )
        return patches(x, train=train), out

    def corrupt(
        self, x: Float[Array, "b l d"], sources: Int[Array, "b l"] | None
    ) -> Float[Array, "b l d"]:
        """Patch embeddings, some of which are replaced; see `patch_sources`."""
        if self.patch_outputs:
            mask = self.tokens(x, "mask_token", 1, NORMAL)
            if sources is not None:
                choices = jnp.concatenate([x, mask], axis=1)
                x = jnp.take_along_axis(choices, sources[..., None], axis=1)
        elif sources is not None:
            raise ValueError("patch_sources needs a model with patch_outputs")
        return x

    def prepend(
        self, x: Float[Array, "b l d"], name: str, number: int, init: Any
    ) -> Float[Array, "b _ d"]:
        return jnp.concatenate([self.tokens(x, name, number, init), x], axis=1)

    def tokens(
        self, x: Float[Array, "b l d"], name: str, number: int, init: Any
    ) -> Float[Array, "b n d"]:
        """Learned tokens, the same for each image, to go with those in `x`."""
        tokens = self.param(name, init, (1, number, self.width)).astype(x.dtype)
        return einops.repeat(tokens, "1 n d -> b n d", b=x.shape[0])

    def position_table(self, grid: tuple[int, int]) -> Float[Array, "1 _ d"] | None:
        """The positions that are added to the tokens, at the stem or at each layer."""
        if self.positions not in ADDED or self.positions_at == "every_layer":
            return None
        return PositionEmbedding(**position_options(self), name="positions")(grid)

    def shared_bias(
        self, num_tokens: int, grid: tuple[int, int]
    ) -> Float[Array, "1 k l l"] | None:
        """What is added to the attention's logits in all layers."""
        if self.positions not in OFFSET_BIASES or self.positions_at != "shared":
            return None
        sizes = (self.num_heads, self.relative_mlp_dim)
        name = "relative_positions"
        bias = RelativeBias(self.positions, self.grid, *sizes, name=name)
        return bias(num_tokens, grid)[None]

    def make_encoder(self) -> Encoder:
        return Encoder(
            self.depth,
            block_options(self),
            axial=self.attention == "axial",
            stochastic_depth_rate=self.stochastic_depth_rate,
            final_norm=not self.norm_after_pooling,
            scan=self.scan,
            remat=self.remat,
            stochastic_depth_uniform=self.stochastic_depth_uniform,
            name="encoder",
        )

    def pool(self, x: Float[Array, "b l d"], *, train: bool) -> Float[Array, "b _"]:
        if self.pooling == "map":
            read = x if self.map_reads == "all" else x[:, self.num_prefix_tokens :]
            return MapHead(
                self.num_heads,
                self.mlp_dim,
                self.norm_epsilon,
                self.activation,
                self.norm,
                self.dtype,
                name="map_head",
            )(read, train=train)
        mean = x[:, self.num_prefix_tokens :].mean(axis=1)
        if self.pooling == "gap":
            return mean
        token = x[:, self.num_registers]
        if self.pooling == "token":
            return token
        return jnp.concatenate([token, mean], axis=-1)

    def distilled(
        self, logits: Float[Array, "b n"], out: dict[str, Any]
    ) -> Float[Array, "b n"]:
        """The mean of both heads' logits, which are put into `out`, and of both tokens:
        the representation, as in timm."""
        out["class_logits"] = logits
        x = out["encoded"][:, self.num_registers + 1].astype(jnp.float32)
        out["pre_logits"] = (out["pre_logits"] + x) / 2
        if self.num_classes:
            name = "distillation_head"
            x = classifier(self.num_classes, self.head_bias_init, name)(x)
        out["distillation_logits"] = x
        return (logits + x) / 2

    def make_norm(self, name: str, *, train: bool) -> nn.Module:
        return make_norm(self.norm, self.norm_epsilon, self.dtype, name, train=train)

    def check(self, image_size: tuple[int, int]) -> None:
        """Raises ValueError for options that do not go together, or a wrong size."""
        axial = self.attention == "axial"
        check_positions(self.positions, self.positions_at, axial=axial)
        check_grid(image_size, self.patch_size)
        if axial and self.num_prefix_tokens:
            raise ValueError(
                "axial attention sees rows and columns of patches only: use "
                "pooling='gap' or 'map', class_token='auto' and num_registers=0"
            )
        token_read = self.pooling == "token" and not (
            self.pre_logits or self.norm_after_pooling
        )
        if self.distillation_token and not token_read:
            raise ValueError(
                "the head of the distillation token reads it as the class token's head "
                "does: use pooling='token', pre_logits=False, norm_after_pooling=False"
            )
