"""timm's architectures: which compute what our models do, and their own numerics."""

import re
from collections.abc import Iterable
from typing import Any

from vit_jax.interop.pytorch import usual_heads
from vit_jax.models.timm_names import GELU_TANH

# The architectures whose logits ours have been compared with, by `make parity`. Names
# of another kind are refused, even if the tensors would fit.
KNOWN = re.compile(
    r"""
    vit_(tiny|small|medium|mediumd|betwixt|base|large|huge|giant|gigantic|little|wee
        |so150m|so150m2|so400m|giantopt|xsmall)
        _patch\d+(_plus)?
        (_reg\d)?(_gap|_dinov2|_tipsv2|_siglip|_siglip_gap|_clip|_clip_quickgelu
            |_rpn|_xp|_18x2|_36x1)?
        (_\d+)?(_miil|_in21k|_sam|_dino)?
    | vit_(tiny|small|base|large)_r(_|26_|50_)s(16|32)(_p8)?_(224|384)(_in21k)?
    | deit_(tiny|small|base)(_distilled)?_patch16_(224|384)
    | deit3_(small|medium|base|large|huge)_patch1[46]_(224|384)(_in21ft1k)?
    | vit_s?relpos_(small|medium|base)_patch\d+(_plus)?(_cls|_clsgap)?(_rpn)?_\d+
    | flexivit_(small|base|large)
    | beit3_(base|large|giant)_patch1[46]_\d+
    | test_vit(2|_relpos)?
    | mixer_[a-z]\d\d_224(_in21k|_miil|_miil_in21k)?
    | resnetv2_(50|101|152)x\d_bitm?(_in21k)?
    """,
    re.VERBOSE,
)
# The arguments of its models that are read, and those that a loaded model's logits do
# not depend on or that tensors show.
ARGUMENTS = frozenset(
    "img_size patch_size in_chans num_classes global_pool embed_dim depth num_heads "
    "mlp_ratio qkv_bias proj_bias init_values class_token pos_embed no_embed_class "
    "reg_tokens pre_norm fc_norm act_layer dynamic_img_size strict_img_size drop_rate "
    "pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate "
    "weight_init fix_init num_blocks qk_norm scale_attn_norm scale_mlp_norm "
    "pool_include_prefix norm_layer rel_pos_type rel_pos_dim shared_rel_pos".split()
)
# Options that only timm's code has, by the beginning of the architecture's name.
HEADS = {"vit_base_patch16_gap": 16, "vit_giantopt_": 16}


def usual_heads_of(architecture: str, width: int) -> int:
    """Heads of an architecture whose config does not give them, "" for a bare file."""
    if architecture.startswith("test_vit"):
        return width // 32
    known = [heads for start, heads in HEADS.items() if architecture.startswith(start)]
    return known[0] if known else usual_heads(width)


def usual_activation(architecture: str) -> str:
    return "gelu_tanh" if GELU_TANH.match(architecture) else "gelu"


def check_architecture(config: dict[str, Any]) -> None:
    """Raises ValueError if a config names what is not known to be one of our models.

    The tensors alone do not tell: rotary positions, the place of the norms and so on
    have none of their own.
    """
    name, kind = config.get("architecture", ""), config.get("model_type", "")
    if kind and kind != "timm_wrapper" and not name:
        raise ValueError(
            f"config.json names model_type {kind!r}, whose tensors have timm's names, "
            "and which is not known to compute what one of our models does"
        )
    if name and not KNOWN.fullmatch(name.partition(".")[0]):
        raise ValueError(
            f"config.json names timm's architecture {name!r}, which is not known to "
            "compute what one of our models does, so it is not loaded"
        )
    check_arguments(name, config.get("model_args", {}), ARGUMENTS)


def check_arguments(name: str, given: Iterable[str], known: frozenset[str]) -> None:
    """Raises ValueError for arguments of timm's class that are not read."""
    if unknown := sorted(set(given) - known):
        raise ValueError(
            f"config.json has the model_args {', '.join(unknown)}, which can change "
            f"what {name} computes and are not read: wanted no others than "
            f"{', '.join(sorted(known))}"
        )
