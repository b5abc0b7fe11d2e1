"""Models of timm."""

from pathlib import Path
from typing import Any

import numpy as np
import parity.operators  # noqa: F401
import timm
import torch
from golden.weights import random_tensor
from parity.original import Original
from timm.models._hub import save_for_hf

from vit_jax.interop.timm_blocks import EVA_ARCHITECTURES

# Architecture, image size, arguments.
MODELS: list[tuple[str, tuple[int, int], dict[str, Any]]] = [
    ("vit_base_patch16_224", (224, 224), {}),
    ("vit_small_patch16_224", (160, 224), {"img_size": (160, 224)}),
    ("vit_large_patch32_384", (384, 384), {}),
    ("vit_base_patch16_siglip_224", (224, 224), {"num_classes": 1000}),
    ("vit_medium_patch16_reg4_gap_256", (256, 256), {}),
    ("vit_small_patch14_reg4_dinov2", (518, 518), {}),
    ("vit_base_patch14_dinov2", (224, 224), {"img_size": 224, "num_classes": 1000}),
    ("deit3_small_patch16_224", (224, 224), {}),
    ("vit_relpos_base_patch32_plus_rpn_256", (256, 256), {}),
    ("vit_srelpos_small_patch16_224", (224, 224), {}),
    ("beit_base_patch16_224", (224, 224), {}),
    ("vit_tiny_r_s16_p8_224", (224, 224), {}),
    ("vit_small_r26_s32_224", (224, 224), {}),
    ("vit_base_r50_s16_224", (224, 224), {}),
    ("resnetv2_50x1_bit", (224, 224), {}),
    ("mixer_b16_224", (224, 224), {}),
    ("deit_tiny_distilled_patch16_224", (224, 224), {}),
    ("vit_base_patch32_clip_224", (224, 224), {"num_classes": 512}),
    ("flexivit_small", (240, 240), {}),
    ("vit_small_patch16_18x2_224", (224, 224), {}),
    ("vit_base_patch16_xp_224", (224, 224), {}),
    ("vit_base_patch16_rpn_224", (224, 224), {}),
    ("vit_small_plus_patch16_dinov3", (256, 256), {}),
    ("eva02_tiny_patch14_224", (224, 224), {"num_classes": 1000}),
    ("vit_small_patch16_rope_mixed_224", (224, 224), {}),
]


@torch.inference_mode()
def write(architecture: str, arguments: dict[str, Any], folder: Path) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture, **arguments)
    model.to_empty(device="cpu")
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.from_numpy(random_tensor(name, tuple(tensor.shape))))
    save_for_hf(model, folder, safe_serialization=True)


@torch.inference_mode()
def logits(folder: Path, pixels: np.ndarray) -> np.ndarray:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert tuple(data["input_size"][1:]) == pixels.shape[1:3], data
    x = (pixels - np.float32(data["mean"])) / np.float32(data["std"])
    return model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def originals() -> list[Original]:
    return [
        Original(
            architecture,
            "timm_eva" if EVA_ARCHITECTURES.match(architecture) else "timm",
            size,
            lambda folder, a=architecture, k=arguments: write(a, k, folder),
            logits,
        )
        for architecture, size, arguments in MODELS
    ]
