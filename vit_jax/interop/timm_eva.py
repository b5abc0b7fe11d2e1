"""timm's class Eva: DINOv3, EVA-02, RoPE-ViT, and others with rotary positions; and
BEiT, which has the same names of its own class."""

from typing import Any

from vit_jax.interop import pytorch, timm_blocks, timm_relative, vit5
from vit_jax.interop.layout import (
    Facts,
    Rule,
    Tensors,
    check_options,
    rearranged,
    same,
    usual_image,
    vit_arguments,
)
from vit_jax.interop.timm_config import (
    architecture,
    arguments,
    facts,
    pooling,
    pretraining,
    stored_image_size,
)
from vit_jax.interop.timm_eva_config import (
    WRITTEN,
    beit_config,
    class_arguments,
    eva_config,
    num_heads,
    rotary,
)
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.models.pixels import HALF
from vit_jax.models.positions import LEARNED, ROTARY
from vit_jax.models.variants import Size

__all__ = ["canonical", "config_for", "describe", "facts", "recognises", "rules"]

NAME = "timm_eva"
KERNEL = "patch_embed.proj.weight"


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:
    is_eva = timm_blocks.is_eva(tensors, architecture(config))
    return KERNEL in tensors and is_eva and not vit5.recognises(tensors, config)


def canonical(
    tensors: Tensors,
    config: dict[str, Any],  # noqa: ARG001
) -> Tensors:
    """The tensors in use."""
    index = "relative_position_index"  # of BEiT's own files: no weights
    params = {name: x for name, x in tensors.items() if not name.endswith(index)}
    if params.pop("mask_token", None) is not None:
        pytorch.report_dropped(["mask_token"])
    pytorch.refuse(params, {r"\.attn\.gate\.": "gated attention"})
    return params


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    relative = timm_relative.describe(tensors, architecture(config))
    given = class_arguments(config, needed=not relative)
    width, side = len(tensors[KERNEL]), pytorch.patch_size(tensors[KERNEL])
    shown = timm_blocks.describe(tensors)
    size = Size(
        depth=pytorch.depth(tensors, "blocks."),
        width=width,
        mlp_dim=shown.pop("mlp_dim"),
        num_heads=num_heads(tensors, config, width),
    )
    pool, token = pooling(tensors, config), "cls_token" in tensors
    registers = tensors.get("reg_token")
    scaled = "blocks.0.gamma_1" in tensors
    image_size = stored_image_size(config) or usual_image(side)
    if relative:
        image_size = timm_relative.image_size(tensors, side, image_size)
    pixels = usual_pixels(architecture(config), relative)
    options = shown | {
        "num_classes": len(tensors.get("head.bias", ())),
        "image_size": image_size,
        "pooling": pool,
        "class_token": "always" if token and pool != "token" else "auto",
        "num_registers": 0 if registers is None else registers.shape[1],
        "norm_after_pooling": "fc_norm.weight" in tensors,
        "embedding_norm": "norm_pre.weight" in tensors,
        "norm_epsilon": given["eps"],
        "activation": "gelu",
        "layer_scale_init": (arguments(config).get("init_values") or 1e-5)
        if scaled
        else 0,
        "pixel_mean": tuple(pretraining(config).get("mean", pixels[0])),
        "pixel_std": tuple(pretraining(config).get("std", pixels[1])),
        **(relative or rotary(given)),
    }
    if given["use_post_norm"]:
        options["block"] = "post_norm"
    if "pos_embed" in tensors:
        patches = (image_size[0] // side) * (image_size[1] // side)
        options["class_token_position"] = tensors["pos_embed"].shape[1] > patches
    return vit_arguments(size, side) | pytorch.beside_defaults(options)


def rules(model: AnyModel) -> list[Rule]:
    model = checked(model)
    rules = timm_blocks.common_rules(model)
    if model.positions in LEARNED:
        rules.append(same("pos_embed", "positions/embedding"))
    if model.positions in ROTARY and model.rope_frequencies == "mixed":
        blocks = tuple(
            f"encoder/block_{i:02d}/attention/rotary/frequencies"
            for i in range(model.depth)
        )
        rules.append(rearranged("rope.freqs", blocks, "a n k e -> n a k e"))
    return rules + timm_relative.shared_rules(model)


def checked(model: AnyModel) -> VisionTransformer:
    """The model, if the class has code for it.

    Raises:
        ValueError: it has not.
    """
    pytorch.check_kind(model, NAME, VisionTransformer)
    assert isinstance(model, VisionTransformer)  # for the type checker
    check_options(
        model,
        NAME,
        pooling=("token", "gap"),
        positions=("learned", "none", "relative_bias", *ROTARY),
        attention=("full",),
        block=("pre_norm", "post_norm"),
        qkv_bias=("qkv", "qv", "none"),
        resnet_stem=(None,),
        pre_logits=(False,),
        distillation_token=(False,),
        rope_register_base=(0.0,),
        activation=("gelu",),
        norm=("layernorm",),
        qk_norm=("none", "layernorm"),
        norm_epsilon=tuple(WRITTEN),
    )
    if not timm_blocks.is_of_eva(model):
        raise ValueError(
            f"the {NAME} layout is for models with rotary positions or without a bias "
            "of the keys, and this one has neither: write it as layout timm"
        )
    if model.positions == "relative_bias":
        timm_relative.check(model, NAME)
        return model
    check_options(model, NAME, positions_at=("stem",))
    if model.positions == "learned_rope2d" and model.num_registers:
        raise ValueError(
            f"the {NAME} layout cannot hold a model with positions={model.positions!r} "
            "and registers: its code has positions for both"
        )
    return model


def usual_pixels(name: str, relative: dict[str, Any]) -> tuple[Any, Any]:
    """Mean and deviation of the pixels where no config has them."""
    if name.startswith("beit_") or (relative and not name):
        return HALF, HALF
    return pytorch.IMAGENET_MEAN, pytorch.IMAGENET_STD


def config_for(model: AnyModel, facts: Facts) -> dict[str, Any]:
    model = checked(model)
    if timm_relative.is_beit(model):
        return beit_config(model, facts)
    return eva_config(model, facts)
