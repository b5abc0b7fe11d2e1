"""timm's architectures: which compute what our models do, and their own numerics."""

import re

from vit_jax.interop.pytorch import usual_heads

# Options that only timm's code has, by the beginning of the architecture's name.
HEADS = {"vit_base_patch16_gap": 16, "vit_giantopt_": 16}
GELU_TANH = re.compile(
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip"
    r"|vit_large_patch16_siglip_(gap_)?512"
)


def usual_heads_of(architecture: str, width: int) -> int:
    """Heads of an architecture whose config does not give them, "" for a bare file."""
    if architecture.startswith("test_vit"):
        return width // 32
    known = [heads for start, heads in HEADS.items() if architecture.startswith(start)]
    return known[0] if known else usual_heads(width)


def usual_activation(architecture: str) -> str:
    return "gelu_tanh" if GELU_TANH.match(architecture) else "gelu"
