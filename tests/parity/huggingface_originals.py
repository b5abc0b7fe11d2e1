"""Models of transformers."""

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
# Class, what its configuration has beside the defaults.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("ViTForImageClassification", {"num_labels": 1000}),
    ("ViTModel", {}),
    ("Dinov2ForImageClassification", {"num_labels": 1000}),
    (
        "Dinov2WithRegistersForImageClassification",
        SMALL | {"num_labels": 1000, "patch_size": 14},
    ),
]


def write(kind: str, options: dict[str, Any], folder: Path) -> None:
    model_class = getattr(transformers, kind)
    model_class(model_class.config_class(**options)).save_pretrained(folder)
    if kind.startswith("ViT"):
        processor = transformers.ViTImageProcessor()
    else:
        processor = transformers.BitImageProcessor(
            size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
        )
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
    if not config["architectures"][0].endswith("ForImageClassification"):
        auto = transformers.AutoModel
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    size = getattr(processor, "crop_size", None) or processor.size
    assert (size["height"], size["width"]) == pixels.shape[1:3], size
    as_they_are = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale"), False)
    x = processor(list(pixels), return_tensors="pt", **as_they_are)["pixel_values"]
    out = model.eval()(x.float())
    return (out.logits if "logits" in out else out.pooler_output).numpy()


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
