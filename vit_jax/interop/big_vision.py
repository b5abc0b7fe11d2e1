"""The .npz files of google-research/big_vision: ViT (SigLIP's image towers too), and
the ResNets of its `bit.py` (v1) and `bit_paper.py` (v2).

Positions are added before the class token is put in front, and stand at the root.
The first max pooling of `bit_paper.py` ignores places outside the features; the BiT
paper's code, and ours, takes them as zeros: logits of random networks differ by 4e-3.
"""

from typing import Any

import numpy as np

from vit_jax.interop import google, linen
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

NAME = "big_vision"
BIT_ROOT = "root_block/conv_root/kernel"
MAP_PARTS = ("probe", "MlpBlock_0", "MultiHeadDotProductAttention_0", "LayerNorm_0")


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:
    if google.recognises(tensors, config):
        return False
    names = linen.weights(tensors)
    is_vit = {"embedding/kernel", "Transformer/encoder_norm/scale"} <= names.keys()
    return is_vit or BIT_ROOT in names or is_bit_v1(names)


def is_bit_v1(tensors: Tensors) -> bool:
    return "conv_root/kernel" in tensors and "embedding/kernel" not in tensors


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:  # noqa: ARG001
    """Stacked blocks and older spellings as one; optimizer state dropped."""
    params = linen.weights(tensors)
    linen.report_dropped(tensors, params)
    if is_bit_v1(params):
        return linen.flat_norms(params)
    params = {modern(name): tensor for name, tensor in params.items()}
    return linen.renumbered(unstacked(params), ONE_ROW, EACH_CLASS)


def modern(name: str) -> str:
    """The present name of a tensor outside the blocks."""
    if name == "Transformer/pos_embedding":
        return "pos_embedding"
    # The attention pooling of early ViT-G files has no name of its own.
    return f"MAPHead_0/{name}" if name.split("/")[0] in MAP_PARTS else name


def unstacked(tensors: Tensors) -> dict[str, np.ndarray]:
    """Blocks that were scanned over, stacked on a first axis, one by one."""
    single = {}
    for name, tensor in tensors.items():
        if not name.startswith("Transformer/encoderblock/"):
            single[name] = tensor
            continue
        part = name.removeprefix("Transformer/encoderblock/")
        for i, layer in enumerate(tensor):
            single[f"Transformer/encoderblock_{i}/{part}"] = layer
    return single


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    classes = {"num_classes": linen.num_classes(tensors)}
    for root, version in ((BIT_ROOT, "v2"), ("conv_root/kernel", "v1")):
        if root in tensors:
            blocks, width = linen.count_blocks(tensors), tensors[root].shape[-1]
            return linen.bit_arguments(blocks, width, version) | classes
    if linen.is_mixer(tensors):
        return linen.mixer_arguments(tensors)
    options, side = linen.vit_shape(tensors, EACH_CLASS)
    if "MAPHead_0/probe" in tensors:
        options["pooling"] = "map"
    elif "cls" not in tensors:
        options["pooling"] = "gap"
    if "pos_embedding" not in tensors:
        image_size = usual_image(side)
        return options | {"positions": "sincos2d", "image_size": image_size}
    rows = tensors["pos_embedding"].shape[1]
    if "cls" in tensors:
        # Files from before 2022 have a row for the class token.
        options["class_token_position"] = square_image(rows - 1, side) is not None
        rows -= options["class_token_position"]
    return options | {"image_size": square_image(rows, side)}


def rules(model: AnyModel) -> list[Rule]:
    if isinstance(model, ResNet):
        return bit_rules(model)
    if isinstance(model, Mixer):
        return linen.mixer_rules(model)
    allowed = {
        "pooling": ("token", "gap", "map"),
        "positions": ("learned", "sincos2d"),
        "resnet_stem": (None,),
    }
    linen.check_vit(model, NAME, allowed)
    rules = linen.vit_rules(model, EACH_CLASS)
    if model.positions == "learned":
        rules.append(same("pos_embedding", "positions/embedding"))
    if model.pooling == "map":
        rules.append(same("MAPHead_0/probe", "map_head/probe"))
        heads = "MAPHead_0/MultiHeadDotProductAttention_0"
        rules += linen.attention(heads, "map_head/attention")
        rules += linen.norm("MAPHead_0/LayerNorm_0", "map_head/norm")
        rules += linen.mlp("MAPHead_0/MlpBlock_0", "map_head/mlp")
    return rules


def bit_rules(model: ResNet) -> list[Rule]:
    """`bit.py`, or `bit_paper.py` with norms of shape (1, 1, 1, c)."""
    head = linen.head_rules(model)
    if model.version == "v1":
        return linen.trunk_rules(model.blocks) + head
    rules = [same(BIT_ROOT, "resnet/root/kernel"), *wide_norm("norm-pre-head", "norm")]
    for name, ours in linen.units(model.blocks, digits=2):
        for i in (1, 2, 3):
            rules.append(same(f"{name}/conv{i}/kernel", f"{ours}/conv{i}/kernel"))
            rules += wide_norm(f"{name}/gn{i}", f"{ours}/norm{i}")
        if ours.endswith("_01"):
            rules.append(same(f"{name}/conv_proj/kernel", f"{ours}/shortcut/kernel"))
    return rules + head


def wide_norm(theirs: str, ours: str) -> list[Rule]:
    return [
        rearranged(f"{theirs}/{part}", f"{ours}/{part}", "1 1 1 c -> c")
        for part in ("scale", "bias")
    ]
