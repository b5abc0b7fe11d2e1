"""Augmentation and regularisation as in "How to train your ViT" (arXiv 2106.10270).

    python -m vit_jax.train --workdir runs/b16_medium2 \\
        --config configs/augreg.py:model=ViT-B/16,aug=medium2,reg=yes

Arguments: `model`; `data`, imagenet2012 (the default) or imagenet21k; `epochs`, 300
(the default) or 30; `aug`, one of the seven presets below; `reg=yes` for dropout and
stochastic depth of 0.1; `wd`, 0.1 (the default) or 0.03. The default of `aug` is
big_vision's choice for the model (`vit_i1k.py`, `vit_i21k.py`). Batch 4096, Adam,
learning rate 1e-3, cosine, 10,000 steps of warm-up, gradients clipped at 1, Inception
crop and flip, sigmoid loss as in big_vision. The pre-logits layer is left out on
ImageNet-21k, as in the paper.

Expected: the table of configs/README.md. Not run by us.
"""

from typing import NamedTuple

import ml_collections

from configs import base, pretrain


class Preset(NamedTuple):
    """Operations and magnitude of RandAugment, and alpha of MixUp."""

    layers: int
    magnitude: float
    mixup: float


# Section 3.3. Magnitude 0 is not "no change", see `vit_jax/data/randaug.py`.
PRESETS = {
    "none": Preset(0, 0.0, 0.0),
    "light1": Preset(2, 0.0, 0.0),
    "light2": Preset(2, 10.0, 0.2),
    "medium1": Preset(2, 15.0, 0.2),
    "medium2": Preset(2, 15.0, 0.5),
    "strong1": Preset(2, 20.0, 0.5),
    "strong2": Preset(2, 20.0, 0.8),
}
# The default presets of big_vision; those of hybrids are the best of the paper's Fig. 4
# without regularisation, and on ImageNet-21k of its recommended checkpoints.
DEFAULT_PRESETS = {
    "imagenet2012": {
        "R+ViT-Ti/16": "light1",
        "ViT-Ti/16": "light1",
        "ViT-S/32": "medium1",
        "ViT-S/16": "medium2",
        "R26+ViT-S/32": "medium2",
        "ViT-B/32": "medium2",
        "ViT-B/16": "medium2",
        "ViT-L/16": "medium2",
        "R50+ViT-L/32": "medium1",
    },
    "imagenet21k": {
        "R+ViT-Ti/16": "none",
        "ViT-Ti/16": "none",
        "ViT-S/32": "none",
        "ViT-S/16": "light1",
        "R26+ViT-S/32": "light1",
        "ViT-B/32": "light2",
        "ViT-B/16": "light2",
        "ViT-L/16": "medium2",
        "R50+ViT-L/32": "medium1",
    },
}


def get_config(
    model: str = "ViT-B/16",
    data: str = "imagenet2012",
    epochs: str = "300",
    aug: str = "",
    reg: str = "no",
    wd: str = "0.1",
) -> ml_collections.ConfigDict:
    """One of the 28 settings of the paper's grid for a model and data set."""
    if data not in DEFAULT_PRESETS or reg not in ("yes", "no"):
        raise ValueError(
            f"data={data},reg={reg}: wanted data of {', '.join(DEFAULT_PRESETS)} and "
            "reg=yes or no"
        )
    aug = aug or DEFAULT_PRESETS[data].get(model, "")
    if aug not in PRESETS:
        raise ValueError(
            f"model={model},aug={aug}: there is no default for this model, or no such "
            f"preset; give aug= one of {', '.join(PRESETS)}"
        )
    preset = PRESETS[aug]
    config = base.get_config()
    pretrain.set_data(config, data)
    config.model.name = model
    config.loss.name = "sigmoid"
    if data == "imagenet2012":
        config.model.update(pre_logits=True, head_bias_init=-6.9)
    if reg == "yes":
        config.model.update(dropout_rate=0.1, stochastic_depth_rate=0.1)
    config.data.update(randaug_layers=preset.layers, randaug_magnitude=preset.magnitude)
    config.mix.mixup_alpha = preset.mixup
    config.optim.update(
        learning_rate=1e-3, weight_decay=float(wd), momentum_dtype="bfloat16"
    )
    config.train.duration = f"{epochs}epochs"
    return config
