"""Features of images from any of the models, by name and by place.

A model returns `(logits, out)`, and `out` has everything on the way, as the family
computes it; the class describes it. `out["encoded"]` is what is pooled: a ViT's
registers, class token, distillation token, then its patches row by row (b l d); a
Mixer's patches; a ResNet's map (b h w c). The last norm is in it, but for a ViT with
`norm_after_pooling` and a ResNet of version v1. Scanned models leave their blocks out.

`features` gives the same for all families, in rows and columns, blocks included.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import einops
import jax.numpy as jnp
from jaxtyping import Array

from vit_jax.models import AnyModel, ResNet, VisionTransformer
from vit_jax.models.depth import unrolled, unstack_blocks


class Layer(NamedTuple):
    """The output of one layer, float32.

    Attributes:
        patches: (b, h, w, d), a place for each patch of the image or, of a ResNet, for
            each place of its map; it stands for height / h pixels.
        class_token: (b, d), None where there is none.
        registers: (b, n, d), None where there are none.
        distillation_token: (b, d), None where there is none.
        normed: whether the model's last norm has been applied. It is True of "encoded"
            alone, and there for all models but those that have the norm after the
            pooling, or none (`AxialResNet`, version v1).
    """

    patches: Array
    class_token: Array | None
    registers: Array | None
    distillation_token: Array | None
    normed: bool


class Features(NamedTuple):
    """What a model makes of images.

    Attributes:
        representation: (b, d) float32, what the head classifies (pre-logits): the
            class token or the mean of the patches, normed, and through the tanh layer
            of a model that has one; of a model with a distillation token, its mean with
            the class token, of which each has a head.
        layers: the layers that were asked for, by name, from the first to the last.
    """

    representation: Array
    layers: OrderedDict[str, Layer]


def features(
    model: AnyModel,
    params: Any,
    images: Array,
    *,
    layers: Sequence[str | int] | None = ("encoded",),
) -> Features:
    """The representation of images, and the features of the layers that are wanted.

    The model runs as in evaluation, without dropout. Within `jax.jit`, what is not used
    of the result costs nothing; gradients pass through.

    Args:
        params: as of `vit_jax.load`, the blocks stacked or not.
        images: floats in [-1, 1] of the model's image size, as of `vit_jax.normalize`.
        layers: names, or numbers of blocks, of which -1 is the last; None for all.
            ViT, hybrid and Mixer have `stem` (the patch embeddings), `embedded` (with
            positions; not of Mixer), `block_00`, ... or, of axial attention,
            `block_00/row`, `block_00/column`, ...; ResNets and the stems of hybrids
            `root`, `stage_1/unit_01`, ...; all have `encoded`, what is pooled. The
            units are the blocks of a ResNet.

    Raises:
        ValueError: images that are not the model's, or a layer that it does not have.
    """
    variables = {"params": unstack_blocks(params)}
    _, out = unrolled(model).apply(variables, images)
    found = all_layers(model, out)
    if layers is not None:
        wanted = {layer_name(layer, list(found)) for layer in layers}
        found = OrderedDict((name, found[name]) for name in found if name in wanted)
    return Features(out["pre_logits"], found)


def all_layers(model: AnyModel, out: dict[str, Any]) -> OrderedDict[str, Layer]:
    """Every layer from the activations that a model returned, the first one first."""
    # In order, also behind `jax.jit`, which sorts a plain dict.
    return OrderedDict((name, split(model, x, name)) for name, x in outputs(out))


def outputs(out: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """Names and outputs of the layers, in their order, from a model's activations."""
    for name, value in out.get("resnet", {}).items():
        if isinstance(value, dict):
            yield from ((f"{name}/{unit}", x) for unit, x in value.items())
        else:
            yield name, value
    yield from ((name, out[name]) for name in ("stem", "embedded") if name in out)
    yield from ((name, block["output"]) for name, block in blocks(out).items())
    yield "encoded", out["encoded"]


def blocks(out: dict[str, Any]) -> dict[str, dict[str, Array]]:
    """The activations of each layer of an encoder; an axial block is two layers."""
    layers = {}
    for name, block in out.get("encoder", {}).items():
        if "output" in block:
            layers[name] = block
        else:
            layers |= {f"{name}/{line}": block[line] for line in ("row", "column")}
    return layers


def split(model: AnyModel, x: Array, name: str) -> Layer:
    """Registers, class token and patches of a layer's output, each by itself."""
    normed = name == "encoded" and has_last_norm(model)
    x = x.astype(jnp.float32)
    if x.ndim == 4:
        return Layer(x, None, None, None, normed)
    rows, columns = model.grid
    first = x.shape[1] - rows * columns
    patches = einops.rearrange(x[:, first:], "b (h w) d -> b h w d", h=rows)
    if not isinstance(model, VisionTransformer):
        return Layer(patches, None, None, None, normed)
    token = x[:, model.num_registers] if model.has_class_token else None
    registers = x[:, : model.num_registers] if model.num_registers else None
    distilled = x[:, first - 1] if model.distillation_token else None
    return Layer(patches, token, registers, distilled, normed)


def has_last_norm(model: AnyModel) -> bool:
    """Whether a norm comes after the last block, before the pooling."""
    if isinstance(model, ResNet):
        return model.version == "v2"
    return not (isinstance(model, VisionTransformer) and model.norm_after_pooling)


def layer_name(layer: str | int, names: Sequence[str]) -> str:
    """The name that is meant by a name or by the number of a block.

    Raises:
        ValueError: there is no such layer.
    """
    block_names = [name for name in names if name.startswith("block_")]
    numbered = block_names or [name for name in names if "/unit_" in name]
    if isinstance(layer, int) and -len(numbered) <= layer < len(numbered):
        return numbered[layer]
    if layer in names:
        return str(layer)
    raise ValueError(
        f"the model has no layer {layer!r}: wanted one of {', '.join(names)}, or the "
        f"number of one of its {len(numbered)} blocks"
    )
