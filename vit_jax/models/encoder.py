"""The blocks of a Vision Transformer and the stack of them (Eqs. 2 and 3).

Axes: `b` batch, `l` tokens, `d` width, as in `models/vit.py`.
"""

import operator
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.axial import AxialBlock
from vit_jax.models.depth import STACKED, rematerialized, scan_blocks
from vit_jax.models.forms import add
from vit_jax.models.layers import (
    Mlp,
    ResidualBranch,
    divide_batch,
    make_norm,
)
from vit_jax.models.positions import (
    OFFSET_BIASES,
    RELATIVE,
    ROTARY,
    PositionEmbedding,
    add_positions,
    position_options,
)
from vit_jax.models.rotary import rotary_options

BLOCKS = ("pre_norm", "post_norm", "parallel", "pairs")
MLPS = ("plain", "swiglu")
# Options of a block that a model has under the same names.
SAME = (
    "num_heads mlp_dim grid dropout_rate attention_dropout_rate layer_scale_init norm "
    "norm_epsilon activation mlp mlp_inner_norm attention_inner_norm qkv_bias qk_norm "
    "relative_mlp_dim attention_implementation dtype".split()
)


class EncoderBlock(nn.Module):
    """Attention and MLP, each behind a residual (Eqs. 2 and 3).

    Attributes:
        kind: `pre_norm`, x + f(norm(x)), as in the paper; `post_norm`, x + norm(f(x));
            `parallel`, attention and MLP of the same normed tokens, added together
            (arXiv 2302.05442); `pairs`, two attentions side by side, then two MLPs
            (arXiv 2203.09795).
        positions: options of a `PositionEmbedding` of its own, None for none.
        rotary: options of `RotaryPositions`, None for none.
    """

    num_heads: int
    mlp_dim: int
    grid: tuple[int, int]
    kind: str = "pre_norm"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_scale_init: float = 0.0
    norm: str = "layernorm"
    norm_epsilon: float = 1e-6
    activation: str = "gelu_tanh"
    mlp: str = "plain"
    mlp_inner_norm: bool = False
    attention_inner_norm: bool = False
    qkv_bias: str = "qkv"
    qk_norm: str = "none"
    positions: Mapping[str, Any] | None = None
    relative: str = ""
    relative_mlp_dim: int = 128
    rotary: Mapping[str, Any] | None = None
    attention_implementation: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        drop_rate: Any,
        *,
        grid: tuple[int, int],
        train: bool,
        return_attention: bool,
        bias: Float[Array, "1 k l l"] | None = None,
    ) -> tuple[Float[Array, "b l d"], dict[str, Array]]:
        """Tokens and activations; `drop_rate` is that of stochastic depth.

        `bias` is added to the attention's logits, instead of own relative positions.
        """
        self.check()
        if self.positions is not None:
            x = add_positions(
                x, PositionEmbedding(**self.positions, name="positions")(grid)
            )
        weights = []

        def attend(name: str, x: Array) -> Array:
            options = {"return_weights": return_attention, "grid": grid, "bias": bias}
            x, found = self.make_attention(name)(x, train=train, **options)
            weights.append(found)
            return nn.Dropout(self.dropout_rate)(x, deterministic=not train)

        def feed(name: str, x: Array) -> Array:
            return self.make_mlp(name)(x, train=train)

        out = {}
        if self.kind == "parallel":
            y = self.make_norm("norm", train=train)(x)
            out["attention"], out["mlp"] = attend("attention", y), feed("mlp", y)
            branch = ResidualBranch(self.layer_scale_init, name="branch")
            change = branch(out["attention"] + out["mlp"], drop_rate, train=train)
            x = add(x, change)
        else:
            copies = ("", "second_") if self.kind == "pairs" else ("",)
            for part, function in (("attention", attend), ("mlp", feed)):
                changes = [
                    self.change(f"{copy}{part}", x, function, drop_rate, train=train)
                    for copy in copies
                ]
                out[part] = reduce(operator.add, changes)
                x = add(x, out[part])
        x = out["output"] = divide_batch(x)
        if return_attention:
            out["attention_weights"] = jnp.concatenate(weights, axis=1)
        return x, out

    def change(
        self,
        name: str,
        x: Float[Array, "b l d"],
        function: Callable[[str, Array], Array],
        drop_rate: Any,
        *,
        train: bool,
    ) -> Float[Array, "b l d"]:
        """What a part of the block adds to the tokens."""
        norm = self.make_norm(f"{name}_norm", train=train)
        if self.kind == "post_norm":
            y = norm(function(name, x))
        else:
            y = function(name, norm(x))
        branch = ResidualBranch(self.layer_scale_init, name=f"{name}_branch")
        return branch(y, drop_rate, train=train)

    def make_attention(self, name: str) -> MultiHeadAttention:
        return MultiHeadAttention(
            self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            implementation=self.attention_implementation,
            relative=self.relative,
            relative_mlp_dim=self.relative_mlp_dim,
            grid=self.grid,
            rotary=self.rotary,
            biases=self.qkv_bias,
            qk_norm=self.qk_norm,
            inner_norm=self.norm if self.attention_inner_norm else "",
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
            name=name,
        )

    def make_mlp(self, name: str) -> Mlp:
        return Mlp(
            self.mlp_dim,
            self.dropout_rate,
            self.activation,
            self.dtype,
            gated=self.mlp == "swiglu",
            inner_norm=self.norm if self.mlp_inner_norm else "",
            norm_epsilon=self.norm_epsilon,
            name=name,
        )

    def make_norm(self, name: str, *, train: bool) -> nn.Module:
        return make_norm(self.norm, self.norm_epsilon, self.dtype, name, train=train)

    def check(self) -> None:
        """Raises ValueError for options that do not go together."""
        if self.kind == "post_norm" and self.layer_scale_init:
            raise ValueError(
                "the norms of block='post_norm' scale the branches already: set "
                f"layer_scale_init to 0, not {self.layer_scale_init}"
            )


def block_options(model: Any) -> dict[str, Any]:
    """The options of `EncoderBlock` in a `VisionTransformer`."""
    kind, own = model.positions, model.positions_at == "every_layer"
    return {name: getattr(model, name) for name in SAME} | {
        "kind": model.block,
        "positions": position_options(model) if own else None,
        "relative": kind if kind in (*RELATIVE, *OFFSET_BIASES) else "",
        "rotary": rotary_options(model) if kind in ROTARY else None,
    }


class Encoder(nn.Module):
    """A stack of blocks and a final norm.

    Attributes:
        block: options of each `EncoderBlock`.
        axial: blocks with axial instead of full attention.
        stochastic_depth_rate: that of the last block; it grows linearly from 0.
        final_norm: whether there is one.
        scan, remat, stochastic_depth_uniform: see `VisionTransformer`.
    """

    depth: int
    block: Mapping[str, Any]
    axial: bool = False
    stochastic_depth_rate: float = 0.0
    final_norm: bool = True
    scan: bool = False
    remat: str = "none"
    stochastic_depth_uniform: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        shared_table: Float[Array, "1 _ d"] | None = None,
        shared_bias: Float[Array, "1 k l l"] | None = None,
        *,
        grid: tuple[int, int],
        train: bool,
        return_attention: bool,
    ) -> tuple[Float[Array, "b l d"], dict[str, Any]]:
        """Returns tokens and activations.

        `shared_table` is added before each layer, `shared_bias` to its attention's
        logits.
        """

        def layer(
            block: nn.Module, x: Array, drop_rate: Any
        ) -> tuple[Array, dict[str, Any]]:
            if shared_table is not None:
                x = add_positions(x, shared_table)
            options: dict[str, Any] = {"train": train}
            options["return_attention"] = return_attention
            if shared_bias is not None:
                options["bias"] = shared_bias
            return block(x, drop_rate, grid=grid, **options)

        out = {}
        if self.scan:
            if return_attention:
                raise ValueError("scanned blocks give no attention: use scan=False")
            rates = self.drop_rates() if self.stochastic_depth_rate else None
            x = scan_blocks(
                layer,
                self.make_block(STACKED),
                x,
                rates,
                depth=self.depth,
                remat=self.remat,
            )
        else:
            for i, rate in enumerate(self.drop_rates()):
                name = f"block_{i:02d}"
                apply = rematerialized(partial(layer, drop_rate=rate), self.remat)
                x, out[name] = apply(self.make_block(name), x)
        if self.final_norm:
            epsilon, dtype = self.block["norm_epsilon"], self.block["dtype"]
            x = make_norm(self.block["norm"], epsilon, dtype, "norm", train=train)(x)
        return x, out

    def drop_rates(self) -> list[float]:
        if self.stochastic_depth_uniform:
            return [self.stochastic_depth_rate] * self.depth
        last = max(self.depth - 1, 1)
        return [self.stochastic_depth_rate * i / last for i in range(self.depth)]

    def make_block(self, name: str) -> nn.Module:
        if self.axial:
            return AxialBlock(EncoderBlock, self.block, name=name)
        return EncoderBlock(**self.block, name=name)
