"""Writes the golden files of transformers, in the environment of `make parity`:

    PYTHONPATH=tests .venv-parity/bin/python -m golden.write_huggingface

The small models are saved by `save_pretrained`, and the logits are those of the models.
"""

import tempfile
from pathlib import Path
from typing import Any

import parity.operators  # noqa: F401
import torch
import transformers
from golden.originals import pixel_values, read_json, shapes_of, write_golden
from golden.weights import random_tensor
from safetensors.numpy import save_file

HALF, IMAGENET = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
VIT = SMALL | {"intermediate_size": 20, "image_size": 32, "patch_size": 8}
DINO = SMALL | {"mlp_ratio": 2, "image_size": 42, "patch_size": 14}
DINOV3 = VIT | {"hidden_size": 24, "image_size": [32, 48], "num_register_tokens": 2}
LABELS = {"id2label": dict(enumerate(["ant", "bee", "cat", "dog", "eel"]))}
OUTPUTS = ("logits", "image_embeds", "pooler_output")
# Model, arguments of its configuration, arguments of its image processor.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "vit": ("ViTForImageClassification", VIT | LABELS, {}),
    "vit_numerics": (
        "ViTForImageClassification",
        VIT
        | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 0.01}
        | {"qkv_bias": False, "image_size": [24, 40], "num_labels": 5},
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 3},
    ),
    "vit_pooler": ("ViTModel", VIT, None),
    "dinov2": ("Dinov2ForImageClassification", DINO | LABELS, {}),
    "dinov2_no_head": ("Dinov2Model", DINO, None),
    "dinov2_registers": (
        "Dinov2WithRegistersForImageClassification",
        DINO | LABELS | {"num_register_tokens": 4},
        {},
    ),
    "dinov2_swiglu": ("Dinov2Model", DINO | {"use_swiglu_ffn": True}, None),
    "dinov3": ("DINOv3ViTModel", DINOV3, None),
    "dinov3_gated": (
        "DINOv3ViTModel",
        DINOV3
        | {"use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 0}
        | {"query_bias": False, "value_bias": False, "rope_theta": 50.0},
        None,
    ),
    "deit": ("DeiTForImageClassificationWithTeacher", VIT | LABELS, None),
    "clip": ("CLIPVisionModelWithProjection", VIT | {"projection_dim": 5}, {}),
    "siglip": ("SiglipVisionModel", VIT, {}),
    "siglip_classes": (
        "SiglipForImageClassification",
        {"vision_config": VIT} | LABELS,
        {},
    ),
}


def processor(model: str, arguments: dict[str, Any], size: tuple[int, int]) -> Any:
    """The image processor that goes with the published checkpoints of a model."""
    sides = dict(zip(("height", "width"), size, strict=True))
    if model.startswith("ViT"):
        return transformers.ViTImageProcessor(size=sides, **arguments)
    if model.startswith("Siglip"):
        return transformers.SiglipImageProcessor(size=sides)
    kind = transformers.BitImageProcessor
    if model.startswith("CLIP"):
        kind = transformers.CLIPImageProcessor
    return kind(size={"shortest_edge": 48}, crop_size=sides)


def write(
    name: str, kind: str, options: dict[str, Any], processing: dict[str, Any] | None
) -> None:
    model_class = getattr(transformers, kind)
    size = options.get("vision_config", options)["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    mean, std = (HALF, HALF) if kind.startswith(("ViT", "DeiT")) else IMAGENET
    with tempfile.TemporaryDirectory() as folder:
        model_class(model_class.config_class(**options)).save_pretrained(folder)
        # By the names of the file, which are not those in memory.
        path = Path(folder) / "model.safetensors"
        shapes = shapes_of(path)
        tensors = {name: random_tensor(name, shape) for name, shape in shapes.items()}
        save_file(tensors, path, {"format": "pt"})
        model = model_class.from_pretrained(folder)
        if processing is not None:
            images = processor(kind, processing, size)
            images.save_pretrained(folder)
            mean, std = images.image_mean, images.image_std
        config = read_json(Path(folder) / "config.json")
        preprocessor_config = read_json(Path(folder) / "preprocessor_config.json")
    with torch.no_grad():
        out = model(pixel_values(size, mean, std))
    write_golden(
        f"huggingface_{name}",
        f"transformers {transformers.__version__}, {kind}",
        shapes,
        size,
        next(out[key] for key in OUTPUTS if out.get(key) is not None),
        config,
        preprocessor_config,
    )


if __name__ == "__main__":
    for name, arguments in MODELS.items():
        write(name, *arguments)
