"""timm's config.json, read; `timm_written.py` writes it."""

from typing import Annotated, Any, TypedDict

from vit_jax.interop import timm_relative
from vit_jax.interop.layout import Facts, Tensors
from vit_jax.interop.pytorch import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NUMERICS,
    PIXELS,
    ClassNames,
    Deviations,
    Epsilon,
    Heads,
    Means,
    Side,
    Temperature,
)
from vit_jax.interop.timm_architectures import usual_activation, usual_heads_of
from vit_jax.models.layers import ACTIVATIONS
from vit_jax.models.pixels import HALF
from vit_jax.values import Choice, Range

Config = dict[str, Any]
NAME = "timm"
# Of an image, perhaps with the channels before.
ImageSize = tuple[Side, Side] | tuple[Side, Side, Side]
CROPS = ("center", "squash", "border")
INTERPOLATIONS = (
    *("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"),
)


class Data(TypedDict, total=False):
    """Facts of the pre-training."""

    input_size: ImageSize
    mean: Means
    std: Deviations
    interpolation: Annotated[str, Choice(*INTERPOLATIONS)]
    crop_mode: Annotated[str, Choice(*CROPS)] | None
    crop_pct: Annotated[float, Range(0, 1, left_open=True)]
    global_pool: str
    label_names: list[str] | ClassNames | None


class Arguments(TypedDict, total=False):
    """Arguments of timm's VisionTransformer and, from `use_rot_pos_emb` on, its Eva."""

    img_size: Side | ImageSize | None
    num_heads: Heads
    act_layer: str | None
    init_values: Annotated[float, Range(0, 1000)] | None
    global_pool: str
    pool_include_prefix: bool
    use_rot_pos_emb: bool
    use_abs_pos_emb: bool
    use_post_norm: bool
    rope_type: str
    rope_temperature: Temperature
    rope_grid_indexing: Annotated[str, Choice("ij", "xy")]
    rope_grid_offset: Annotated[float, Range(-1, 1)]
    rope_rotate_half: bool
    ref_feat_shape: Side | tuple[Side, Side] | None
    attn_type: str
    eps: Epsilon


class Fields(Data, total=False):
    """The fields of config.json that are read; old files have the data at the top."""

    architecture: str
    model_args: Arguments
    pretrained_cfg: Data


POOLINGS = {"token": "token", "gap": "avg", "map": "map"}


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


def num_heads(tensors: Tensors, config: Config, width: int) -> int:
    if shown := timm_relative.num_heads(tensors):
        return shown
    if "num_heads" in arguments(config):
        return checked_heads(arguments(config)["num_heads"], width)
    return usual_heads_of(architecture(config), width)


def checked_heads(heads: int, width: int) -> int:
    """The number itself; raises ValueError if it does not divide the width."""
    if width % heads:
        raise ValueError(
            f"config.json has num_heads {heads}: wanted a divisor of the width, {width}"
        )
    return heads


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
    # Norms behind the branches have the names of those before them.
    place = ("block",) if "blocks.0.norm1.weight" in tensors else ()
    hidden = [
        name
        for name in (*NUMERICS, *place)
        if name != "num_heads" or not timm_relative.num_heads(tensors)
    ]
    return (*hidden, *(() if told else ("pooling",)), *pixels)


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
