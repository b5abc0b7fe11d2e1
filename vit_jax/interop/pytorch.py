"""What the layouts of PyTorch projects have in common: `timm`, `huggingface`,
`torchvision`."""

import logging
import re
from typing import Annotated, Any

import numpy as np

from vit_jax.interop.layout import Rule, Tensors, rearranged, same, square_image
from vit_jax.models import VisionTransformer
from vit_jax.models.variants import SIZES
from vit_jax.values import Condition, Range

logger = logging.getLogger(__name__)

Arguments = dict[str, Any]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
PARTS = ("query", "key", "value")
PIXELS = ("pixel_mean", "pixel_std")
NUMERICS = ("num_heads", "activation", "norm_epsilon")  # which tensors do not show

# What the fields of their configs may be.
Side = Annotated[int, Range(1, 2**14)]  # of an image, in pixels
Heads = Annotated[int, Range(1, 1024)]
Epsilon = Annotated[float, Range(0, 1, left_open=True)]
Temperature = Annotated[float, Range(0, 1e9, left_open=True)]
Level = Annotated[float, Range(-255, 255)]  # of a channel
Spread = Annotated[float, Range(0, 255, left_open=True)]
Means = tuple[Level, Level, Level]
Deviations = tuple[Spread, Spread, Spread]
ClassNames = Annotated[
    dict[str, str],
    Condition(
        'names by numbers, as {"0": "cat"}', lambda x: all(map(str.isdecimal, x))
    ),
]


def usual_heads(width: int) -> int:
    """Heads of the known size of that width; for others, one for 64 features.

    Tensors do not show it: the heads of a projection are side by side in one axis.
    """
    known = {size.width: size.num_heads for size in SIZES.values()}
    return known.get(width, max(width // 64, 1))


def depth(tensors: Tensors, blocks: str) -> int:
    """Number of blocks, whose names start with `blocks` and a number."""
    pattern = re.compile(re.escape(blocks) + r"(\d+)\.")
    return 1 + max(int(m[1]) for name in tensors if (m := pattern.match(name)))


def patch_size(kernel: Any) -> int:
    """Side of the patches of a convolution's weight, (out, in, height, width).

    Raises:
        ValueError: they are not square.
    """
    height, width = kernel.shape[2], kernel.shape[3]
    if height != width:
        raise ValueError(
            f"patches must be square, but those of the file are {height}x{width}"
        )
    return height


def grid_image(
    rows: int, patch: int, image_size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The image size of that many patches: the config's if it fits, or a square, or
    None.

    Whole patches only: SigLIP's So400m/14 is published for 384 pixels, and its
    convolution never sees the last 6.
    """
    if image_size:
        height, width = image_size[0] // patch, image_size[1] // patch
        if height * width == rows:
            whole = (height * patch, width * patch)
            if whole != tuple(image_size):
                logger.warning(
                    f"the config has images of {image_size[0]}x{image_size[1]} pixels, "
                    f"of which the original reads the first {whole[0]}x{whole[1]}, "
                    f"{height}x{width} whole patches: the model takes those"
                )
            return whole
    return square_image(rows, patch) if rows > 0 else None


def with_biases(tensors: Tensors, weights: str) -> dict[str, np.ndarray]:
    """The tensors, with zeros where weights whose names match have no bias."""
    complete = dict(tensors)
    for name, x in tensors.items():
        if re.search(weights, name):
            bias = name.removesuffix("weight") + "bias"
            complete.setdefault(bias, np.zeros(len(x), np.float32))
    return complete


def beside_defaults(options: Arguments) -> Arguments:
    """The options other than the defaults of `VisionTransformer`."""
    return {
        name: value
        for name, value in options.items()
        if not hasattr(VisionTransformer, name)
        or getattr(VisionTransformer, name) != value
    }


def check_kind(model: Any, layout: str, *kinds: type) -> None:
    """Raises ValueError for a model of a kind that a layout does not have."""
    if not isinstance(model, kinds):
        raise ValueError(
            f"the {layout} layout cannot hold a {type(model).__name__}: wanted a "
            + " or ".join(kind.__name__ for kind in kinds)
        )


def report_dropped(names: list[str]) -> None:
    if names:
        left_out = ", ".join(names)
        logger.info(f"{left_out}: left out, the logits do not depend on it")


def refuse(tensors: Tensors, unsupported: dict[str, str]) -> None:
    """Raises ValueError if there are tensors of parts that our models do not have.

    Args:
        unsupported: descriptions of parts by a pattern in their tensors' names.
    """
    for pattern, part in unsupported.items():
        names = [name for name in tensors if re.search(pattern, name)]
        if names:
            others = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise ValueError(
                f"the model has {part}, which vit_jax has not: "
                f"{', '.join(names[:2])}{others}"
            )


def fused_attention(names: str, out: str, ours: str, num_heads: int) -> list[Rule]:
    """Query, key and value in one weight and bias, and the projection behind.

    Args:
        names: name of weight and bias, with {} for `weight` and `bias`.
        out: name of the projection behind, without that.
    """
    return [
        *fused_parts(names, ours, PARTS, num_heads),
        *attention_out(out, ours, num_heads),
    ]


def fused_parts(
    names: str, ours: str, parts: tuple[str, ...], num_heads: int
) -> list[Rule]:
    """Some of query, key and value: weight (parts heads head_width, width), bias."""
    kernels = tuple(f"{ours}/{part}/kernel" for part in parts)
    biases = tuple(f"{ours}/{part}/bias" for part in parts)
    sizes = {"n": len(parts), "k": num_heads}
    return [
        rearranged(names.format("weight"), kernels, "(n k e) d -> n d k e", **sizes),
        rearranged(names.format("bias"), biases, "(n k e) -> n k e", **sizes),
    ]


def attention_part(theirs: str, ours: str, num_heads: int) -> list[Rule]:
    """One of query, key and value: weight (heads head_width, width) and bias."""
    weight, k = f"{theirs}.weight", num_heads
    return [
        rearranged(weight, f"{ours}/kernel", "(k e) d -> d k e", k=k),
        rearranged(f"{theirs}.bias", f"{ours}/bias", "(k e) -> k e", k=k),
    ]


def attention_out(theirs: str, ours: str, num_heads: int) -> list[Rule]:
    """The projection behind the heads: weight (width, heads head_width) and bias."""
    weight, kernel = f"{theirs}.weight", f"{ours}/out/kernel"
    return [
        rearranged(weight, kernel, "d (k e) -> k e d", k=num_heads),
        same(f"{theirs}.bias", f"{ours}/out/bias"),
    ]
