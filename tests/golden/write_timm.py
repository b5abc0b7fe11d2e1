"""Writes the golden files of the timm layout, in the environment of `make parity`:

    PYTHONPATH=tests .venv-parity/bin/python -m golden.write_timm

The small models are made by timm's own constructors, saved by its own writer, and the
logits are its own.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import parity.operators  # noqa: F401
import timm
import torch
from golden.originals import fill, pixel_values, read_json, shapes_of, write_golden
from golden.weights import random_tensor
from timm.layers import StdConv2d
from timm.models._hub import save_for_hf
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

HALF, IMAGENET = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = {"embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
VIT = SMALL | {"img_size": 32, "patch_size": 8, "num_classes": 5}
# What differs from `vit_tiny_patch16_224` with the arguments above.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "token": ("vit_tiny_patch16_224", {}),
    "gap": ("vit_medium_patch16_reg4_gap_256", {"reg_tokens": 0, "fc_norm": True}),
    "gap_norm_first": ("vit_medium_patch16_gap_240", {"img_size": 40}),
    "gap_class_token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": [32, 48]}),
    "registers_placed": (
        "vit_so150m_patch16_reg4_gap_256",
        {"reg_tokens": 2, "act_layer": "gelu_tanh"},
    ),
    "registers_all_placed": (
        "vit_tiny_patch16_224",
        {"reg_tokens": 2, "fc_norm": True, "act_layer": "quick_gelu"},
    ),
    "layer_scale": ("deit3_small_patch16_224", {}),
    "map": ("vit_base_patch16_siglip_224", {"num_classes": 5}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "parallel": ("vit_base_patch16_xp_224", {}),
    "pairs": ("vit_small_patch16_18x2_224", {}),
    "post_norm": ("vit_base_patch16_rpn_224", {}),
    "swiglu": ("vit_giant_patch14_reg4_dinov2", {}),
    "map_registers": (
        "vit_base_patch16_siglip_gap_224",
        {"global_pool": "map", "reg_tokens": 2},
    ),
    "relative_mlp": (
        "vit_relpos_base_patch32_plus_rpn_256",
        {"img_size": [32, 48], "rel_pos_dim": 10},
    ),
    "relative_shared": (
        "vit_srelpos_small_patch16_224",
        {"rel_pos_dim": 10, "class_token": True, "global_pool": "token"},
    ),
    "relative_bias": (
        "vit_relpos_base_patch16_clsgap_224",
        {"rel_pos_type": "bias", "img_size": [32, 48]},
    ),
    "no_head": ("vit_small_patch14_dinov2", {"num_classes": 0}),
}
EVA: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov3": (
        "vit_huge_plus_patch16_dinov3",
        {"img_size": 256, "patch_size": 64, "embed_dim": 24, "num_classes": 0},
    ),
    "eva02": ("eva02_base_patch14_224", {"embed_dim": 24, "img_size": [32, 48]}),
    "beit": (
        "beit_base_patch16_224",
        {"embed_dim": 24, "init_values": 0.1, "img_size": [32, 48]},
    ),
    "beitv2": (
        "beitv2_large_patch16_224",
        {"embed_dim": 24, "num_classes": 0, "use_rel_pos_bias": False}
        | {"use_shared_rel_pos_bias": True},
    ),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {"img_size": [32, 48]}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "hybrid_root": (
        "vit_tiny_r_s16_p8_224",
        SMALL | {"img_size": 64, "num_classes": 5},
    ),
    "hybrid": (
        "vit_small_r26_s32_224",
        SMALL | {"img_size": 96, "num_classes": 5},
    ),
}


def write_with_config(name: str, architecture: str, arguments: dict[str, Any]) -> None:
    model = fill(timm.create_model(architecture, **arguments))
    data = timm.data.resolve_model_data_config(model)
    image_size = timm.layers.to_2tuple(arguments["img_size"])
    logits = model(pixel_values(image_size, data["mean"], data["std"]))
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=True)
        shapes = shapes_of(Path(folder) / "model.safetensors")
        config = read_json(Path(folder) / "config.json")
    original = f"timm {timm.__version__}, {architecture}"
    write_golden(name, original, shapes, image_size, logits, config)


def write_mixer() -> None:
    """Without a config: timm names no mixer so small."""
    model = MlpMixer(5, img_size=32, patch_size=8, num_blocks=2, embed_dim=12)
    logits = fill(model)(pixel_values((32, 32), HALF, HALF))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    original = f"timm {timm.__version__}, MlpMixer as in mixer_s16_224"
    write_golden("timm_mixer", original, shapes, (32, 32), logits)


def write_bit() -> None:
    """Two stages of a BiT; timm names none so small, so there is no config."""
    model = ResNetV2(
        layers=(2, 1),
        channels=(128, 256),
        stem_chs=32,
        num_classes=5,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
    )
    fill(model)
    # An odd side, so that padding to the right alone would show.
    logits = model(pixel_values((38, 45), HALF, HALF))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    original = f"timm {timm.__version__}, ResNetV2 as in resnetv2_50x1_bit"
    write_golden("timm_bit", original, shapes, (38, 45), logits)


def write_pre_logits() -> None:
    """A file of timm 0.4, whose tanh layer timm does not read any more."""
    model = fill(VisionTransformer(**VIT))
    names = {"pre_logits.fc.weight": (12, 12), "pre_logits.fc.bias": (12,)}
    weight, bias = (torch.from_numpy(random_tensor(*item)) for item in names.items())
    x = pixel_values((32, 32), HALF, HALF)
    representation = model.forward_head(model.forward_features(x), pre_logits=True)
    logits = model.head(torch.tanh(representation @ weight.T + bias))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    original = f"timm {timm.__version__}, with the pre-logits layer of 0.4"
    write_golden("timm_pre_logits", original, shapes | names, (32, 32), logits)


def write_dinov2() -> None:
    """Facebook's own names, as in dinov2_vits14_reg4_pretrain.pth, by timm's reader."""
    arguments = SMALL | {"img_size": 28, "patch_size": 14, "num_classes": 0}
    arguments |= {"reg_tokens": 3, "init_values": 1e-5}
    model = VisionTransformer(**arguments, no_embed_class=True)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    shapes["register_tokens"] = shapes.pop("reg_token")
    shapes |= {"mask_token": (1, 12), "pos_embed": (1, 5, 12)}
    tensors = {
        name: torch.from_numpy(random_tensor(name, shape))
        for name, shape in shapes.items()
    }
    model.load_state_dict(checkpoint_filter_fn(dict(tensors), model))
    logits = model.eval()(pixel_values((28, 28), *IMAGENET))
    original = f"timm {timm.__version__}, reading the names of facebookresearch/dinov2"
    write_golden("timm_dinov2", original, shapes, (28, 28), logits)


if __name__ == "__main__":
    for name, (architecture, arguments) in TRANSFORMERS.items():
        write_with_config(f"timm_{name}", architecture, VIT | arguments)
    for name, (architecture, arguments) in EVA.items():
        write_with_config(f"eva_{name}", architecture, VIT | arguments)
    for name, (architecture, arguments) in OTHERS.items():
        write_with_config(f"timm_{name}", architecture, arguments)
    write_mixer()
    write_bit()
    write_pre_logits()
    write_dinov2()
