"""Writes the golden files of the vit5 layout, by the code of the paper's authors.

It is no package: a clone of wangf3014/ViT-5 is on the path, and einops beside what is
in the environment of `make parity`.

    PYTHONPATH=tests:CLONE .venv-parity/bin/python -m golden.write_vit5
"""

from functools import partial
from typing import Any

import parity.operators  # noqa: F401, before timm

# isort: split
import models_vit5
import torch
from golden.originals import fill, pixel_values, write_golden

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The arguments of `vit5_small` and its sisters, other sizes apart.
VIT5 = {
    "rope": True,
    "num_registers": 4,
    "reg_theta": 100,
    "qk_norm": True,
    "norm_layer": partial(models_vit5.RMSNorm, eps=1e-6),
    "flash": False,
}
# Heads of 32 features have frequencies that show how they are rounded.
SMALL = {"img_size": 24, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "vit5_small": {"num_classes": 5},
    # What its constructor takes and no named model has.
    "vit5_variant": {
        "num_classes": 0,
        "num_registers": 0,
        "ape": False,
        "qkv_bias": True,
        "qk_norm": False,
        "layer_scale": False,
        "img_size": 224,
        "patch_size": 56,
    },
}


def write(name: str, arguments: dict[str, Any]) -> None:
    model = models_vit5.vit_models(**VIT5 | SMALL | {"mlp_ratio": 2} | arguments)
    frequencies = {x: y.clone() for x, y in model.named_buffers()}
    fill(model).load_state_dict(frequencies, strict=False)
    side = arguments.get("img_size", SMALL["img_size"])
    logits = model(pixel_values((side, side), *IMAGENET))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    fixed = {name: x.tolist() for name, x in frequencies.items()}
    original = "wangf3014/ViT-5 b7b0796, models_vit5.py"
    write_golden(name, original, shapes, (side, side), logits, fixed=fixed)


if __name__ == "__main__":
    # Its rotary positions are made on a GPU, whatever the model is on.
    torch.Tensor.cuda = lambda self: self
    for variant, options in VARIANTS.items():
        write(variant, options)
