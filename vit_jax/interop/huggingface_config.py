"""config.json and preprocessor_config.json of transformers, read and written."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from vit_jax.interop.layout import Facts, Tensors
from vit_jax.interop.pytorch import (
    PIXELS,
    ClassNames,
    Deviations,
    Epsilon,
    Heads,
    Means,
    Side,
    Temperature,
    usual_heads,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.variants import Size
from vit_jax.values import Condition, Range

Config = dict[str, Any]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
NAME = "huggingface"
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
EDGES = ("shortest_edge", "longest_edge", "height", "width")
Edges = Annotated[
    dict[str, Side | None],
    Condition(
        'pixels by name, as {"shortest_edge": 256}',
        lambda edges: any(map(edges.get, EDGES)),
    ),
]


class Tower(TypedDict, total=False):
    """The fields of a vision tower that are read."""

    num_attention_heads: Heads
    hidden_size: Annotated[int, Range(1)]
    num_hidden_layers: Annotated[int, Range(1)]
    hidden_act: str
    pooler_act: str
    layer_norm_eps: Epsilon
    image_size: Side | tuple[Side, Side]
    layerscale_value: Annotated[float, Range(0, 1000, left_open=True)]
    rope_theta: Temperature


class Fields(Tower, total=False):
    """The fields of config.json that are read."""

    model_type: str
    architectures: list[str] | None
    id2label: ClassNames | None
    vision_config: Tower


class Processor(TypedDict, total=False):
    """Those of preprocessor_config.json; None stands for what is not done."""

    do_normalize: bool | None
    do_center_crop: bool | None
    do_resize: bool | None
    image_mean: Means | None
    image_std: Deviations | None
    rescale_factor: Annotated[float, Range(0, 1, left_open=True)]
    resample: Annotated[int, Range(0, 5)] | None
    size: Side | Edges | None
    crop_size: Side | Edges | None
    image_processor_type: str | None
    feature_extractor_type: str | None


def check_class(
    config: Config, types: Sequence[str], architectures: re.Pattern[str]
) -> None:
    """Raises ValueError if a config names a model that is not known to be one of ours.

    The tensors alone do not tell: other models have ViT's names and compute more.

    Args:
        types, architectures: of the models whose logits ours have been compared with,
            by `make parity`.
    """
    kind = config.get("model_type", types[0])
    other = [
        name
        for name in config.get("architectures") or ()
        if not architectures.fullmatch(name)
    ]
    if kind not in types or other:
        named = f"architectures {', '.join(other)}" if other else f"model_type {kind!r}"
        raise ValueError(
            f"config.json names {named}, which is not known to compute what one of our "
            f"models does: wanted a model of {', '.join(types)}"
        )


def without_processor(config: Config) -> Config:
    """config.json itself: {} if there is only a preprocessor_config.json."""
    return {key: x for key, x in config.items() if key != "preprocessor_config"}


def num_heads(config: Config, width: int, usual: int = 12) -> int:
    """Those of the config, or else those that transformers has by default."""
    usual = usual if without_processor(config) else usual_heads(width)
    heads = config.get("num_attention_heads", usual)
    if width % heads:
        raise ValueError(
            f"config.json has num_attention_heads {heads}: wanted a divisor of the "
            f"width, {width}"
        )
    return heads


def check_sizes(config: Config, size: Size) -> None:
    """Raises ValueError if config.json is that of another model than the tensors."""
    for key, shown in (("hidden_size", size.width), ("num_hidden_layers", size.depth)):
        if config.get(key, shown) != shown:
            raise ValueError(
                f"config.json has {key} {config[key]}, but that of the tensors is "
                f"{shown}: it is not the config of these weights"
            )


def untold(config: Config, numerics: tuple[str, ...]) -> tuple[str, ...]:
    """What a folder without config.json or preprocessor_config.json does not tell."""
    numerics = () if without_processor(config) else numerics
    return numerics + (() if config.get("preprocessor_config") else PIXELS)


def numerics(
    config: Config,
    *,
    norm_epsilon: float,
    pixels: Statistics,
    activation: str = "gelu",
) -> dict[str, Any]:
    """Options of the model from the configs, or else the defaults of the model's code.

    Raises:
        ValueError: an activation that we do not have.
    """
    activation = config.get("hidden_act", activation)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json has hidden_act {activation!r}: wanted one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    if config.get("pooler_act", "tanh") != "tanh":
        raise ValueError(
            f"config.json has pooler_act {config['pooler_act']!r}: wanted 'tanh'"
        )
    mean, std = pixel_statistics(config, pixels)
    return {
        "activation": ACTIVATIONS[activation],
        "norm_epsilon": config.get("layer_norm_eps", norm_epsilon),
        "pixel_mean": mean,
        "pixel_std": std,
    }


def pixel_statistics(config: Config, usual: Statistics) -> Statistics:
    """Mean and deviation of pixels in [0, 1], as the image processor takes them."""
    processor = config.get("preprocessor_config", {})
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = processor.get("image_mean", usual[0])
    std = processor.get("image_std", usual[1])
    if mean is None or std is None:
        raise ValueError(
            "preprocessor_config.json has do_normalize, and null as image_mean or "
            "image_std: wanted three numbers"
        )
    # Pixels in 0..255 are first multiplied by the factor.
    largest = round(255 * processor.get("rescale_factor", 1 / 255), 6)
    return tuple(x / largest for x in mean), tuple(x / largest for x in std)


def image_size(config: Config) -> tuple[int, int] | None:
    size = config.get("image_size")
    return (size, size) if isinstance(size, int) else size and tuple(size)


def facts(tensors: Tensors, config: Config, numerics: tuple[str, ...]) -> Facts:
    """Facts from the configs; `numerics` are the options that config.json tells."""
    labels = config.get("id2label") or {}
    names = tuple(labels[key] for key in sorted(labels, key=int))
    invented = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    head = tensors.get("classifier.bias", tensors.get("cls_classifier.bias", ()))
    if invented or len(names) != len(head):
        names = ()
    processor, assumed = config.get("preprocessor_config", {}), untold(config, numerics)
    interpolation = INTERPOLATIONS.get(processor.get("resample"), "")
    size, crop = processor.get("size"), processor.get("crop_size")
    if processor.get("do_center_crop") and crop:
        side = crop if isinstance(crop, int) else min(filter(None, crop.values()))
        edge = shortest_edge(processor)
        # A crop behind a resize that ignores the aspect is none of ours.
        if not edge:
            return Facts(names, interpolation=interpolation, untold=assumed)
        kind = "resize_small_center_crop"
        return Facts(names, kind, side / edge, interpolation, assumed)
    if processor.get("do_resize") and (
        isinstance(size, int) or "height" in (size or {})
    ):
        return Facts(names, "resize", 0.0, interpolation, assumed)
    return Facts(names, untold=assumed)


def shortest_edge(processor: Config) -> int:
    """That of the images before a crop, 0 if they are resized to a square.

    Old files have a bare number, which is a shortest edge for CLIP alone.
    """
    size = processor.get("size")
    if isinstance(size, int):
        name = processor.get("image_processor_type") or ""
        name = name or processor.get("feature_extractor_type") or ""
        return size if name.startswith("CLIP") else 0
    return (size or {}).get("shortest_edge") or 0


def activation_name(model: VisionTransformer) -> str:
    """Their name of a model's activation.

    Raises:
        ValueError: they have none.
    """
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if model.activation not in activations:
        raise ValueError(
            f"the {NAME} layout cannot hold a model with activation="
            f"{model.activation!r}: its code has {' or '.join(map(repr, activations))}"
        )
    return activations[model.activation]


def common_config(model: VisionTransformer) -> Config:
    """What the configs of all kinds have."""
    height, width = model.image_size
    return {
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "layer_norm_eps": model.norm_epsilon,
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch_size,
        "num_channels": 3,
    }


def labels(model: VisionTransformer, facts: Facts) -> Config:
    names = facts.label_names or [f"LABEL_{i}" for i in range(model.num_classes)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


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
