"""config.json and preprocessor_config.json of transformers, read and written."""

import re
from typing import Any

from vit_jax.interop.layout import Facts, Tensors
from vit_jax.interop.pytorch import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NUMERICS,
    PIXELS,
    usual_heads,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.pixels import HALF

Config = dict[str, Any]
# The models whose logits ours have been compared with, by `make parity`.
KINDS = ("vit", "dinov2", "dinov2_with_registers")
ARCHITECTURES = re.compile(
    r"(ViT|Dinov2|Dinov2WithRegisters)(Model|ForImageClassification)"
)
# Our names by theirs; of several for one activation, the first is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
} | {
    name: name
    for name in ("quick_gelu", "relu", "relu6", "tanh", "sigmoid", "mish", "leaky_relu")
}
# Pillow's codes.
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}


def check_kind(config: Config) -> None:
    """Raises ValueError if a config names a model that is not known to be one of ours.

    The tensors alone do not tell: other models have ViT's names and compute more.
    """
    kind = config.get("model_type", "vit")
    other = [
        name
        for name in config.get("architectures") or ()
        if not ARCHITECTURES.fullmatch(name)
    ]
    if kind not in KINDS or other:
        named = f"architectures {', '.join(other)}" if other else f"model_type {kind!r}"
        raise ValueError(
            f"config.json names {named}, which is not known to compute what one of our "
            f"models does: wanted a model of {', '.join(KINDS)}"
        )


def without_processor(config: Config) -> Config:
    """config.json itself: {} if there is only a preprocessor_config.json."""
    return {key: x for key, x in config.items() if key != "preprocessor_config"}


def num_heads(config: Config, width: int) -> int:
    """Those of the config, or else those of transformers' own default."""
    usual = 12 if without_processor(config) else usual_heads(width)
    return config.get("num_attention_heads", usual)


def untold(config: Config) -> tuple[str, ...]:
    """What a folder without config.json or preprocessor_config.json does not tell."""
    numerics = () if without_processor(config) else NUMERICS
    return numerics + (() if config.get("preprocessor_config") else PIXELS)


def numerics(config: Config, dinov2: bool) -> dict[str, Any]:
    """Options of the model from the configs, or else the code's defaults.

    Raises:
        ValueError: an activation that we do not have.
    """
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json has hidden_act {activation!r}: wanted one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    if config.get("pooler_act", "tanh") != "tanh":
        raise ValueError(
            f"config.json has pooler_act {config['pooler_act']!r}: wanted 'tanh'"
        )
    mean, std = pixel_statistics(config, dinov2)
    return {
        "activation": ACTIVATIONS[activation],
        "norm_epsilon": config.get("layer_norm_eps", 1e-6 if dinov2 else 1e-12),
        "layer_scale_init": config.get("layerscale_value", 1.0) if dinov2 else 0.0,
        "pixel_mean": mean,
        "pixel_std": std,
    }


def pixel_statistics(config: Config, dinov2: bool) -> tuple[tuple[float, ...], ...]:
    """Mean and deviation of pixels in [0, 1], as the image processor takes them."""
    processor = config.get("preprocessor_config", {})
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if dinov2 else (HALF, HALF)
    mean, std = processor.get("image_mean", mean), processor.get("image_std", std)
    # Pixels in 0..255 are first multiplied by the factor.
    largest = round(255 * processor.get("rescale_factor", 1 / 255), 6)
    return tuple(x / largest for x in mean), tuple(x / largest for x in std)


def image_size(config: Config) -> tuple[int, int] | None:
    size = config.get("image_size")
    return (size, size) if isinstance(size, int) else size and tuple(size)


def facts(tensors: Tensors, config: Config) -> Facts:
    labels = config.get("id2label") or {}
    names = tuple(labels[key] for key in sorted(labels, key=int))
    invented = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    if invented or len(names) != len(tensors.get("classifier.bias", ())):
        names = ()
    processor, assumed = config.get("preprocessor_config", {}), untold(config)
    interpolation = INTERPOLATIONS.get(processor.get("resample"), "")
    size, crop = processor.get("size"), processor.get("crop_size")
    if processor.get("do_center_crop") and crop and "shortest_edge" in (size or {}):
        side = crop if isinstance(crop, int) else min(crop.values())
        share = side / size["shortest_edge"]
        return Facts(names, "resize_small_center_crop", share, interpolation, assumed)
    if processor.get("do_resize") and (
        isinstance(size, int) or "height" in (size or {})
    ):
        return Facts(names, "resize", 0.0, interpolation, assumed)
    return Facts(names, untold=assumed)


def config_for(model: Any, facts: Facts) -> Config:
    dinov2 = bool(model.layer_scale_init)
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if model.activation not in activations:
        raise ValueError(
            "the huggingface layout cannot hold a model with activation="
            f"{model.activation!r}: its code has {' or '.join(map(repr, activations))}"
        )
    height, width = model.image_size
    config = {
        "architectures": [architecture(model)],
        "model_type": "vit",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "hidden_act": activations[model.activation],
        "layer_norm_eps": model.norm_epsilon,
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "preprocessor_config": preprocessor_config(model, facts),
    }
    if dinov2:
        config |= {
            "model_type": "dinov2_with_registers" if model.num_registers else "dinov2",
            "mlp_ratio": model.mlp_dim // model.width,
            "layerscale_value": model.layer_scale_init,
            "use_swiglu_ffn": False,
        }
        if model.num_registers:
            config["num_register_tokens"] = model.num_registers
        else:
            config["use_mask_token"] = False
    else:
        config["intermediate_size"] = model.mlp_dim
    if model.num_classes:
        names = facts.label_names or [f"LABEL_{i}" for i in range(model.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def architecture(model: VisionTransformer) -> str:
    """The class of transformers that loads the model."""
    base = "ViT"
    if model.layer_scale_init:
        base = "Dinov2WithRegisters" if model.num_registers else "Dinov2"
    return f"{base}ForImageClassification" if model.num_classes else f"{base}Model"


def preprocessor_config(model: VisionTransformer, facts: Facts) -> Config:
    """For transformers' processor of ViT, or of BiT, which crops the centre."""
    height, width = model.image_size
    codes = {name: code for code, name in INTERPOLATIONS.items()}
    size = {"height": height, "width": width}
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": codes[facts.interpolation or "bilinear"],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.pixel_mean),
        "image_std": list(model.pixel_std),
    }
    if facts.eval_crop == "resize_small_center_crop":
        edge = round(min(model.image_size) / facts.crop_share)
        config |= {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": edge},
            "do_center_crop": True,
            "crop_size": size,
        }
    return config
