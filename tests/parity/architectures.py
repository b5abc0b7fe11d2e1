"""Every ViT of timm, one block deep: the same logits, or refused by its name."""

import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import parity.operators  # noqa: F401
import timm
import torch
from golden.weights import random_pixels, random_tensor
from timm.models._hub import save_for_hf

from vit_jax.interop import load_checkpoint
from vit_jax.interop.timm_architectures import KNOWN
from vit_jax.interop.timm_blocks import EVA_ARCHITECTURES
from vit_jax.interop.timm_eva_config import ARCHITECTURES

PATTERNS = (
    *("vit_*", "deit*", "flexivit*", "test_vit*", "eva*", "beit*", "mixer*"),
    "resnetv2_*_bit",
)
MOST = 175_000_000  # parameters that are still tried: one block of DINOv3's 7B
# Features of a BiT's root and stages for each width factor: 32, or 96 in all.
ROOTS = {"1": 32, "2": 16, "3": 32, "4": 8}


def arguments(name: str) -> dict[str, Any]:
    """What makes a model small: one block, or fewer features where depth is fixed."""
    if bit := re.fullmatch(r"resnetv2_\d+x(\d)_bit", name):
        root = ROOTS[bit[1]]
        stages = tuple(4 * root * 2**stage for stage in range(4))
        return {"stem_chs": root, "channels": stages}
    return {"mlp_ratio": (0.5, 0.5)} if name.startswith("mixer") else {"depth": 1}


def small(name: str) -> torch.nn.Module | None:
    """The model with random weights, None if it is still too large."""
    with torch.device("meta"):
        try:
            model = timm.create_model(name, **arguments(name))
        except (TypeError, AssertionError):  # its depth is fixed
            return None
    if sum(x.numel() for x in model.parameters()) > MOST:
        return None
    return filled(timm.create_model(name, **arguments(name)))


def filled(model: torch.nn.Module) -> torch.nn.Module:
    model.eval()
    with torch.inference_mode():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(torch.from_numpy(random_tensor(key, tuple(tensor.shape))))
    return model


@torch.inference_mode()
def difference(name: str, model: Any) -> float | None:
    """Of the logits, over the largest; None if the checkpoint is refused."""
    facts, is_bit = model.pretrained_cfg, name.startswith("resnet")
    size = (128, 128) if is_bit else facts["input_size"][1:]
    pixels = random_pixels(size)[:1]
    x = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
    theirs = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=True)
        config = json.loads((Path(folder) / "config.json").read_text())
        # The tensors of a BiT show its features.
        config["model_args"] = {} if is_bit else arguments(name)
        config["pretrained_cfg"]["input_size"] = [3, *size]
        (Path(folder) / "config.json").write_text(json.dumps(config))
        try:
            loaded = load_checkpoint(Path(folder), dtype="float32")
        except ValueError:
            return None
        height, width = loaded.model.image_size  # whole patches
        ours = jax.jit(loaded.model.apply, static_argnames="train")(
            {"params": loaded.params}, 2 * pixels[:, :height, :width] - 1, train=False
        )[0]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def rows(only: str) -> Iterator[tuple[str, str, float]]:
    """Architecture, what became of it, and the difference, 0 if it is refused.

    One that is not tried must not be among those that are known.
    """
    for name in (name for p in PATTERNS for name in timm.list_models(p)):
        if only not in name:
            continue
        if (model := small(name)) is None:
            yield name, "not tried", math.inf if is_known(name) else 0.0
        else:
            found = difference(name, model)
            yield name, "refused" if found is None else "read", found or 0.0
        jax.clear_caches()


def is_known(name: str) -> bool:
    if EVA_ARCHITECTURES.match(name):
        return any(re.fullmatch(form, name) for form, _ in ARCHITECTURES)
    return bool(KNOWN.fullmatch(name))
