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
# SigLIPs of timm with the approximate GELU, as their authors have it; others have not.
GELU_TANH = re.compile(
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip"
    r"|vit_large_patch16_siglip_(gap_)?512"
)
DINOV3 = {
    "norm_epsilon": 1e-5,
    "pooling": "gap",
    "class_token": "always",
    "num_registers": 4,
    "positions": "rope2d",
    "layer_scale_init": 1e-5,
}
# DINOv3's sizes by timm's names; the larger ones have gated MLPs.
DINOV3_SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("Ti", {}),
    "small": ("S", {}),
    "small_plus": ("S", {"mlp": "swiglu"}),
    "base": ("B", {}),
    "large": ("L", {}),
    "huge_plus": ("H", {"mlp": "swiglu", "num_heads": 20}),
    "7b": (
        "H",
        {"depth": 40, "width": 4096, "mlp_dim": 8192, "num_heads": 32, "mlp": "swiglu"},
    ),
}
INDEXED = {"rope_coordinates": "index", "rope_layout": "pairs"}
EVA02 = INDEXED | {
    "positions": "learned_rope2d",
    "rope_base": 1e4,
    "rope_grid": (16, 16),
    "pooling": "gap",
    "class_token": "always",
    "norm_after_pooling": True,
    "qkv_bias": "qv",
    "mlp": "swiglu",
}
# The width of EVA-02's MLPs; the larger ones have norms inside.
EVA02_MLPS = {"tiny": 512, "small": 1024, "base": 2048, "large": 2730}
ROPE_VIT = INDEXED | {
    "rope_axes": "xy",
    "layer_scale_init": 1e-5,
}
DINOV2_GIANT = {"width": 1536, "mlp_dim": 4096, "num_heads": 24, "mlp": "swiglu"}


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
    if found := translate_newer(architecture):
        return found
    if match := re.fullmatch(rf"(vit|deit)_{size}_patch(\d+)_(\d+)", architecture):
        return f"ViT-{SIZES[match[2]]}/{match[3]}", int(match[4]), gelu
    if match := re.fullmatch(rf"deit3_{size}_patch(\d+)_(\d+)", architecture):
        options = gelu | {"layer_scale_init": 1e-6, "class_token_position": False}
        return f"ViT-{SIZES[match[1]]}/{match[2]}", int(match[3]), options
    dinov2 = r"vit_(small|base|large|giant)_patch14(_reg4)?_dinov2"
    if match := re.fullmatch(dinov2, architecture):
        options = gelu | {"layer_scale_init": 1e-5}
        if match[1] == "giant":
            options = DINOV2_GIANT | {"layer_scale_init": 1e-5}
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


def translate_newer(architecture: str) -> tuple[str, int, dict[str, Any]] | None:
    """As `translate`, for DeiT's tokens, CLIP, SigLIP, DINOv3, EVA-02 and RoPE-ViT."""
    gelu, size = {"activation": "gelu"}, rf"({'|'.join(SIZES)})"
    if match := re.fullmatch(rf"deit_{size}_distilled_patch16_(\d+)", architecture):
        options = gelu | {"distillation_token": True}
        return f"ViT-{SIZES[match[1]]}/16", int(match[2]), options
    clip = rf"vit_{size}_patch(\d+)_clip(_quickgelu)?_(\d+)"
    if match := re.fullmatch(clip, architecture):
        options = {"embedding_norm": True, "norm_epsilon": 1e-5}
        options["activation"] = "quick_gelu" if match[3] else "gelu"
        return f"ViT-{SIZES[match[1]]}/{match[2]}", int(match[4]), options
    siglip = r"vit_(base|large|so400m)_patch(\d+)_siglip(_gap)?_(\d+)"
    if match := re.fullmatch(siglip, architecture):
        name = {**SIZES, "so400m": "So400m"}[match[1]]
        options = {"pooling": "gap" if match[3] else "map"}
        options["activation"] = "gelu_tanh" if GELU_TANH.match(architecture) else "gelu"
        return f"ViT-{name}/{match[2]}", int(match[4]), options
    dinov3 = rf"vit_({'|'.join(DINOV3_SIZES)})_patch16_dinov3(_qkvb)?"
    if match := re.fullmatch(dinov3, architecture):
        name, options = DINOV3_SIZES[match[1]]
        biases = {"qkv_bias": "qv" if match[2] else "none"}
        return f"ViT-{name}/16", 256, DINOV3 | gelu | options | biases
    eva02 = rf"eva02_({'|'.join(EVA02_MLPS)})_patch14_(\d+)"
    if match := re.fullmatch(eva02, architecture):
        options = EVA02 | gelu | {"mlp_dim": EVA02_MLPS[match[1]]}
        options["mlp_inner_norm"] = match[1] in ("base", "large")
        return f"ViT-{SIZES[match[1]]}/14", int(match[2]), options
    rope = r"vit_(small|base|large)_patch16_rope(_mixed)?(_ape)?_224"
    if match := re.fullmatch(rope, architecture):
        options = ROPE_VIT | gelu
        if match[2]:
            options |= {"rope_frequencies": "mixed", "rope_base": 10.0}
        options["positions"] = "learned_rope2d" if match[3] else "rope2d"
        options["class_token_position"] = not match[3]
        return f"ViT-{SIZES[match[1]]}/16", 224, options
    return None
