"""The parts of the timm layout other than transformers: BiT ResNets, the hybrids' stem,
MLP-Mixers."""

import re
from collections.abc import Iterable
from typing import Any

from vit_jax.interop import pytorch
from vit_jax.interop.layout import (
    Rule,
    Tensors,
    check_options,
    named,
    rearranged,
    same,
    torch_convolution,
    torch_dense,
    torch_norm,
    usual_image,
)
from vit_jax.interop.timm_config import NAME, numerics, stored_image_size
from vit_jax.models import Mixer, ResNet
from vit_jax.models.timm_names import EPSILONS, STEM_EPSILONS
from vit_jax.models.variants import MIXERS, MixerSize

MIXER = "stem.proj.weight"
TOKEN_MLP = "blocks.0.mlp_tokens.fc1.weight"
ROOT = "stem.conv.weight"
BACKBONE = "patch_embed.backbone."


def recognises(names: Iterable[str]) -> bool:
    names = set(names)
    unit = "stages.0.blocks.0.conv1.weight"
    return {MIXER, TOKEN_MLP} <= names or {ROOT, unit} <= names


def num_classes(tensors: Tensors, head: str) -> int:
    return len(tensors.get(f"{head}.bias", ()))


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `create_model` for a BiT or a Mixer."""
    options = numerics(tensors, config)
    pixels = {name: options[name] for name in ("pixel_mean", "pixel_std")}
    pixels = pytorch.beside_defaults(pixels)
    image_size = stored_image_size(config)
    if ROOT in tensors:
        return {
            "name": "BiT-R50x1",
            "num_classes": num_classes(tensors, "head.fc"),
            "image_size": image_size or usual_image(32),
            "blocks": count_units(tensors, ""),
            "width": len(tensors[ROOT]),
            **EPSILONS,
            **pixels,
        }
    token_mlp_dim, patches = (tensors[TOKEN_MLP].shape[i] for i in (0, 1))
    side = pytorch.patch_size(tensors[MIXER])
    size = MixerSize(
        depth=pytorch.depth(tensors, "blocks."),
        width=len(tensors[MIXER]),
        token_mlp_dim=token_mlp_dim,
        channel_mlp_dim=len(tensors["blocks.0.mlp_channels.fc1.bias"]),
    )
    return {
        **named("Mixer", MIXERS, size, side),
        "num_classes": num_classes(tensors, "head"),
        "image_size": pytorch.grid_image(patches, side, image_size),
        "activation": options["activation"],
        **pixels,
    }


def mixer_rules(model: Mixer) -> list[Rule]:
    rules = [
        torch_convolution("stem.proj", "embedding"),
        same("stem.proj.bias", "embedding/bias"),
        *torch_norm("norm", "encoder/norm"),
    ]
    for i in range(model.depth):
        for norm, part in (("norm1", "token"), ("norm2", "channel")):
            theirs, ours = f"blocks.{i}", f"encoder/block_{i:02d}/{part}"
            rules += torch_norm(f"{theirs}.{norm}", f"{ours}_norm")
            rules += torch_dense(f"{theirs}.mlp_{part}s.fc1", f"{ours}_mlp/hidden")
            rules += torch_dense(f"{theirs}.mlp_{part}s.fc2", f"{ours}_mlp/out")
    return rules + (torch_dense("head", "head") if model.num_classes else [])


def bit_rules(model: ResNet) -> list[Rule]:
    """The rules of a BiT, v2 only; the head is a 1x1 convolution."""
    check_options(model, NAME, version=("v2",), axial_heads=(0,))
    rules = [torch_convolution("stem.conv", "resnet/root"), *torch_norm("norm", "norm")]
    for theirs, ours in units(model.blocks):
        rules += unit_rules(theirs, ours)
        if ours.endswith("_01"):
            rules.append(
                torch_convolution(f"{theirs}.downsample.conv", f"{ours}/shortcut")
            )
    if model.num_classes:
        rules += [
            rearranged("head.fc.weight", "head/kernel", "n d 1 1 -> d n"),
            same("head.fc.bias", "head/bias"),
        ]
    return rules


def stem_rules(blocks: tuple[int, ...]) -> list[Rule]:
    """The rules of a hybrid's stem, v1; one without stages is only the root block."""
    root = f"{BACKBONE}stem" if blocks else BACKBONE.removesuffix(".")
    rules = [
        torch_convolution(f"{root}.conv", "resnet/root"),
        *torch_norm(f"{root}.norm", "resnet/root_norm"),
    ]
    for theirs, ours in units(blocks):
        theirs = f"{BACKBONE}{theirs}"
        rules += unit_rules(theirs, ours)
        if ours.endswith("_01"):
            shortcut = f"{theirs}.downsample"
            rules.append(torch_convolution(f"{shortcut}.conv", f"{ours}/shortcut"))
            rules += torch_norm(f"{shortcut}.norm", f"{ours}/shortcut_norm")
    return rules


def unit_rules(theirs: str, ours: str) -> list[Rule]:
    rules = []
    for i in (1, 2, 3):
        rules.append(torch_convolution(f"{theirs}.conv{i}", f"{ours}/conv{i}"))
        rules += torch_norm(f"{theirs}.norm{i}", f"{ours}/norm{i}")
    return rules


def units(blocks: tuple[int, ...]) -> list[tuple[str, str]]:
    """Pairs of their and our names of the units."""
    return [
        (f"stages.{s}.blocks.{u}", f"resnet/stage_{s + 1}/unit_{u + 1:02d}")
        for s, count in enumerate(blocks)
        for u in range(count)
    ]


def count_units(tensors: Tensors, prefix: str) -> tuple[int, ...]:
    """Number of units in each stage."""
    pattern = re.compile(re.escape(prefix) + r"stages\.(\d+)\.blocks\.(\d+)\.")
    units = {m.groups() for name in tensors if (m := pattern.match(name))}
    stages = [stage for stage, _ in units]
    return tuple(stages.count(str(i)) for i in range(len(set(stages))))


def stem_units(tensors: Tensors) -> tuple[int, ...] | None:
    """Units of a hybrid's stem, None if there is none."""
    if not any(name.startswith(BACKBONE) for name in tensors):
        return None
    return count_units(tensors, BACKBONE)


def stem_options(tensors: Tensors) -> dict[str, Any]:
    blocks = stem_units(tensors)
    if blocks is None:
        return {}
    root = "stem.conv" if blocks else "conv"
    return {
        "resnet_stem": blocks,
        "stem_width": len(tensors[f"{BACKBONE}{root}.weight"]),
        **STEM_EPSILONS,
    }
