"""timm's names of models, such as `vit_tiny_patch16_224.augreg_in21k`.

A name stands for what timm builds by it: the sizes, the exact GELU, the epsilons of its
ResNets. What belongs to the weights behind the dot, their classes and the mean and
deviation of their pixels, comes with the checkpoint, by `vit_jax.load`.
"""

import re
from typing import Any, NamedTuple

from vit_jax.models.resnet import epsilons
from vit_jax.models.variants import parse_name

SIZES = {
    "tiny": "Ti",
    "small": "S",
    "base": "B",
    "large": "L",
    "huge": "H",
    "giant": "g",
    "gigantic": "G",
}
# GroupNorm's, and of the weight standardisation; timm has no others.
EPSILONS = {"norm_epsilon": 1e-5, "std_epsilon": 0.0, "variance_epsilon": 1e-8}
STEM_EPSILONS = {f"stem_{name}": value for name, value in EPSILONS.items()}
BIT_FINE_TUNED = "goog_in21k_ft_in1k"


class Known(NamedTuple):
    """Family and attributes as of `parse_name`, and the side of the images."""

    family: str
    attributes: dict[str, Any]
    image_size: int


def read_name(name: str) -> Known:
    """Reads a name of ours, whose images are of 224 pixels, or one of timm's.

    Raises:
        ValueError: no such model; names the nearest ones.
    """
    architecture, _, tag = name.partition(".")
    ours, image_size, options = translate(architecture, tag) or (name, 224, {})
    family, attributes = parse_name(ours)
    if family == "resnet":
        attributes |= epsilons(attributes["version"])
    return Known(family, attributes | options, image_size)


def translate(architecture: str, tag: str) -> tuple[str, int, dict[str, Any]] | None:
    """Our name, the side of the images and timm's own options; None if not timm's."""
    gelu = {"activation": "gelu"}
    size = rf"({'|'.join(SIZES)})"
    if match := re.fullmatch(rf"(vit|deit)_{size}_patch(\d+)_(\d+)", architecture):
        return f"ViT-{SIZES[match[2]]}/{match[3]}", int(match[4]), gelu
    if match := re.fullmatch(rf"deit3_{size}_patch(\d+)_(\d+)", architecture):
        options = gelu | {"layer_scale_init": 1e-6, "class_token_position": False}
        return f"ViT-{SIZES[match[1]]}/{match[2]}", int(match[3]), options
    dinov2 = r"vit_(small|base|large)_patch14(_reg4)?_dinov2"
    if match := re.fullmatch(dinov2, architecture):
        options = gelu | {"layer_scale_init": 1e-5}
        if match[2]:
            options |= {"num_registers": 4, "class_token_position": False}
        return f"ViT-{SIZES[match[1]]}/14", 518, options
    if match := re.fullmatch(r"flexivit_(small|base|large)", architecture):
        patch = re.fullmatch(r"patch(\d+)_.*", tag)
        options = gelu | {"class_token_position": False}
        return f"ViT-{SIZES[match[1]]}/{patch[1] if patch else 16}", 240, options
    hybrid = rf"vit_{size}_(r\d*)_s(\d+)(?:_p8)?_(\d+)"
    if match := re.fullmatch(hybrid, architecture):
        name = f"{match[2].upper()}+ViT-{SIZES[match[1]]}/{match[3]}"
        return name, int(match[4]), gelu | STEM_EPSILONS
    if match := re.fullmatch(r"mixer_([sbl])(\d+)_(\d+)", architecture):
        return f"Mixer-{match[1].upper()}/{match[2]}", int(match[3]), gelu
    if match := re.fullmatch(r"resnetv2_(\d+)x(\d)_bit", architecture):
        image_size = 384 if tag.endswith("_384") else 224
        if tag == BIT_FINE_TUNED:
            image_size = 480 if match[2] == "4" else 448
        return f"BiT-R{match[1]}x{match[2]}", image_size, EPSILONS
    return None
