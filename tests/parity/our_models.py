"""Models of vit_jax, with numerics of its own, written for timm and transformers."""

from pathlib import Path
from typing import Any

import numpy as np
from golden.weights import random_tensor
from parity import huggingface_originals, timm_originals
from parity.original import Original

from vit_jax.interop import Facts, named_layout, save_checkpoint
from vit_jax.interop.layout import parameter_shapes, read_params
from vit_jax.models import create_model

LOGITS = {
    "timm": timm_originals.logits,
    "huggingface": huggingface_originals.logits,
}
FACTS = Facts(
    tuple(f"class {i}" for i in range(1000)),
    "resize_small_center_crop",
    0.875,
    "bicubic",
)
# Layout, name, image size, options.
MODELS: list[tuple[str, str, tuple[int, int], dict[str, Any]]] = [
    (
        "timm",
        "ViT-S/16",
        (192, 256),
        {"num_registers": 4, "pixel_std": (0.2, 0.3, 0.4)},
    ),
    (
        "timm",
        "ViT-S/16",
        (224, 224),
        {"pooling": "gap", "class_token": "always", "norm_after_pooling": True},
    ),
    ("timm", "ViT-S/16", (192, 256), {"distillation_token": True}),
    ("timm", "Mixer-S/32", (192, 256), {"activation": "gelu", "token_mlp_dim": 77}),
    ("huggingface", "ViT-S/16", (192, 256), {"pixel_mean": (0.4, 0.5, 0.6)}),
    (
        "huggingface",
        "ViT-S/16",
        (224, 224),
        {"activation": "silu", "norm_epsilon": 0.01},
    ),
    ("huggingface", "ViT-S/16", (224, 224), {"pooling": "gap"}),
]


def write(layout: str, model: Any, folder: Path) -> None:
    """Random weights by the names of the layout, read as a file of it would be."""
    module = named_layout(layout)
    shapes = parameter_shapes(model)
    tensors = {}
    for rule in module.rules(model):
        zeros = (np.zeros(shapes[path], np.float32) for path in rule.ours)
        shape = rule.write(*zeros).shape
        tensors[rule.theirs] = random_tensor(rule.theirs, shape)
    tensors = module.canonical(tensors, module.config_for(model, FACTS))
    params = read_params(module, model, tensors)
    lost = save_checkpoint(folder, model, params, layout=layout, facts=FACTS)
    assert not lost, lost


def originals() -> list[Original]:
    found = []
    for layout, name, size, options in MODELS:
        model = create_model(
            name, num_classes=1000, image_size=size, dtype="float32", **options
        )
        label = f"{name} ({', '.join(options)})"
        found.append(
            Original(
                label,
                layout,
                size,
                lambda folder, a=layout, m=model: write(a, m, folder),
                LOGITS[layout],
            )
        )
    return found
