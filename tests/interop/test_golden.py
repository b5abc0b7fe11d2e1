"""Checkpoints of other projects: logits of the original code.

`tests/golden/` has what the originals wrote and computed; no torch is needed here.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden.weights import random_pixels
from golden_files import GOLDEN, config_of, golden, load, module_of, original

from vit_jax.interop import Loaded, huggingface, load_checkpoint, save_checkpoint
from vit_jax.interop.layout import write_tensors

IMAGENET = {
    "pixel_mean": (0.485, 0.456, 0.406),
    "pixel_std": (0.229, 0.224, 0.225),
}
SMALL = {
    "num_classes": 5,
    "image_size": (32, 32),
    "patch_size": 8,
    "depth": 2,
    "width": 12,
    "mlp_dim": 24,
    "num_heads": 3,
}
PLAIN = SMALL | {"activation": "gelu"}
SCALED = {"layer_scale_init": 1e-5}
GAP = PLAIN | {"pooling": "gap"}
STEM = {
    "stem_norm_epsilon": 1e-5,
    "stem_std_epsilon": 0.0,
    "stem_variance_epsilon": 1e-8,
}
HF_VIT = PLAIN | {"mlp_dim": 20, "norm_epsilon": 1e-12}
DINO = PLAIN | {"image_size": (42, 42), "patch_size": 14, "layer_scale_init": 1.0}
CLIP = {
    "pixel_mean": (0.48145466, 0.4578275, 0.40821073),
    "pixel_std": (0.26862954, 0.26130258, 0.27577711),
}
SWIGLU = {"mlp": "swiglu"}
DINOV3 = SWIGLU | {
    "mlp_dim": 48,
    "norm_epsilon": 1e-5,
    "positions": "rope2d",
    "pooling": "gap",
    "class_token": "always",
    "num_registers": 4,
    "qkv_bias": "none",
}
VIT5 = (
    PLAIN
    | IMAGENET
    | {"width": 96, "mlp_dim": 192, "norm": "rmsnorm", "class_token_position": False}
    | {"rope_coordinates": "index", "rope_base": 10000.0, "rope_layout": "pairs"}
)
HF_DINOV3 = {
    **SMALL,
    **IMAGENET,
    "num_classes": 0,
    "image_size": (32, 48),
    "width": 24,
    "mlp_dim": 20,
    "norm_epsilon": 1e-5,
    "layer_scale_init": 1.0,
    "positions": "rope2d",
    "qkv_bias": "qv",
}
TORCHVISION = PLAIN | IMAGENET | {"width": 128, "mlp_dim": 20, "num_heads": 2}
# Attributes that are not the default of the model's class.
EXPECTED: dict[str, dict[str, Any]] = {
    "timm_token": PLAIN,
    "timm_gap": GAP | SCALED | {"norm_after_pooling": True},
    "timm_gap_norm_first": GAP | SCALED | {"image_size": (40, 40), "qkv_bias": "none"},
    "timm_gap_class_token": GAP | {"class_token": "always", "norm_after_pooling": True},
    "timm_registers": PLAIN
    | SCALED
    | IMAGENET
    | {"image_size": (32, 48), "num_registers": 4, "class_token_position": False},
    "timm_registers_placed": SMALL | {"pooling": "gap", "num_registers": 2},
    "timm_registers_all_placed": PLAIN
    | {"num_registers": 2, "activation": "quick_gelu", "norm_after_pooling": True},
    "timm_layer_scale": PLAIN | SCALED | IMAGENET | {"class_token_position": False},
    "timm_map": PLAIN | {"pooling": "map"},
    "timm_no_head": PLAIN | SCALED | IMAGENET | {"num_classes": 0},
    "timm_pre_logits": PLAIN | {"pre_logits": True},
    "timm_dinov2": PLAIN
    | SCALED
    | IMAGENET
    | {"num_classes": 0, "image_size": (28, 28), "patch_size": 14, "num_registers": 3},
    "timm_hybrid_root": PLAIN
    | STEM
    | {"image_size": (64, 64), "patch_size": 32, "resnet_stem": ()},
    "timm_hybrid": PLAIN
    | STEM
    | {"image_size": (96, 96), "patch_size": 32, "resnet_stem": (2, 2, 2, 2)},
    "eva_dinov3": PLAIN
    | SCALED
    | IMAGENET
    | DINOV3
    | {"num_classes": 0, "image_size": (256, 256), "patch_size": 64, "width": 24},
    "eva_eva02": PLAIN
    | CLIP
    | SWIGLU
    | {
        "image_size": (32, 48),
        "width": 24,
        "mlp_dim": 48,
        "positions": "learned_rope2d",
    }
    | {"rope_coordinates": "index", "rope_base": 10000.0, "rope_layout": "pairs"}
    | {"rope_grid": (16, 16), "qkv_bias": "qv", "mlp_inner_norm": True}
    | {"pooling": "gap", "class_token": "always", "norm_after_pooling": True},
    "eva_beit": GAP
    | {"image_size": (32, 48), "width": 24, "mlp_dim": 48, "layer_scale_init": 0.1}
    | {"positions": "relative_bias", "qkv_bias": "qv", "class_token": "always"}
    | {"norm_after_pooling": True},
    "eva_beitv2": GAP
    | IMAGENET
    | SCALED
    | {"num_classes": 0, "width": 24, "mlp_dim": 48, "positions_at": "shared"}
    | {"positions": "relative_bias", "qkv_bias": "qv", "class_token": "always"}
    | {"norm_after_pooling": True},
    "eva_rope_mixed": PLAIN
    | SCALED
    | IMAGENET
    | {"image_size": (32, 48), "positions": "rope2d", "rope_frequencies": "mixed"}
    | {"rope_coordinates": "index", "rope_base": 10.0, "rope_layout": "pairs"}
    | {"rope_axes": "xy"},
    "timm_relative_mlp": GAP
    | {"image_size": (32, 48), "positions": "relative_mlp", "relative_mlp_dim": 10}
    | {"block": "post_norm"},
    "timm_relative_shared": PLAIN
    | {"layer_scale_init": 1e-5, "qkv_bias": "none", "positions": "relative_mlp"}
    | {"positions_at": "shared", "relative_mlp_dim": 10},
    "timm_relative_bias": GAP
    | {"image_size": (32, 48), "layer_scale_init": 1e-5, "qkv_bias": "none"}
    | {"positions": "relative_bias", "class_token": "always"}
    | {"norm_after_pooling": True},
    "timm_clip": PLAIN
    | CLIP
    | {"activation": "quick_gelu", "embedding_norm": True, "norm_epsilon": 1e-5},
    "timm_distilled": PLAIN | IMAGENET | {"distillation_token": True},
    "timm_parallel": PLAIN
    | {"block": "parallel", "norm": "rmsnorm", "qk_norm": "rmsnorm"}
    | {"qkv_bias": "none", "embedding_norm": True, "class_token_position": False},
    "timm_pairs": PLAIN | SCALED | {"block": "pairs"},
    "timm_post_norm": GAP
    | {"block": "post_norm", "qkv_bias": "none", "norm_after_pooling": True},
    "timm_swiglu": SMALL
    | SCALED
    | IMAGENET
    | {"mlp": "swiglu", "mlp_dim": 12}
    | {"num_registers": 4, "class_token_position": False},
    "timm_map_registers": PLAIN
    | {"pooling": "map", "num_registers": 2, "map_reads": "patches"},
    "timm_bit": {
        "num_classes": 5,
        "image_size": (38, 45),
        "blocks": (2, 1),
        "width": 32,
        "variance_epsilon": 1e-8,
    },
    "timm_mixer": {
        "num_classes": 5,
        "image_size": (32, 32),
        "patch_size": 8,
        "depth": 2,
        "width": 12,
        "token_mlp_dim": 6,
        "channel_mlp_dim": 48,
        "activation": "gelu",
    },
    "huggingface_vit": HF_VIT,
    "huggingface_vit_numerics": SMALL
    | {
        "image_size": (24, 40),
        "mlp_dim": 20,
        "norm_epsilon": 0.01,
        "pixel_mean": (0.4, 0.5, 0.6),
        "pixel_std": (0.2, 0.3, 0.4),
    },
    "huggingface_vit_pooler": HF_VIT | {"num_classes": 0, "pre_logits": True},
    "huggingface_dinov2": DINO | CLIP | {"pooling": "token_gap"},
    "huggingface_dinov2_no_head": DINO | IMAGENET | {"num_classes": 0},
    "huggingface_dinov2_registers": DINO
    | CLIP
    | {"pooling": "token_gap", "num_registers": 4},
    "vit5_small": VIT5
    | {"image_size": (24, 24), "layer_scale_init": 1e-4}
    | {"positions": "learned_rope2d", "qkv_bias": "none", "qk_norm": "rmsnorm"}
    | {"num_registers": 4, "rope_register_base": 100.0},
    "vit5_variant": VIT5
    | {"num_classes": 0, "image_size": (224, 224), "patch_size": 56}
    | {"positions": "rope2d"},
    "huggingface_dinov2_swiglu": SMALL
    | IMAGENET
    | SWIGLU
    | {"num_classes": 0, "mlp_dim": 16, "layer_scale_init": 1.0}
    | {"image_size": (42, 42), "patch_size": 14},
    "huggingface_dinov3": HF_DINOV3 | {"activation": "gelu", "num_registers": 2},
    "huggingface_dinov3_gated": HF_DINOV3
    | SWIGLU
    | {"rope_base": 50.0, "qkv_bias": "none"},
    "huggingface_deit": HF_VIT | {"distillation_token": True},
    "huggingface_clip": HF_VIT
    | CLIP
    | {"activation": "quick_gelu", "embedding_norm": True, "norm_epsilon": 1e-5},
    "huggingface_siglip": SMALL | {"num_classes": 0, "mlp_dim": 20, "pooling": "map"},
    "huggingface_siglip_classes": SMALL | {"mlp_dim": 20, "pooling": "gap"},
    "torchvision_vit": TORCHVISION,
    "torchvision_vit_pre_logits": TORCHVISION | {"pre_logits": True},
}
# Float32 noise of the original itself in its 27 layers of convolutions: 9e-6.
TOLERANCE = {"timm_hybrid": 5e-5}
# timm names no model like these, so it could not load what would be written.
NOT_IN_TIMM = ("timm_bit", "timm_mixer", "timm_pre_logits")


def attributes(model: Any) -> dict[str, Any]:
    """The attributes that are not the default of the class."""
    return {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
        and getattr(model, field.name) != field.default
    }


def logits_of(loaded: Loaded, image_size: tuple[int, int]) -> np.ndarray:
    images = 2 * random_pixels(image_size) - 1
    return np.asarray(
        jax.jit(loaded.model.apply, static_argnames="train")(
            {"params": loaded.params}, images, train=False
        )[0]
    )


def assert_same_params(ours: Any, theirs: Any) -> None:
    """Equal bit for bit, zeros' signs included."""
    flat, other = (jax.tree_util.tree_leaves_with_path(x) for x in (ours, theirs))
    assert [path for path, _ in flat] == [path for path, _ in other]
    for (path, x), (_, y) in zip(flat, other, strict=True):
        assert x.dtype == y.dtype == np.float32, path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} - {"tensorflow_crops"} == set(
        EXPECTED
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_logits_are_the_originals(name: str, tmp_path: Path) -> None:
    content = golden(name)
    loaded = load(name, tmp_path)
    assert attributes(loaded.model) == EXPECTED[name]
    logits = logits_of(loaded, tuple(content["image_size"]))
    assert np.abs(content["logits"]).max() > 0.3
    np.testing.assert_allclose(
        logits, content["logits"], rtol=0, atol=TOLERANCE.get(name, 1e-5)
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_tensors_are_written_as_they_were(name: str, tmp_path: Path) -> None:
    """All but what is folded, filled in or left out on the way."""
    module, before = module_of(name), original(name)
    if name == "huggingface_siglip":  # published files have the prefix
        before = {f"vision_model.{tensor}": x for tensor, x in before.items()}
    if name == "huggingface_siglip_classes":
        before = {k: x for k, x in before.items() if "_model.head." not in k}
    loaded = load(name, tmp_path)
    after = write_tensors(module, loaded.model, loaded.params)
    no_bias = {x for x in after if x.endswith("bias") and x not in before}
    mask = {x for x in before | after if x.endswith("mask_token")}
    placed = "placed" in name or name == "timm_map_registers"
    folded = {"pos_embed", "reg_token"} if placed else set()
    renamed = {"pos_embed", "reg_token", "register_tokens"}
    changed = no_bias | mask | folded | (renamed if name == "timm_dinov2" else set())
    for tensor in no_bias | mask & after.keys():
        assert not after[tensor].any(), tensor
    assert after.keys() - changed == before.keys() - changed
    for tensor in before.keys() - changed:
        assert after[tensor].tobytes() == before[tensor].tobytes(), tensor


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in NOT_IN_TIMM])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    loaded = load(name, tmp_path / "original")
    layout = module_of(name).NAME
    file = tmp_path / "ours.safetensors"
    paths = [file] if layout == "torchvision" else [file, tmp_path / "ours"]
    for path in paths:
        lost = save_checkpoint(
            path, loaded.model, loaded.params, layout=layout, facts=loaded.facts
        )
        assert lost == {}
        again = load_checkpoint(path)
        assert again.model == loaded.model
        if loaded.facts.eval_crop:
            assert again.facts == loaded.facts
        assert_same_params(again.params, loaded.params)


@pytest.mark.parametrize("name", [x for x in EXPECTED if x.startswith("huggingface")])
def test_configs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    loaded, theirs = load(name, tmp_path), config_of(name)
    ours = huggingface.config_for(loaded.model, loaded.facts)
    if "clip" in name:  # a projection has no classes
        assert "id2label" not in ours
    elif not loaded.facts.label_names and loaded.model.num_classes:
        assert ours["id2label"]["4"] == "LABEL_4"
    # Its own spelling of equal things: labels by name, zeros for biases, no mask.
    for key in ("label2id", "qkv_bias", "use_mask_token"):
        ours.pop(key, None)
    processor, tower = ours.pop("preprocessor_config"), ours.pop("vision_config", {})
    assert {key: theirs[key] for key in ours} == ours
    if tower:  # of images alone, without what `SiglipForImageClassification` ignores
        assert tower.pop("vision_use_head") is False
        assert {key: theirs["vision_config"][key] for key in tower} == tower
    if "preprocessor_config" in theirs:
        preprocessor = theirs["preprocessor_config"]
        if "clip" in name or "siglip" in name:  # another name of the same processor
            processor["image_processor_type"] = preprocessor["image_processor_type"]
        assert {key: preprocessor[key] for key in processor} == processor
