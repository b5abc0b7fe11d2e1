"""timm's config.json, read; `timm_written.py` writes it."""

import re
from typing import Any

from vit_jax.interop.layout import Facts, Tensors
from vit_jax.interop.pytorch import IMAGENET_MEAN, IMAGENET_STD, usual_heads
from vit_jax.models.layers import ACTIVATIONS
from vit_jax.models.pixels import HALF

Config = dict[str, Any]
NAME = "timm"
POOLINGS = {"token": "token", "gap": "avg", "map": "map"}
# Options that only timm's code has, by the beginning of the architecture's name.
HEADS = {"vit_base_patch16_gap": 16, "vit_giantopt_": 16}
GELU_TANH = re.compile(
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip"
    r"|vit_large_patch16_siglip_(gap_)?512"
)


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
    name = architecture(config)
    if name.startswith("test_vit"):
        return width // 32
    known = [heads for start, heads in HEADS.items() if name.startswith(start)]
    return known[0] if known else usual_heads(width)


def pooling(tensors: Tensors, config: Config) -> str:
    """Our name of the pooling, from the config or else from the tensors.

    Raises:
        ValueError: a pooling that we do not have.
    """
    if "attn_pool.latent" in tensors:
        return "map"
    pool = arguments(config).get("global_pool", config.get("global_pool"))
    pool = pool or pretraining(config).get("global_pool")
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


def numerics(tensors: Tensors, config: Config) -> dict[str, Any]:
    """Options of the model from the config, or else timm's usual ones.

    Raises:
        ValueError: an activation that we do not have.
    """
    name, data = architecture(config), pretraining(config)
    usual = "gelu_tanh" if GELU_TANH.match(name) else "gelu"
    activation = arguments(config).get("act_layer") or usual
    activation = "silu" if activation == "swish" else activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json has act_layer {activation!r}: wanted one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    layer_scale = "blocks.0.ls1.gamma" in tensors
    # Models with LayerScale and no config are DINOv2's and DeiT III's.
    imagenet = name.startswith("deit") or "dino" in name or (layer_scale and not name)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (HALF, HALF)
    init = (arguments(config).get("init_values") or 1e-5) if layer_scale else 0.0
    return {
        "activation": activation,
        "layer_scale_init": init,
        "pixel_mean": tuple(data.get("mean", mean)),
        "pixel_std": tuple(data.get("std", std)),
    }


def facts(tensors: Tensors, config: Config) -> Facts:
    data = pretraining(config)
    labels = config.get("label_names", data.get("label_names")) or ()
    if isinstance(labels, dict):
        labels = [labels[key] for key in sorted(labels, key=int)]
    head = tensors.get("head.bias", tensors.get("head.fc.bias", ()))
    if len(labels) != len(head):
        labels = ()
    interpolation = data.get("interpolation")
    if interpolation not in ("bilinear", "bicubic"):
        interpolation = ""
    crop_mode = data.get("crop_mode") or "center"
    if "crop_pct" not in data or crop_mode not in ("center", "squash"):
        return Facts(tuple(labels))
    if crop_mode == "squash":
        return Facts(tuple(labels), "resize", 0.0, interpolation)
    share = data["crop_pct"]
    return Facts(tuple(labels), "resize_small_center_crop", share, interpolation)
