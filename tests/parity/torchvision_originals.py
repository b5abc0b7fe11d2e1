"""Models of torchvision, as .pth files; ours are .safetensors."""

from pathlib import Path

import numpy as np
import parity.operators  # noqa: F401
import torch
import torchvision
from golden.weights import random_tensor
from parity.original import Original
from safetensors.torch import load_file

ARCHITECTURES = ("vit_b_16", "vit_l_32")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write(architecture: str, folder: Path) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(architecture).state_dict()
    tensors = {
        name: torch.from_numpy(random_tensor(name, tuple(tensor.shape)))
        for name, tensor in state.items()
    }
    torch.save(tensors, folder / "model.pth")


@torch.inference_mode()
def logits(architecture: str, folder: Path, pixels: np.ndarray) -> np.ndarray:
    with torch.device("meta"):
        model = torchvision.models.get_model(architecture)
    if (folder / "model.pth").exists():
        tensors = torch.load(folder / "model.pth", weights_only=True)
    else:
        tensors = load_file(folder / "model.safetensors")
    model.load_state_dict(tensors, strict=True, assign=True)
    x = (pixels - np.float32(MEAN)) / np.float32(STD)
    return model.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def originals() -> list[Original]:
    return [
        Original(
            architecture,
            "torchvision",
            (224, 224),
            lambda folder, a=architecture: write(a, folder),
            lambda folder, pixels, a=architecture: logits(a, folder, pixels),
        )
        for architecture in ARCHITECTURES
    ]
