"""ViT-5 (arXiv 2602.08071): a state dict of its authors' code, wangf3014/ViT-5.

There is no config. Its code has the exact GELU, norms of epsilon 1e-6, LayerScale that
begins at 1e-4, and ImageNet's mean and deviation of the pixels; its evaluation crops
nothing of the shorter side. Registers stand behind the patches. The file has the fixed
frequencies of the rotary positions, those of the registers too.
"""

from typing import Any

import numpy as np

from vit_jax.interop import pytorch, timm_blocks
from vit_jax.interop.layout import (
    LATER,
    Facts,
    Rule,
    Tensors,
    check_options,
    same,
    square_image,
    torch_convolution,
    torch_dense,
    usual_image,
    vit_arguments,
)
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.models.positions import LEARNED, ROTARY
from vit_jax.models.rotary import bands
from vit_jax.models.variants import Size

NAME = "vit5"
PATCHES, REGISTERS = "attn.rope.freqs", "attn.rope_reg.freqs"
HELD = {name: (value,) for name, value in LATER.items()} | {
    "norm": ("rmsnorm", "layernorm"),
    "qk_norm": ("none", "rmsnorm"),
    "qkv_bias": ("qkv", "none"),
    "pooling": ("token",),
    "class_token_position": (False,),
    "positions": ROTARY,
    "positions_at": ("stem",),
    "rope_frequencies": ("axial",),
    "rope_coordinates": ("index",),
    "rope_layout": ("pairs",),
    "rope_axes": ("yx",),
    "rope_grid": ((),),
    "attention": ("full",),
    "norm_after_pooling": (False,),
    "pre_logits": (False,),
    "resnet_stem": (None,),
}


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:  # noqa: ARG001
    return f"blocks.0.{PATCHES}" in tensors


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:  # noqa: ARG001
    return tensors


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    kernel = tensors["patch_embed.proj.weight"]
    width, side = len(kernel), pytorch.patch_size(kernel)
    shown = timm_blocks.describe(tensors)
    size = Size(
        depth=pytorch.depth(tensors, "blocks."),
        width=width,
        mlp_dim=shown.pop("mlp_dim"),
        num_heads=width // (4 * len(tensors[f"blocks.0.{PATCHES}"])),
    )
    registers, table = tensors.get("reg_token"), tensors.get("pos_embed")
    placed = registers is not None
    options = shown | {
        "num_classes": len(tensors.get("head.bias", ())),
        "image_size": usual_image(side)
        if table is None
        else square_image(table.shape[1], side),
        "positions": "rope2d" if table is None else "learned_rope2d",
        "class_token_position": False,
        "num_registers": registers.shape[1] if placed else 0,
        "rope_coordinates": "index",
        "rope_layout": "pairs",
        "rope_base": base(tensors, PATCHES),
        "rope_register_base": base(tensors, REGISTERS) if placed else 0.0,
        "layer_scale_init": 1e-4 if "blocks.0.gamma_1" in tensors else 0.0,
        "activation": "gelu",
        "pixel_mean": pytorch.IMAGENET_MEAN,
        "pixel_std": pytorch.IMAGENET_STD,
    }
    return vit_arguments(size, side) | pytorch.beside_defaults(options)


def base(tensors: Tensors, name: str) -> float:
    """The base that the frequencies of all blocks are powers of.

    Raises:
        ValueError: they are not powers of one base.
    """
    count = pytorch.depth(tensors, "blocks.")
    found = np.stack([tensors[f"blocks.{i}.{name}"] for i in range(count)])
    last = found.shape[1] - 1
    exact = float(found[0, last]) ** (-(last + 1) / max(last, 1))
    rounded = float(f"{exact:.5g}")
    if not np.allclose(found, bands(4 * (last + 1), rounded), rtol=1e-5, atol=0):
        raise ValueError(
            f"the rotary frequencies blocks.*.{name} are not powers of one base, as "
            "the code of ViT-5 has them, so they are not loaded"
        )
    return rounded


def facts(tensors: Tensors, config: dict[str, Any]) -> Facts:  # noqa: ARG001
    """Those of its evaluation; the statistics of the pixels are assumed."""
    return Facts((), "resize_small_center_crop", 1.0, "bicubic", pytorch.PIXELS)


def rules(model: AnyModel) -> list[Rule]:
    model = checked(model)
    rules = [
        torch_convolution("patch_embed.proj", "embedding"),
        same("patch_embed.proj.bias", "embedding/bias"),
        same("cls_token", "class_token"),
        *timm_blocks.norm_rules("norm", "encoder/norm", model.norm),
    ]
    if model.num_registers:
        rules.append(same("reg_token", "registers"))
    if model.positions in LEARNED:
        rules.append(same("pos_embed", "positions/embedding"))
    for i in range(model.depth):
        ours = f"encoder/block_{i:02d}"
        rules += timm_blocks.block_rules(f"blocks.{i}", ours, model)
        rules.append(frequencies(f"blocks.{i}.{PATCHES}", model, model.rope_base))
        if model.num_registers:
            name = f"blocks.{i}.{REGISTERS}"
            rules.append(frequencies(name, model, model.rope_register_base))
    if model.num_classes:
        rules += torch_dense("head", "head")
    return rules


def frequencies(theirs: str, model: VisionTransformer, base: float) -> Rule:
    """A tensor that is no parameter of ours; `describe` has read it."""
    count = model.width // model.num_heads // 4
    # These are the roundings of its code, so that a file keeps its bits.
    exponents = np.arange(count, dtype=np.float32) / np.float32(count)
    powers = base ** exponents.astype(np.float64)
    fixed = 1 / powers.astype(np.float32)
    return Rule(theirs, (), lambda _: (), lambda: fixed)


def checked(model: AnyModel) -> VisionTransformer:
    """The model, if its code can be given it.

    Raises:
        ValueError: it cannot.
    """
    pytorch.check_kind(model, NAME, VisionTransformer)
    assert isinstance(model, VisionTransformer)  # for the type checker
    check_options(model, NAME, **HELD)
    if model.num_registers and not model.rope_register_base:
        raise ValueError(
            f"the {NAME} layout cannot hold {model.num_registers} registers without "
            "rope_register_base: its code turns registers too"
        )
    if model.grid[0] != model.grid[1]:
        raise ValueError(
            f"the {NAME} layout cannot hold a model for images of {model.image_size}: "
            "its code has square images"
        )
    return model


def config_for(model: AnyModel, facts: Facts) -> dict[str, Any]:  # noqa: ARG001
    """The layout has no config."""
    return {}
