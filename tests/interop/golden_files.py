"""The golden files of `tests/golden/`, made into checkpoints again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from golden.weights import random_tensor

from vit_jax.interop import (
    Loaded,
    files,
    huggingface,
    load_checkpoint,
    timm,
    timm_eva,
    torchvision,
    vit5,
)

GOLDEN = Path(__file__).parent.parent / "golden"
MODULES = {
    "timm": timm,
    "eva": timm_eva,
    "huggingface": huggingface,
    "torchvision": torchvision,
    "vit5": vit5,
}
# What a bare file does not have: other heads than usual, the size of a BiT's images.
TOLD: dict[str, dict[str, Any]] = {
    "timm_pre_logits": {"num_heads": 3},
    "timm_dinov2": {"num_heads": 3},
    "timm_bit": {"image_size": (38, 45)},
}


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def module_of(name: str) -> Any:
    """The layout of a golden file."""
    return MODULES[name.split("_")[0]]


def original(name: str) -> dict[str, np.ndarray]:
    """The tensors of a golden file, by the names of the original."""
    content = golden(name)
    fixed = content.get("fixed", {})
    return {
        name: np.float32(fixed[name])
        if name in fixed
        else random_tensor(name, tuple(shape))
        for name, shape in content["tensors"].items()
    }


def config_of(name: str) -> dict[str, Any]:
    content = golden(name)
    processor = content["preprocessor_config"]
    return content["config"] | ({"preprocessor_config": processor} if processor else {})


def load(
    name: str,
    folder: Path,
    tensors: dict[str, np.ndarray] | None = None,
    config: dict[str, Any] | None = None,
) -> Loaded:
    """The model of a golden file, perhaps with other tensors or another config."""
    tensors = original(name) if tensors is None else tensors
    files.write_folder(folder, tensors, config_of(name) if config is None else config)
    return load_checkpoint(folder, **TOLD.get(name, {}))
