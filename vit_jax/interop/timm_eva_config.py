"""The config.json of timm's class Eva, read and written.

Tensors do not show how positions turn: the architecture's name does, so that a file
without one is refused.
"""

import re
from typing import Any

from vit_jax.interop import timm_relative
from vit_jax.interop.layout import Facts, Tensors
from vit_jax.interop.timm_architectures import check_arguments
from vit_jax.interop.timm_blocks import has_own_gate
from vit_jax.interop.timm_config import Config, architecture, arguments, checked_heads
from vit_jax.interop.timm_written import pretrained_config, sizes
from vit_jax.models import VisionTransformer
from vit_jax.models.positions import LEARNED, ROTARY

CENTRED = {
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "eps": 1e-5,
}
SCALED = {"use_rot_pos_emb": True, "ref_feat_shape": 16}
ROPE_VIT = {
    "use_rot_pos_emb": True,
    "rope_grid_indexing": "xy",
    "rope_temperature": 100,
    "attn_type": "rope",
}
MIXED = {"rope_type": "mixed", "rope_temperature": 10}
# Arguments of the class by the architecture's name, where they change what is computed
# and no tensor shows it. `eps` is that of its norms, which no config has.
ARCHITECTURES: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"vit_\w+_patch16_(dinov3|dinov3_qkvb|lingbot)", CENTRED),
    (r"eva_giant_patch14_\w+", {}),
    (r"eva02_enormous_\w+", {"use_post_norm": True}),
    (r"eva02_(tiny|small|base|large)_\w+", SCALED),
    (r"vit_\w+_patch16_rope_reg\d_gap_256", SCALED | {"use_abs_pos_emb": False}),
    (r"vit_\w+_patch16_rope_224", ROPE_VIT | {"use_abs_pos_emb": False}),
    (r"vit_\w+_patch16_rope_ape_224", ROPE_VIT),
    (r"vit_\w+_rope_mixed_224", ROPE_VIT | MIXED | {"use_abs_pos_emb": False}),
    (r"vit_\w+_rope_mixed_ape_224", ROPE_VIT | MIXED),
    (r"beit(v2)?_(base|large)_patch16_\d+", {}),
)
DEFAULTS = {
    "use_rot_pos_emb": False,
    "use_abs_pos_emb": True,
    "use_post_norm": False,
    "rope_type": "cat",
    "rope_temperature": 10000,
    "rope_grid_indexing": "ij",
    "rope_grid_offset": 0,
    "rope_rotate_half": False,
    "ref_feat_shape": None,
    "attn_type": "eva",
    "eps": 1e-6,
}
# Heads of EVA's giant and enormous models and DINOv3's 7B; all others are 64 wide.
WIDE_HEADS = {1408: 16, 1792: 16, 4096: 32}
# The arguments that are read, and those that logits do not depend on or that tensors
# show.
ARGUMENTS = frozenset(DEFAULTS) | frozenset(
    "img_size patch_size in_chans num_classes global_pool embed_dim depth num_heads "
    "qkv_bias qkv_fused qk_norm mlp_ratio swiglu_mlp swiglu_align_to scale_mlp "
    "scale_attn_inner init_values class_token num_reg_tokens no_embed_class "
    "use_fc_norm use_pre_transformer_norm use_rel_pos_bias use_shared_rel_pos_bias "
    "rope_shift_coords rope_jitter_coords rope_rescale_coords dynamic_img_size "
    "drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate "
    "drop_path_rate head_init_scale".split()
)
# Written with all arguments given, an architecture stands for its epsilon alone.
WRITTEN = {1e-5: "vit_small_patch16_dinov3", 1e-6: "eva02_tiny_patch14_224"}


def class_arguments(config: dict[str, Any], *, needed: bool) -> dict[str, Any]:
    """What the class is made with, as far as tensors do not show it.

    Args:
        needed: whether a name is: not if tensors show the positions.

    Raises:
        ValueError: an architecture that is not known to be ours, or arguments of it.
    """
    name = architecture(config)
    if not (name or needed):
        return DEFAULTS
    known = [given for form, given in ARCHITECTURES if re.fullmatch(form, name)]
    if not known:
        raise ValueError(
            f"timm's {name or 'model without a name'} has the blocks of its class Eva, "
            "and no tensor shows how its positions turn: vit_jax knows DINOv3, EVA, "
            "EVA-02, RoPE-ViT and BEiT, by `architecture` in a config.json beside the "
            "weights"
        )
    check_arguments(name, arguments(config), ARGUMENTS)
    changed = {k: v for k, v in arguments(config).items() if k in DEFAULTS}
    found = DEFAULTS | known[0] | changed
    if (
        found["rope_type"] not in ("cat", "mixed", "dinov3")
        or found["rope_grid_offset"]
    ):
        raise ValueError(
            f"timm's {name} has positions of rope_type={found['rope_type']!r} and "
            f"rope_grid_offset={found['rope_grid_offset']}, which vit_jax has not: "
            "wanted cat, mixed or dinov3, and no offset"
        )
    return found


def rotary(given: dict[str, Any]) -> dict[str, Any]:
    """Options of the model for positions as timm's class is given them."""
    absolute = given["use_abs_pos_emb"]
    if not given["use_rot_pos_emb"]:
        return {"positions": "learned" if absolute else "none"}
    centred = given["rope_type"] == "dinov3"
    reference = given["ref_feat_shape"]
    if isinstance(reference, int):
        reference = (reference, reference)
    scaled = given["rope_type"] == "cat" and reference
    return {
        "positions": "learned_rope2d" if absolute else "rope2d",
        "rope_frequencies": "mixed" if given["rope_type"] == "mixed" else "axial",
        "rope_coordinates": "centred" if centred else "index",
        "rope_base": float(given["rope_temperature"]),
        "rope_layout": "half" if given["rope_rotate_half"] else "pairs",
        "rope_axes": {"ij": "yx", "xy": "xy"}[given["rope_grid_indexing"]],
        "rope_grid": tuple(reference) if scaled else (),
    }


def num_heads(tensors: Tensors, config: dict[str, Any], width: int) -> int:
    if "num_heads" in arguments(config):
        return checked_heads(arguments(config)["num_heads"], width)
    if shown := timm_relative.num_heads(tensors):
        return shown
    if "rope.freqs" in tensors:
        return tensors["rope.freqs"].shape[2]
    return WIDE_HEADS.get(width, max(width // 64, 1))


def eva_config(model: VisionTransformer, facts: Facts) -> Config:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`."""
    kind = "mixed" if model.rope_frequencies == "mixed" else "cat"
    if model.rope_coordinates == "centred":
        kind = "dinov3"
    gate = model.mlp == "swiglu" and has_own_gate(model)
    given = {
        **sizes(model),
        "class_token": model.has_class_token,
        "use_fc_norm": model.norm_after_pooling,
        "use_post_norm": model.block == "post_norm",
        "use_pre_transformer_norm": model.embedding_norm,
        "no_embed_class": not model.class_token_position,
        "num_reg_tokens": model.num_registers,
        "qkv_bias": model.qkv_bias != "none",
        "qkv_fused": not model.mlp_inner_norm,
        "attn_type": "rope" if model.qkv_bias == "qkv" else "eva",
        "qk_norm": model.qk_norm != "none",
        "swiglu_mlp": model.mlp == "swiglu",
        "swiglu_align_to": 8 if gate and not model.mlp_inner_norm else 0,
        "scale_mlp": model.mlp_inner_norm,
        "scale_attn_inner": model.attention_inner_norm,
        "init_values": model.layer_scale_init or None,
        "use_abs_pos_emb": model.positions in LEARNED,
        "use_rot_pos_emb": model.positions in ROTARY,
        "rope_type": kind,
        "rope_temperature": model.rope_base,
        "rope_rotate_half": model.rope_layout == "half",
        "rope_grid_indexing": {"yx": "ij", "xy": "xy"}[model.rope_axes],
        "ref_feat_shape": list(model.rope_grid) or None,
        "dynamic_img_size": False,
    }
    return pretrained_config(WRITTEN[model.norm_epsilon], model, facts, given)


def beit_config(model: VisionTransformer, facts: Facts) -> Config:
    """The same of timm's class Beit."""
    shared = model.positions_at == "shared"
    given = {
        **sizes(model),
        "use_fc_norm": model.norm_after_pooling,
        "init_values": model.layer_scale_init or None,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": not shared,
        "use_shared_rel_pos_bias": shared,
    }
    return pretrained_config("beit_base_patch16_224", model, facts, given)
