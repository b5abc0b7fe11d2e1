"""Activations of a model layer by layer, as input of the measures.

Everything here can be called within `jax.jit` and, since models are called with
`train=False`, has derivatives in forward and reverse mode. Scanned models are unrolled.
"""

from collections import OrderedDict
from typing import Any

from jaxtyping import Array, Float

from vit_jax.analysis.rollout import rollout_map
from vit_jax.models import AnyModel, ResNet, VisionTransformer
from vit_jax.models.attention import with_plain_attention
from vit_jax.models.depth import unrolled, unstack_blocks
from vit_jax.models.features import all_layers, blocks
from vit_jax.models.positions import ADDED, PositionEmbedding
from vit_jax.models.resnet import ResNetTrunk

Images = Float[Array, "b height width 3"]


def layer_features(
    model: AnyModel, params: Any, images: Images
) -> OrderedDict[str, Float[Array, "b _ _ _"]]:
    """The features of each layer as a grid (b h w d), from the first to the last.

    Tokens in front of the patches are left out. Names and order are those of
    `vit_jax.models.features.features`.
    """
    return features_of(model, apply(model, params, images)[1])


def features_of(
    model: AnyModel, out: dict[str, Any]
) -> OrderedDict[str, Float[Array, "b _ _ _"]]:
    """`layer_features` from the activations that a model returned."""
    layers = all_layers(model, out)
    return OrderedDict((name, layer.patches) for name, layer in layers.items())


def attention_weights(
    model: AnyModel, params: Any, images: Images
) -> OrderedDict[str, Float[Array, "b k l l"]]:
    """The attention probabilities of each layer by name, from the first to the last.

    They are large: 16 heads of 197 tokens take 2.5 MB for an image and layer. Call it
    with few images at a time, or within `jax.jit` and reduce the result there.

    Returns:
        float32, rows sum to 1; `block_00`, ... or `block_00/row`, ... as
        `layer_features`. Empty for a model without attention over patches.
    """
    if not isinstance(model, VisionTransformer):
        return OrderedDict()
    _, out = apply(model, params, images, return_attention=True)
    return OrderedDict(
        (name, block["attention_weights"]) for name, block in blocks(out).items()
    )


def output_rollout(
    model: VisionTransformer, out: dict[str, Any]
) -> Float[Array, "b rows columns"]:
    """Attention rollout of the classified token, or of the mean over patches.

    Args:
        out: activations that the model returned with `return_attention`.
    """
    return rollout_map(
        [block["attention_weights"] for block in blocks(out).values()],
        model.grid,
        num_prefix_tokens=model.num_prefix_tokens,
        class_token=model.num_registers if "token" in model.pooling else None,
    )


def position_embeddings(
    model: AnyModel, params: Any
) -> dict[tuple[str, ...], Float[Array, "1 l d"]]:
    """The tables that are added to the tokens, by path in the unrolled parameters.

    Positions of the kinds `learned`, `learned2d` and `sincos2d` have one table at
    `positions`, or one for each layer. The first row is the class token's if it has a
    position.
    """
    if not isinstance(model, VisionTransformer) or model.positions not in ADDED:
        return {}
    table = PositionEmbedding(
        model.positions,
        model.grid,
        model.width,
        prefix=model.num_placed_tokens,
    )
    paths = [("positions",)]
    if model.positions_at == "every_layer":
        names = (f"block_{i:02d}" for i in range(model.depth))
        paths = [("encoder", name, "positions") for name in names]
    params = unstack_blocks(params)
    tables = {}
    for path in paths:
        own = params
        for name in path:
            own = own.get(name, {})  # the fixed kind has no parameters
        tables[path] = table.apply({"params": own}, model.grid)
    return tables


def position_tables(model: AnyModel, params: Any) -> dict[str, Float[Array, "n d"]]:
    """The position embeddings of the patches, without the class token's.

    Returns:
        One table named `positions`, or one for each layer, `block_00`, ...; empty for
        models with relative or without positions.
    """
    number = model.grid[0] * model.grid[1] if hasattr(model, "grid") else 0
    return {
        path[1 if len(path) > 1 else 0]: table[0, -number:]
        for path, table in position_embeddings(model, params).items()
    }


def total_stride(model: AnyModel) -> int:
    """Stride in pixels of the features of the last layer."""
    if isinstance(model, ResNet):
        return ResNetTrunk(model.blocks, parent=None).stride
    return model.patch_size


def apply(
    model: AnyModel, params: Any, images: Images, **options: Any
) -> tuple[Array, dict[str, Any]]:
    """Logits and activations without dropout; the parameters may be stacked."""
    params = {"params": unstack_blocks(params)}
    # The GPU kernel has no forward-mode derivative.
    model = with_plain_attention(unrolled(model))
    applied: Any = model.apply(params, images, train=False, **options)
    return applied
