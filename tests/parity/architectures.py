"""Every ViT of timm, one block deep: the same logits, or refused by its name."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import parity.operators  # noqa: F401
import timm
import torch
from golden.weights import random_pixels, random_tensor
from timm.models._hub import save_for_hf

from vit_jax.interop import load_checkpoint

PATTERNS = ("vit_*", "deit*", "flexivit*", "test_vit*", "eva*", "beit*", "mixer*")
MOST = 150_000_000  # parameters of one block that are still tried


def small(name: str) -> torch.nn.Module | None:
    """The model with random weights, None if it is too large or of fixed depth."""
    with torch.device("meta"):
        try:
            model = timm.create_model(name, depth=1).eval()
        except TypeError:
            return None
    if sum(x.numel() for x in model.parameters()) > MOST:
        return None
    model = timm.create_model(name, depth=1).eval()
    with torch.inference_mode():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(torch.from_numpy(random_tensor(key, tuple(tensor.shape))))
    return model


@torch.inference_mode()
def difference(model: torch.nn.Module) -> float | None:
    """Of the logits, over the largest; None if the checkpoint is refused."""
    facts = model.pretrained_cfg
    pixels = random_pixels(facts["input_size"][1:])[:1]
    x = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
    theirs = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=True, model_args={"depth": 1})
        try:
            loaded = load_checkpoint(Path(folder), dtype="float32")
        except ValueError:
            return None
        ours = jax.jit(loaded.model.apply, static_argnames="train")(
            {"params": loaded.params}, 2 * pixels - 1, train=False
        )[0]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def rows(only: str) -> Iterator[tuple[str, str, float]]:
    """Architecture, what became of it, and the difference, 0 if it is refused."""
    for name in (name for p in PATTERNS for name in timm.list_models(p)):
        if only in name and (model := small(name)) is not None:
            found = difference(model)
            yield name, "refused" if found is None else "read", found or 0.0
            jax.clear_caches()
