"""timm's config.json, written; `timm_config.py` reads it."""

from typing import Any

from vit_jax.interop.layout import Facts
from vit_jax.interop.timm_config import NAME, POOLINGS, Config
from vit_jax.models import AnyModel, Mixer, ResNet, VisionTransformer
from vit_jax.models.positions import OFFSET_BIASES
from vit_jax.models.resnet import ResNetTrunk
from vit_jax.models.variants import BLOCKS, MIXERS, SIZES, MixerSize, Size

# timm's names of our sizes, with the patch sizes that it has. Any other model is one of
# these with all its arguments given.
SIZE_NAMES = {
    "Ti": ("tiny", (16,)),
    "S": ("small", (8, 16, 32)),
    "B": ("base", (8, 16, 32)),
    "L": ("large", (14, 16, 32)),
    "H": ("huge", (14,)),
    "g": ("giant", (14,)),
    "G": ("gigantic", (14,)),
}
HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    BLOCKS[26]: "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    BLOCKS[50]: "vit_large_r50_s32_224",
}
# Architectures that are written, all their arguments given, for what no argument of the
# class can say.
WRITTEN = (
    ("distillation_token", True, "deit_base_distilled_patch16_224"),
    ("norm_epsilon", 1e-5, "vit_base_patch16_clip_224"),
    ("mlp", "swiglu", "vit_giant_patch14_dinov2"),
    ("block", "post_norm", "vit_base_patch16_rpn_224"),
    ("block", "parallel", "vit_base_patch16_xp_224"),
    ("block", "pairs", "vit_base_patch16_18x2_224"),
)
BITS = {(50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)}
MIXER_NAMES = {"S": (16, 32), "B": (16, 32), "L": (16, 32)}


def config_for(model: AnyModel, facts: Facts) -> Config:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    Raises:
        ValueError: timm's code has no such model.
    """
    first = {}
    if isinstance(model, ResNet):
        name, model_args = bit_name(model), {}
        first |= {"classifier": "head.fc", "fixed_input_size": False}
        first["first_conv"] = "stem.conv"
    elif isinstance(model, Mixer):
        name, model_args = mixer_name(model), mixer_arguments(model)
        first["first_conv"] = "stem.proj"
    else:
        relative = model.positions in OFFSET_BIASES
        name = relpos_name(model) if relative else vit_name(model)
        model_args = relpos_arguments(model) if relative else vit_arguments(model)
        first["first_conv"] = first_convolution(model)
        if model.distillation_token:
            first["classifier"] = ["head", "head_dist"]
    return pretrained_config(name, model, facts, model_args, **first)


def pretrained_config(
    name: str, model: AnyModel, facts: Facts, model_args: Config, **others: Any
) -> Config:
    """A config.json of an architecture whose class is made with these arguments."""
    height, width = model.image_size
    config = {
        "architecture": name,
        "num_classes": model.num_classes,
        "model_args": model_args,
        "pretrained_cfg": {
            "input_size": [3, height, width],
            "num_classes": model.num_classes,
            "pool_size": None,
            "mean": list(model.pixel_mean),
            "std": list(model.pixel_std),
            "classifier": "head",
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            **others,
            **preprocessing(facts),
        },
    }
    if facts.label_names:
        config["label_names"] = list(facts.label_names)
    return config


def preprocessing(facts: Facts) -> Config:
    config = {"interpolation": facts.interpolation} if facts.interpolation else {}
    if facts.eval_crop == "resize":
        return config | {"crop_mode": "squash", "crop_pct": 1.0}
    if facts.eval_crop:
        config |= {"crop_mode": "center", "crop_pct": facts.crop_share}
    return config


def first_convolution(model: VisionTransformer) -> str:
    if model.resnet_stem is None:
        return "patch_embed.proj"
    stem = ".stem" if model.resnet_stem else ""
    return f"patch_embed.backbone{stem}.conv"


def vit_name(model: VisionTransformer) -> str:
    if model.pre_logits:
        raise ValueError(
            f"the {NAME} layout cannot hold a model with pre_logits=True: its code "
            "leaves the tanh layer before the head out when it loads"
        )
    if model.resnet_stem is not None:
        if model.resnet_stem not in HYBRIDS or model.stem_width != 64:
            raise ValueError(
                f"the {NAME} layout cannot hold a hybrid with resnet_stem="
                f"{model.resnet_stem} and stem_width={model.stem_width}: its code has "
                f"stems of {', '.join(map(str, HYBRIDS))} units and width 64"
            )
        return HYBRIDS[model.resnet_stem]
    for option, value, name in WRITTEN:
        if getattr(model, option) == value:
            return name
    size = Size(model.depth, model.width, model.mlp_dim, model.num_heads)
    for ours, (theirs, patches) in SIZE_NAMES.items():
        if SIZES[ours] == size and model.patch_size in patches:
            return f"vit_{theirs}_patch{model.patch_size}_224"
    return "vit_base_patch16_224"


def sizes(model: VisionTransformer) -> Config:
    """What timm's classes of transformers take under the same names."""
    return {
        "img_size": list(model.image_size),
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.num_heads,
        "mlp_ratio": ratio(model.mlp_dim, model.width),
        "global_pool": POOLINGS[model.pooling],
    }


def vit_arguments(model: VisionTransformer) -> Config:
    """All arguments of the model, so that its architecture's defaults do not matter."""
    side, token = model.patch_size, model.has_class_token
    if model.resnet_stem is not None:
        side //= ResNetTrunk(model.resnet_stem).stride
    unplaced = token and not model.class_token_position
    gated = model.mlp == "swiglu"
    config = {
        **sizes(model),
        "patch_size": side,
        "mlp_ratio": ratio((1 + gated) * model.mlp_dim, model.width),
        "class_token": token,
        "fc_norm": model.norm_after_pooling,
        "no_embed_class": bool(unplaced or (not token and model.num_registers)),
        "reg_tokens": model.num_registers,
        "act_layer": "silu" if gated else model.activation,
        "qkv_bias": model.qkv_bias == "qkv",
        "qk_norm": model.qk_norm != "none",
        "scale_attn_norm": model.attention_inner_norm,
        "scale_mlp_norm": model.mlp_inner_norm,
        "pre_norm": model.embedding_norm,
    }
    if model.norm == "rmsnorm":
        config["norm_layer"] = "rmsnorm"
    if model.pooling == "map" and model.num_prefix_tokens:
        config["pool_include_prefix"] = model.map_reads == "all"
    if model.layer_scale_init:
        config["init_values"] = model.layer_scale_init
    if model.positions == "none":
        config["pos_embed"] = "none"
    return config


def relpos_name(model: VisionTransformer) -> str:
    """No argument of timm's class for relative positions says where the norms are."""
    post = "_rpn" if model.block == "post_norm" else ""
    return f"vit_relpos_base_patch16{post}_224"


def relpos_arguments(model: VisionTransformer) -> Config:
    """All arguments of timm's class for relative positions."""
    config = {
        **sizes(model),
        "class_token": model.has_class_token,
        "fc_norm": model.norm_after_pooling,
        "qkv_bias": model.qkv_bias == "qkv",
        "qk_norm": model.qk_norm != "none",
        "init_values": model.layer_scale_init or None,
        "rel_pos_type": "bias",
        "shared_rel_pos": model.positions_at == "shared",
    }
    if model.positions == "relative_mlp":
        config |= {"rel_pos_type": "mlp", "rel_pos_dim": model.relative_mlp_dim}
    return config


def ratio(hidden: int, width: int) -> float:
    """The MLP ratio, for which int(ratio * width) is `hidden`."""
    exact = hidden / width
    return exact if int(exact * width) == hidden else (hidden + 0.5) / width


def bit_name(model: ResNet) -> str:
    depth = next((d for d, blocks in BLOCKS.items() if blocks == model.blocks), 0)
    if (depth, model.width / 64) in BITS:
        return f"resnetv2_{depth}x{model.width // 64}_bit"
    names = ", ".join(f"R{depth}x{factor}" for depth, factor in sorted(BITS))
    raise ValueError(
        f"the {NAME} layout cannot hold a BiT with {model.blocks} units and width "
        f"{model.width}: its code has {names}"
    )


def mixer_name(model: Mixer) -> str:
    for ours, patches in MIXER_NAMES.items():
        size = MIXERS[ours]
        same = (model.depth, model.width) == (size.depth, size.width)
        if same and model.patch_size in patches:
            return f"mixer_{ours.lower()}{model.patch_size}_224"
    names = ", ".join(f"{ours}/{p}" for ours, ps in MIXER_NAMES.items() for p in ps)
    size = MixerSize(*(getattr(model, name) for name in MixerSize._fields))
    raise ValueError(
        f"the {NAME} layout cannot hold a Mixer of {size} and patches of "
        f"{model.patch_size}: its code has {names}"
    )


def mixer_arguments(model: Mixer) -> Config:
    """Sizes only: timm's Mixer takes no activation by name and has the exact GELU."""
    hidden = (model.token_mlp_dim, model.channel_mlp_dim)
    return {
        "img_size": list(model.image_size),
        "mlp_ratio": [ratio(x, model.width) for x in hidden],
    }
