"""Sizes of the Vision Transformers: one row a model.

A name is `ViT-<size>/<patch>`, for example `ViT-B/16`; any patch size goes with any
size. The number after the slash is the patch side in pixels.
"""

import difflib
import re
from typing import NamedTuple


class Size(NamedTuple):
    """Depth L, width D, MLP width M and heads k of the paper's Table 1."""

    depth: int
    width: int
    mlp_dim: int
    num_heads: int


SIZES = {
    "mu": Size(1, 32, 128, 2),  # for tests; big_vision
    "Ti": Size(12, 192, 768, 3),  # DeiT, arXiv 2012.12877, Table 1
    "S": Size(12, 384, 1536, 6),  # DeiT, arXiv 2012.12877, Table 1
    "M": Size(12, 512, 2048, 8),  # big_vision
    "B": Size(12, 768, 3072, 12),  # arXiv 2010.11929, Table 1
    "L": Size(24, 1024, 4096, 16),  # arXiv 2010.11929, Table 1
    "So400m": Size(27, 1152, 4304, 16),  # Getting ViT in Shape, arXiv 2305.13035
    "H": Size(32, 1280, 5120, 16),  # arXiv 2010.11929, Table 1
    "g": Size(40, 1408, 6144, 16),  # Scaling ViT, arXiv 2106.04560, Table 2
    "G": Size(48, 1664, 8192, 16),  # Scaling ViT, arXiv 2106.04560, Table 2
    "e": Size(56, 1792, 15360, 16),  # PaLI, arXiv 2209.06794
}


def parse_name(name: str) -> tuple[Size, int]:
    """Splits a model name into its size and its patch side in pixels.

    Raises:
        ValueError: the name is not `ViT-<size>/<patch>`; names the nearest sizes.
    """
    match = re.fullmatch(r"ViT-(\w+)/(\d+)", name)
    if match and match[1] in SIZES and int(match[2]) > 0:
        return SIZES[match[1]], int(match[2])
    patches = [match[2]] if match and int(match[2]) else (8, 14, 16, 32)
    known = {
        f"vit-{size}/{p}".lower(): f"ViT-{size}/{p}" for size in SIZES for p in patches
    }
    nearest = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.3)
    nearest = [known[key] for key in nearest] or ["ViT-B/16"]
    raise ValueError(
        f"unknown model {name!r}: wanted ViT-<size>/<patch> with a size of "
        f"{', '.join(SIZES)}. Did you mean {' or '.join(nearest)}?"
    )
