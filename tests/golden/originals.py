"""What the scripts of this folder share: filling a torch model, writing a golden file.

A golden file is JSON: where it comes from, the names and shapes of the tensors that
the original project writes, the config files beside them, and the logits of
`random_pixels` with `random_tensor` weights, but for those that are `fixed`.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden.weights import random_pixels, random_tensor
from safetensors.numpy import load_file

HERE = Path(__file__).parent


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Gives a model its random weights and takes it out of training."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.from_numpy(random_tensor(name, tuple(tensor.shape))))
    return model.eval()


def pixel_values(
    image_size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """The random images as the original expects them: (2, 3, height, width)."""
    pixels = (random_pixels(image_size) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in load_file(path).items()}


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def write_golden(
    name: str,
    original: str,
    shapes: dict[str, tuple[int, ...]],
    image_size: tuple[int, int],
    logits: torch.Tensor,
    config: dict[str, Any] | None = None,
    preprocessor_config: dict[str, Any] | None = None,
    fixed: dict[str, list[float]] | None = None,
) -> None:
    """Writes a file; `fixed` has the tensors that are not random."""
    content = {
        "original": original,
        "config": config or {},
        "preprocessor_config": preprocessor_config or {},
        "tensors": {name: list(shape) for name, shape in sorted(shapes.items())},
        "image_size": list(image_size),
        "logits": logits.detach().numpy().round(7).tolist(),
    }
    if fixed:
        content["fixed"] = fixed
    text = json.dumps(content, indent=1)
    # A list of numbers on one line.
    text = re.sub(r"\[[-+.,e\d\s]+\]", lambda found: " ".join(found[0].split()), text)
    (HERE / f"{name}.json").write_text(text + "\n")
    print(f"{name}.json: {len(shapes)} tensors, {original}")
