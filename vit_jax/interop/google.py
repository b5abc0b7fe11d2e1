"""The .npz files of google-research: ViT, hybrids and Mixer of vision_transformer
(original, AugReg, SAM, GSAM), and the ResNets of big_transfer.

The ViTs' names are those of Flax before Linen, the ResNets' those of TensorFlow.
"""

import re
from typing import Any

from vit_jax.interop import linen
from vit_jax.interop.layout import (
    Rule,
    Tensors,
    rearranged,
    same,
    square_image,
    usual_image,
)
from vit_jax.interop.linen import EACH_CLASS, ONE_ROW, config_for, facts
from vit_jax.models import AnyModel, Mixer, ResNet

__all__ = ["canonical", "config_for", "describe", "facts", "recognises", "rules"]

NAME = "google"
POSITIONS = "Transformer/posembed_input/pos_embedding"
BIT_ROOT = "resnet/root_block/standardized_conv2d/kernel"
FIRST_HEADS = "Transformer/encoderblock_0/MultiHeadDotProductAttention_{}/query/kernel"


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:  # noqa: ARG001
    names = linen.weights(tensors)
    # A ResNet is recognised by its last norm: its convolutions may be numbered.
    if names.keys() & {POSITIONS, "resnet/group_norm/gamma"} or linen.is_mixer(names):
        return True
    return FIRST_HEADS.format(ONE_ROW.attention) in names and not any(
        name.endswith("pos_embedding") for name in names
    )


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:  # noqa: ARG001
    """Older and newer spellings as one; optimizer state dropped."""
    params = linen.flat_norms(linen.weights(tensors))
    linen.report_dropped(tensors, params)
    params = linen.renumbered(params, EACH_CLASS, ONE_ROW)
    # Some files of big_transfer number their convolutions.
    return {
        re.sub(r"/standardized_conv2d_\d+/", "/standardized_conv2d/", name): x
        for name, x in params.items()
    }


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    if BIT_ROOT in tensors:
        width = tensors[BIT_ROOT].shape[-1]
        head = tensors.get("resnet/head/conv2d/bias")
        classes = 0 if head is None else head.shape[0]
        blocks = linen.count_blocks(tensors, "resnet/")
        return linen.bit_arguments(blocks, width, "v2") | {"num_classes": classes}
    if linen.is_mixer(tensors):
        return linen.mixer_arguments(tensors)
    options, side = linen.vit_shape(tensors, ONE_ROW)
    if "cls" not in tensors:
        options["pooling"] = "gap"
    if POSITIONS not in tensors:
        image_size = usual_image(side)
        return options | {"positions": "none", "image_size": image_size}
    patches = tensors[POSITIONS].shape[1] - ("cls" in tensors)
    return options | {"image_size": square_image(patches, side)}


def rules(model: AnyModel) -> list[Rule]:
    if isinstance(model, ResNet):
        return bit_rules(model)
    if isinstance(model, Mixer):
        return linen.mixer_rules(model)
    allowed: dict[str, tuple[Any, ...]] = {
        "pooling": ("token", "gap"),
        "positions": ("learned", "none"),
    }
    if model.has_class_token and model.positions == "learned":
        allowed["class_token_position"] = (True,)
    linen.check_vit(model, NAME, allowed)
    rules = linen.vit_rules(model, ONE_ROW)
    if model.positions == "learned":
        rules.append(same(POSITIONS, "positions/embedding"))
    if model.resnet_stem is not None:
        rules += linen.trunk_rules(model.resnet_stem)
    return rules


def bit_rules(model: ResNet) -> list[Rule]:
    """ResNets of big_transfer by TensorFlow's names; the head is a 1x1 convolution."""
    if model.version != "v2":
        raise ValueError(
            f"the {NAME} layout cannot hold a ResNet of version {model.version!r}: its "
            "code has 'v2'; the big_vision layout holds both"
        )
    rules = [same(BIT_ROOT, "resnet/root/kernel"), *tensorflow_norm("resnet", "norm")]
    for name, ours in linen.units(model.blocks, digits=2):
        for i, letter in enumerate("abc", 1):
            part = f"resnet/{name}/{letter}"
            kernel = f"{part}/standardized_conv2d/kernel"
            rules.append(same(kernel, f"{ours}/conv{i}/kernel"))
            rules += tensorflow_norm(part, f"{ours}/norm{i}")
        if ours.endswith("_01"):
            kernel = f"resnet/{name}/a/proj/standardized_conv2d/kernel"
            rules.append(same(kernel, f"{ours}/shortcut/kernel"))
    if model.num_classes:
        head = "resnet/head/conv2d"
        rules += [
            rearranged(f"{head}/kernel", "head/kernel", "1 1 d n -> d n"),
            same(f"{head}/bias", "head/bias"),
        ]
    return rules


def tensorflow_norm(theirs: str, ours: str) -> list[Rule]:
    return [
        same(f"{theirs}/group_norm/gamma", f"{ours}/scale"),
        same(f"{theirs}/group_norm/beta", f"{ours}/bias"),
    ]
