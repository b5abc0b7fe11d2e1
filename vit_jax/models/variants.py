"""Sizes of all models: one row a model, and what a name stands for.

    ViT-<size>/<patch>       ViT-B/16     any patch size in pixels
    Axial-ViT-<size>/<patch> Axial-ViT-B/32   row and column attention, appendix D.6
    <stem>+ViT-<size>/<n>    R50+ViT-B/16     hybrids: `STEMS`
    BiT-R<depth>x<factor>    BiT-R50x1        64 times the factor features at the root
    AxialResNet-<depth>      AxialResNet-50   appendix D.6
    Mixer-<size>/<patch>     Mixer-B/16       any patch size in pixels

Sizes of ViTs are in `SIZES`, of Mixers in `MIXERS`, depths of ResNets in `BLOCKS`.
timm's names of the same models are in `models/timm_names.py`.
"""

import difflib
import re
from typing import Any, NamedTuple


class Size(NamedTuple):
    """Depth L, width D, MLP width M and heads k of the paper's Table 1."""

    depth: int
    width: int
    mlp_dim: int
    num_heads: int


class MixerSize(NamedTuple):
    """Layers, hidden size C and MLP widths D_S and D_C of the Mixer's Table 1."""

    depth: int
    width: int
    token_mlp_dim: int
    channel_mlp_dim: int


class Stem(NamedTuple):
    """Units in each stage of a hybrid's ResNet, and pixels a side of a token."""

    blocks: tuple[int, ...]
    patch_size: int


SIZES = {
    "mu": Size(1, 32, 128, 2),  # for tests; big_vision
    "Ti": Size(12, 192, 768, 3),  # DeiT, arXiv 2012.12877, Table 1
    "S": Size(12, 384, 1536, 6),  # DeiT, arXiv 2012.12877, Table 1
    # B with all hidden widths halved, arXiv 2010.11929, Fig. 4. The heads are not
    # stated; with 64 features in each, as in B, it is the same model as S.
    "b": Size(12, 384, 1536, 6),
    "M": Size(12, 512, 2048, 8),  # big_vision
    "B": Size(12, 768, 3072, 12),  # arXiv 2010.11929, Table 1
    "L": Size(24, 1024, 4096, 16),  # arXiv 2010.11929, Table 1
    "So400m": Size(27, 1152, 4304, 16),  # Getting ViT in Shape, arXiv 2305.13035
    "H": Size(32, 1280, 5120, 16),  # arXiv 2010.11929, Table 1
    "g": Size(40, 1408, 6144, 16),  # Scaling ViT, arXiv 2106.04560, Table 2
    "G": Size(48, 1664, 8192, 16),  # Scaling ViT, arXiv 2106.04560, Table 2
    "e": Size(56, 1792, 15360, 16),  # PaLI, arXiv 2209.06794
}
# arXiv 2105.01601, Table 1
MIXERS = {
    "S": MixerSize(8, 512, 256, 2048),
    "B": MixerSize(12, 768, 384, 3072),
    "L": MixerSize(24, 1024, 512, 4096),
    "H": MixerSize(32, 1280, 640, 5120),
}
# Units in each stage; big_vision `bit.py`.
BLOCKS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
FACTORS = (1, 2, 3, 4)
# By the name's first part and last number; google-research/vision_transformer,
# `configs/models.py`. In R50 at 16, stage 4's units are in stage 3 (section 4.1).
STEMS = {
    ("R50", 32): Stem(BLOCKS[50], 32),
    ("R50", 16): Stem((3, 4, 9), 16),
    ("R26", 32): Stem(BLOCKS[26], 32),
    # Root block (stride 4) and patches of 8 x 8 features: 32 pixels, against the name.
    ("R", 16): Stem((), 32),
}
AXIAL_HEADS = 8  # Axial-DeepLab, arXiv 2003.07853


def parse_name(name: str) -> tuple[str, dict[str, Any]]:
    """What a model's name says: its family, and that family's attributes.

    Returns:
        `vit`, `resnet` or `mixer`, and the attributes of that class as plain values.

    Raises:
        ValueError: no such model; names the nearest ones.
    """
    if match := re.fullmatch(r"(?:(Axial)-|(R\d*)\+)?ViT-(\w+)/(\d+)", name):
        axial, stem, size, patch = match.groups()
        number = int(patch)
        if size in SIZES and number and (not stem or (stem, number) in STEMS):
            options = {"patch_size": number, **SIZES[size]._asdict()}
            if axial:
                options |= {"attention": "axial", "pooling": "gap"}
            if stem:
                blocks, patch_size = STEMS[stem, number]
                options |= {"patch_size": patch_size, "resnet_stem": blocks}
            return "vit", options
    if match := re.fullmatch(r"BiT-R(\d+)x(\d)", name):
        depth, factor = int(match[1]), int(match[2])
        if depth in BLOCKS and factor in FACTORS:
            width = 64 * factor
            return "resnet", dict(blocks=BLOCKS[depth], width=width, version="v2")
    if match := re.fullmatch(r"AxialResNet-(\d+)", name):
        if (depth := int(match[1])) in BLOCKS:
            options = dict(version="v1", axial_heads=AXIAL_HEADS)
            return "resnet", {"blocks": BLOCKS[depth], "width": 64, **options}
    if match := re.fullmatch(r"Mixer-(\w+)/(\d+)", name):
        if match[1] in MIXERS and (patch := int(match[2])):
            return "mixer", {"patch_size": patch, **MIXERS[match[1]]._asdict()}
    raise ValueError(unknown_name(name))


def names(family: str, patch_size: int = 0) -> list[str]:
    """All names of a family whose tokens stand for so many pixels a side.

    Args:
        patch_size: of `vit` and `mixer`.
    """
    if family == "resnet":
        bits = [f"BiT-R{depth}x{factor}" for depth in BLOCKS for factor in FACTORS]
        return bits + [f"AxialResNet-{depth}" for depth in BLOCKS]
    if family == "mixer":
        return [f"Mixer-{size}/{patch_size}" for size in MIXERS]
    plain = [f"{kind}ViT-{{}}/{patch_size}" for kind in ("", "Axial-")]
    hybrids = [
        f"{stem}+ViT-{{}}/{number}"
        for (stem, number), row in STEMS.items()
        if row.patch_size == patch_size
    ]
    return [name.format(size) for name in plain + hybrids for size in SIZES]


def unknown_name(name: str) -> str:
    """An error message with the names most like it, whatever their case."""
    number = re.search(r"/0*([1-9]\d*)$", name)
    patches = {int(number[1])} if number else set()
    known: dict[str, str] = {}
    for patch in sorted(patches | {8, 14, 16, 32}):
        for family in ("vit", "mixer", "resnet"):
            for candidate in names(family, patch):
                # Of names that differ in case alone, such as b and B, the last.
                known[candidate.lower()] = candidate
    nearest = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.3)
    nearest = [known[key] for key in nearest] or ["ViT-B/16"]
    return (
        f"unknown model {name!r}: wanted a name such as ViT-B/16, R50+ViT-B/16, "
        "Axial-ViT-B/32, BiT-R50x1, AxialResNet-50 or Mixer-B/16, with a ViT size of "
        f"{', '.join(SIZES)}. Did you mean {' or '.join(nearest)}?"
    )
