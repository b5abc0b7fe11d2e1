"""timm's config.json, read and written."""

from typing import Any

from vit_jax.interop.layout import Facts, Tensors
from vit_jax.interop.pytorch import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NUMERICS,
    PIXELS,
)
from vit_jax.interop.timm_architectures import usual_activation, usual_heads_of
from vit_jax.models import AnyModel, Mixer, ResNet, VisionTransformer
from vit_jax.models.layers import ACTIVATIONS
from vit_jax.models.pixels import HALF
from vit_jax.models.resnet import ResNetTrunk
from vit_jax.models.variants import BLOCKS, MIXERS, SIZES, MixerSize, Size

Config = dict[str, Any]
NAME = "timm"
POOLINGS = {"token": "token", "gap": "avg", "map": "map"}
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
BITS = {(50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)}
MIXER_NAMES = {"S": (16, 32), "B": (16, 32), "L": (16, 32)}


def architecture(config: Config) -> str:
    return config.get("architecture", "")


def arguments(config: Config) -> Config:
    """Arguments of the model other than the defaults of its architecture."""
    return config.get("model_args", {})


def pretraining(config: Config) -> Config:
    """Facts of the pre-training; old files have them at the top."""
    return config.get("pretrained_cfg", config)


def stored_image_size(config: Config) -> tuple[int, int] | None:
    size = arguments(config).get("img_size") or pretraining(config).get("input_size")
    if not size:
        return None
    return (size, size) if isinstance(size, int) else tuple(size[-2:])


def num_heads(config: Config, width: int) -> int:
    if "num_heads" in arguments(config):
        return arguments(config)["num_heads"]
    return usual_heads_of(architecture(config), width)


def pooling(tensors: Tensors, config: Config) -> str:
    """Our name of the pooling, from the config or else from the tensors.

    Raises:
        ValueError: a pooling that we do not have.
    """
    if "attn_pool.latent" in tensors:
        return "map"
    pool = pool_of(config)
    if not pool:
        averaged = "fc_norm.weight" in tensors or "cls_token" not in tensors
        return "gap" if averaged else "token"
    ours = [name for name, theirs in POOLINGS.items() if theirs == pool]
    if not ours:
        raise ValueError(
            f"config.json has global_pool {pool!r}: wanted one of "
            f"{', '.join(POOLINGS.values())}"
        )
    return ours[0]


def pool_of(config: Config) -> str | None:
    """timm's name of the pooling, if the config has it."""
    pool = arguments(config).get("global_pool", config.get("global_pool"))
    return pool or pretraining(config).get("global_pool")


def numerics(tensors: Tensors, config: Config) -> dict[str, Any]:
    """Options of the model from the config, or else timm's usual ones.

    Raises:
        ValueError: an activation that we do not have.
    """
    name, data = architecture(config), pretraining(config)
    activation = arguments(config).get("act_layer") or usual_activation(name)
    activation = "silu" if activation == "swish" else activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json has act_layer {activation!r}: wanted one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    layer_scale = "blocks.0.ls1.gamma" in tensors
    # Models with LayerScale, a class token and no config are DINOv2's and DeiT III's;
    # timm's own with LayerScale average the patches, and have 0.5.
    averaged = "fc_norm.weight" in tensors or "cls_token" not in tensors
    bare = layer_scale and not name and not averaged
    imagenet = name.startswith("deit") or "dino" in name or bare
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (HALF, HALF)
    init = (arguments(config).get("init_values") or 1e-5) if layer_scale else 0.0
    return {
        "activation": activation,
        "layer_scale_init": init,
        "pixel_mean": tuple(data.get("mean", mean)),
        "pixel_std": tuple(data.get("std", std)),
    }


def untold(tensors: Tensors, config: Config) -> tuple[str, ...]:
    """Options that neither tensors nor config tell.

    An architecture's name tells all but the statistics of the pixels.
    """
    data = pretraining(config)
    pixels = tuple(x for x in PIXELS if x.removeprefix("pixel_") not in data)
    if architecture(config):
        return pixels
    told = pool_of(config) or "attn_pool.latent" in tensors
    return (*NUMERICS, *(() if told else ("pooling",)), *pixels)


def facts(tensors: Tensors, config: Config) -> Facts:
    data = pretraining(config)
    labels = config.get("label_names", data.get("label_names")) or ()
    if isinstance(labels, dict):
        labels = [labels[key] for key in sorted(labels, key=int)]
    head = tensors.get("head.bias", tensors.get("head.fc.bias", ()))
    if len(labels) != len(head):
        labels = ()
    names, assumed = tuple(labels), untold(tensors, config)
    interpolation = data.get("interpolation")
    if interpolation not in ("bilinear", "bicubic"):
        interpolation = ""
    crop_mode = data.get("crop_mode") or "center"
    if "crop_pct" not in data or crop_mode not in ("center", "squash"):
        return Facts(names, untold=assumed)
    if crop_mode == "squash":
        return Facts(names, "resize", 0.0, interpolation, assumed)
    share = data["crop_pct"]
    return Facts(names, "resize_small_center_crop", share, interpolation, assumed)


def config_for(model: AnyModel, facts: Facts) -> Config:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    Raises:
        ValueError: timm's code has no such model.
    """
    height, width = model.image_size
    first = {"classifier": "head", "fixed_input_size": True}
    if isinstance(model, ResNet):
        name, model_args = bit_name(model), {}
        first |= {"classifier": "head.fc", "fixed_input_size": False}
        first["first_conv"] = "stem.conv"
    elif isinstance(model, Mixer):
        name, model_args = mixer_name(model), mixer_arguments(model)
        first["first_conv"] = "stem.proj"
    else:
        name, model_args = vit_name(model), vit_arguments(model)
        first["first_conv"] = first_convolution(model)
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
            **first,
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
    size = Size(model.depth, model.width, model.mlp_dim, model.num_heads)
    for ours, (theirs, patches) in SIZE_NAMES.items():
        if SIZES[ours] == size and model.patch_size in patches:
            return f"vit_{theirs}_patch{model.patch_size}_224"
    return "vit_base_patch16_224"


def vit_arguments(model: VisionTransformer) -> Config:
    """All arguments of the model, so that its architecture's defaults do not matter."""
    side, token = model.patch_size, model.has_class_token
    if model.resnet_stem is not None:
        side //= ResNetTrunk(model.resnet_stem).stride
    unplaced = token and not model.class_token_position
    config = {
        "img_size": list(model.image_size),
        "patch_size": side,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.num_heads,
        "mlp_ratio": ratio(model.mlp_dim, model.width),
        "class_token": token,
        "global_pool": POOLINGS[model.pooling],
        "fc_norm": model.norm_after_pooling,
        "no_embed_class": bool(unplaced or (not token and model.num_registers)),
        "reg_tokens": model.num_registers,
        "act_layer": model.activation,
    }
    if model.layer_scale_init:
        config["init_values"] = model.layer_scale_init
    if model.positions == "none":
        config["pos_embed"] = "none"
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
