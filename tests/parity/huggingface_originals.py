"""Models of transformers."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden.weights import random_tensor
from parity.original import Original
from safetensors.numpy import load_file, save_file

transformers.utils.logging.disable_progress_bar()

SMALL = {"hidden_size": 384, "num_attention_heads": 6}
TINY = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}
S_PLUS = SMALL | {"intermediate_size": 1536, "num_register_tokens": 4}
S_PLUS = S_PLUS | {"use_gated_mlp": True, "hidden_act": "silu"}
# Class, what its configuration has beside the defaults.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("ViTForImageClassification", {"num_labels": 1000}),
    ("ViTModel", {}),
    ("Dinov2ForImageClassification", {"num_labels": 1000}),
    (
        "Dinov2WithRegistersForImageClassification",
        SMALL | {"num_labels": 1000, "patch_size": 14},
    ),
    ("DeiTForImageClassificationWithTeacher", TINY | {"num_labels": 1000}),
    ("DINOv3ViTModel", S_PLUS),  # S+
    ("CLIPVisionModelWithProjection", {}),  # B/32
    ("SiglipVisionModel", {}),
    ("SiglipForImageClassification", {"num_labels": 1000}),
]
PROCESSORS = {
    "ViT": transformers.ViTImageProcessor,
    "DeiT": transformers.ViTImageProcessor,
    "DINOv3": transformers.DINOv3ViTImageProcessor,
    "CLIP": transformers.CLIPImageProcessor,
    "Siglip": transformers.SiglipImageProcessor,
    "Dinov2": functools.partial(
        transformers.BitImageProcessor,
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
    ),
}
OUTPUTS = ("logits", "image_embeds", "pooler_output")


def write(kind: str, options: dict[str, Any], folder: Path) -> None:
    model_class = getattr(transformers, kind)
    model_class(model_class.config_class(**options)).save_pretrained(folder)
    (processor,) = (x() for name, x in PROCESSORS.items() if kind.startswith(name))
    processor.save_pretrained(folder)
    # By the names of the file, which are not those in memory.
    path = folder / "model.safetensors"
    shapes = {name: tensor.shape for name, tensor in load_file(path).items()}
    tensors = {name: random_tensor(name, shape) for name, shape in shapes.items()}
    save_file(tensors, path, {"format": "pt"})


@torch.inference_mode()
def logits(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """By the classes that a user calls, with the processor of the folder."""
    config = json.loads((folder / "config.json").read_text())
    auto = transformers.AutoModelForImageClassification
    kind = config["architectures"][0]
    if "ForImageClassification" not in kind:
        auto = transformers.AutoModel
    if kind.endswith(("WithProjection", "WithTeacher")):
        auto = getattr(transformers, kind)
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    size = getattr(processor, "crop_size", None) or processor.size
    assert (size["height"], size["width"]) == pixels.shape[1:3], size
    as_they_are = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale"), False)
    x = processor(list(pixels), return_tensors="pt", **as_they_are)["pixel_values"]
    out = model.eval()(x.float())
    return next(out[name] for name in OUTPUTS if name in out).numpy()


def originals() -> list[Original]:
    return [
        Original(
            kind,
            "huggingface",
            (224, 224),
            lambda folder, a=kind, k=options: write(a, k, folder),
            logits,
        )
        for kind, options in MODELS
    ]
