"""What the layouts of Google's two code bases have in common: Flax's names.

Their tensors have our shapes, so that rules only rename. The layouts `google` and
`big_vision` differ in numbering, in positions, and in the ResNets' names.
"""

import logging
import re
from typing import Any, NamedTuple

import numpy as np

from vit_jax.interop.files import FileError
from vit_jax.interop.layout import (
    Facts,
    Rule,
    Tensors,
    check_options,
    named,
    same,
    square_image,
    usual_image,
    vit_arguments,
)
from vit_jax.models import AnyModel, Mixer, VisionTransformer
from vit_jax.models.variants import MIXERS, MixerSize, Size

logger = logging.getLogger(__name__)

Arguments = dict[str, Any]


class Numbers(NamedTuple):
    """Numbers in the names of a block's parts; the first LayerNorm has 0."""

    attention: int
    norm: int
    mlp: int


# Flax before Linen numbers all parts of a block in one row, Linen each class apart.
ONE_ROW, EACH_CLASS = Numbers(1, 2, 3), Numbers(0, 1, 0)
KINDS = ("MultiHeadDotProductAttention", "LayerNorm", "MlpBlock")
PART = re.compile(rf"(Transformer/encoderblock_\d+/)({'|'.join(KINDS)})_(\d+)/")
NORM_IN_TRUNK = re.compile(r"(^|/)gn(\d|_root|_proj)/(scale|bias)$")


def weights(tensors: Tensors) -> Tensors:
    """The parameters, out of the wrapper of a training checkpoint.

    Raises:
        FileError: they are those of several models, such as two towers.
    """
    for prefix in ("opt/target/", "params/"):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
    towers = {name.split("/")[0] for name in tensors} & {"img", "txt"}
    if len(towers) == 2:
        raise FileError(
            "the checkpoint holds an image and a text tower: name one of them behind "
            "the file, as in checkpoint.npz:img"
        )
    return tensors


def report_dropped(before: Tensors, after: Tensors) -> None:
    dropped = len(before) - len(after)
    if dropped:
        logger.info(
            f"{dropped} tensors beside the parameters (optimizer state) are ignored"
        )


def flat_norms(tensors: Tensors) -> dict[str, np.ndarray]:
    """GroupNorms of old files, (1, 1, 1, c), as (c,) like those of new ones."""
    return {
        name: x.reshape(-1) if NORM_IN_TRUNK.search(name) and x.ndim == 4 else x
        for name, x in tensors.items()
    }


def renumbered(tensors: Tensors, old: Numbers, new: Numbers) -> dict[str, np.ndarray]:
    """The tensors with the parts of their blocks numbered in another way."""
    counts = dict(zip(KINDS, zip(old, new, strict=True), strict=True))

    def rename(match: re.Match) -> str:
        before, after = counts[match[2]]
        number = after if int(match[3]) == before else match[3]
        return f"{match[1]}{match[2]}_{number}/"

    return {PART.sub(rename, name): tensor for name, tensor in tensors.items()}


def dense(theirs: str, ours: str) -> list[Rule]:
    return [same(f"{theirs}/{part}", f"{ours}/{part}") for part in ("kernel", "bias")]


def norm(theirs: str, ours: str) -> list[Rule]:
    return [same(f"{theirs}/{part}", f"{ours}/{part}") for part in ("scale", "bias")]


def attention(theirs: str, ours: str) -> list[Rule]:
    parts = ("query", "key", "value", "out")
    return [
        rule for part in parts for rule in dense(f"{theirs}/{part}", f"{ours}/{part}")
    ]


def mlp(theirs: str, ours: str) -> list[Rule]:
    return [
        *dense(f"{theirs}/Dense_0", f"{ours}/hidden"),
        *dense(f"{theirs}/Dense_1", f"{ours}/out"),
    ]


def vit_rules(model: VisionTransformer, numbers: Numbers) -> list[Rule]:
    """The rules of a ViT but for positions and the ResNet stem."""
    rules = dense("embedding", "embedding")
    if model.has_class_token:
        rules.append(same("cls", "class_token"))
    for i in range(model.depth):
        theirs, ours = f"Transformer/encoderblock_{i}", f"encoder/block_{i:02d}"
        heads = f"{theirs}/MultiHeadDotProductAttention_{numbers.attention}"
        rules += norm(f"{theirs}/LayerNorm_0", f"{ours}/attention_norm")
        rules += attention(heads, f"{ours}/attention")
        rules += norm(f"{theirs}/LayerNorm_{numbers.norm}", f"{ours}/mlp_norm")
        rules += mlp(f"{theirs}/MlpBlock_{numbers.mlp}", f"{ours}/mlp")
    rules += norm("Transformer/encoder_norm", "encoder/norm")
    if model.pre_logits:
        rules += dense("pre_logits", "pre_logits")
    return rules + head_rules(model)


def head_rules(model: AnyModel) -> list[Rule]:
    return dense("head", "head") if model.num_classes else []


def check_vit(
    model: VisionTransformer, layout: str, allowed: dict[str, tuple[Any, ...]]
) -> None:
    """Checks that a layout's code has the options of a model.

    Args:
        allowed: values of attributes that this layout has, beside those of both.

    Raises:
        ValueError: it does not have one of them.
    """
    both = {
        "positions_at": ("stem",),
        "attention": ("full",),
        "norm_after_pooling": (False,),
        "layer_scale_init": (0.0,),
        "num_registers": (0,),
    }
    if model.class_token == "always":
        allowed = allowed | {"pooling": ("token",)}
    check_options(model, layout, **(allowed | both))


def stage_rules(blocks: tuple[int, ...], digits: int = 1) -> list[Rule]:
    """The v1 units of a trunk, numbered with so many digits."""
    rules = []
    for name, ours in units(blocks, digits):
        for i in (1, 2, 3):
            rules.append(same(f"{name}/conv{i}/kernel", f"{ours}/conv{i}/kernel"))
            rules += norm(f"{name}/gn{i}", f"{ours}/norm{i}")
        if ours.endswith("_01"):
            rules.append(same(f"{name}/conv_proj/kernel", f"{ours}/shortcut/kernel"))
            rules += norm(f"{name}/gn_proj", f"{ours}/shortcut_norm")
    return rules


def trunk_rules(blocks: tuple[int, ...]) -> list[Rule]:
    """A v1 trunk: the stem of the hybrids, and big_vision's `bit.py`."""
    root = same("conv_root/kernel", "resnet/root/kernel")
    return [root, *norm("gn_root", "resnet/root_norm"), *stage_rules(blocks)]


def units(blocks: tuple[int, ...], digits: int) -> list[tuple[str, str]]:
    """Pairs of their and our names of the units."""
    return [
        (f"block{s}/unit{u:0{digits}d}", f"resnet/stage_{s}/unit_{u:02d}")
        for s, count in enumerate(blocks, 1)
        for u in range(1, count + 1)
    ]


def count_blocks(tensors: Tensors, prefix: str = "") -> tuple[int, ...]:
    """Units in each stage, from names like `block1/unit03/...`."""
    pattern = re.compile(re.escape(prefix) + r"block(\d+)/unit0*(\d+)/")
    units = {(int(m[1]), int(m[2])) for name in tensors if (m := pattern.match(name))}
    stages = max((stage for stage, _ in units), default=0)
    return tuple(
        max((unit for s, unit in units if s == stage), default=0)
        for stage in range(1, stages + 1)
    )


def depth(tensors: Tensors, blocks: str) -> int:
    """Number of blocks, whose names start with `blocks` and a number."""
    numbered = re.compile(re.escape(blocks) + r"(\d+)/")
    numbers = [int(m[1]) for name in tensors if (m := numbered.match(name))]
    return 1 + max(numbers, default=-1)


def num_classes(tensors: Tensors) -> int:
    return tensors["head/kernel"].shape[-1] if "head/kernel" in tensors else 0


def vit_shape(tensors: Tensors, numbers: Numbers) -> tuple[Arguments, int]:
    """Arguments for size, stem, head, and the patch size, from names and shapes."""
    side, width = (tensors["embedding/kernel"].shape[i] for i in (0, -1))
    block = "Transformer/encoderblock_0"
    heads = f"{block}/MultiHeadDotProductAttention_{numbers.attention}/query/kernel"
    hidden = f"{block}/MlpBlock_{numbers.mlp}/Dense_0/kernel"
    size = Size(
        depth=depth(tensors, "Transformer/encoderblock_"),
        width=width,
        mlp_dim=tensors[hidden].shape[1],
        num_heads=tensors[heads].shape[1],
    )
    options = {"num_classes": num_classes(tensors)}
    if "conv_root/kernel" in tensors:
        stem = count_blocks(tensors)
        side *= 4 * 2 ** max(len(stem) - 1, 0)
        options |= {
            "resnet_stem": stem,
            "stem_width": tensors["conv_root/kernel"].shape[-1],
        }
    if "pre_logits/kernel" in tensors:
        options["pre_logits"] = True
    return vit_arguments(size, side) | options, side


def is_mixer(tensors: Tensors) -> bool:
    return {"stem/kernel", "pre_head_layer_norm/scale"} <= tensors.keys()


def mixer_arguments(tensors: Tensors) -> Arguments:
    side, width = (tensors["stem/kernel"].shape[i] for i in (0, -1))
    token_mlp = tensors["MixerBlock_0/token_mixing/Dense_0/kernel"]
    patches, token_mlp_dim = (token_mlp.shape[i] for i in (0, 1))
    size = MixerSize(
        depth=depth(tensors, "MixerBlock_"),
        width=width,
        token_mlp_dim=token_mlp_dim,
        channel_mlp_dim=tensors["MixerBlock_0/channel_mixing/Dense_0/bias"].shape[0],
    )
    return {
        **named("Mixer", MIXERS, size, side),
        "num_classes": num_classes(tensors),
        "image_size": square_image(patches, side),
    }


def mixer_rules(model: Mixer) -> list[Rule]:
    """One set of names in vision_transformer and in big_vision."""
    rules = dense("stem", "embedding")
    for i in range(model.depth):
        theirs, ours = f"MixerBlock_{i}", f"encoder/block_{i:02d}"
        rules += norm(f"{theirs}/LayerNorm_0", f"{ours}/token_norm")
        rules += mlp(f"{theirs}/token_mixing", f"{ours}/token_mlp")
        rules += norm(f"{theirs}/LayerNorm_1", f"{ours}/channel_norm")
        rules += mlp(f"{theirs}/channel_mixing", f"{ours}/channel_mlp")
    return rules + norm("pre_head_layer_norm", "encoder/norm") + head_rules(model)


def bit_arguments(blocks: tuple[int, ...], width: int, version: str) -> Arguments:
    """Arguments of a ResNet, whose file has no image size."""
    options = {"blocks": blocks, "width": width, "version": version}
    return {"name": "BiT-R50x1", "image_size": usual_image(32), **options}


def facts(tensors: Tensors, config: dict[str, Any]) -> Facts:  # noqa: ARG001
    """Empty: these files hold nothing but weights."""
    return Facts()


def config_for(model: AnyModel, facts: Facts) -> dict[str, Any]:  # noqa: ARG001
    """The layout has no config."""
    return {}
