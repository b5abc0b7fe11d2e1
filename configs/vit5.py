"""Nearly the recipe of ViT-5 (arXiv 2602.08071): today's parts in a plain ViT.

    python -m vit_jax.train --config configs/vit5.py:model=ViT-B/16 --workdir runs/b
    python -m vit_jax.convert --checkpoint runs/b b.safetensors --layout vit5 --ema
    python -m vit_jax.train --workdir runs/b224 --init b.safetensors \\
        --config configs/vit5.py:model=ViT-B/16,stage=finetune

Arguments: `model`, ViT-S/16, ViT-B/16 or ViT-L/16; `epochs`; `stage`: `pretrain`, or
`finetune` after it, from the average of its weights, at `size` pixels. Values are those
of the commands in the README of wangf3014/ViT-5; of the paper's text only the abstract
was at hand. There is no command for `size=384`: the values for 224 px are taken.

The training is that of `deit3.py`, its differences from the authors' code included, but
for the stochastic depth, 400 epochs for ViT-L and an average of the weights. The model
has RMSNorm, also of each head's queries and keys; queries, keys and values without
bias; positions that are learned and rotary; and four registers that are turned too.
docs/recipes.md has all of it, line by line.

Expected on ImageNet's validation set, in percent, after fine-tuning: at 224 px ViT-S
82.2, ViT-B 84.2, ViT-L 84.9; at 384 px ViT-B 85.4, ViT-L 86.0. Not run by us.
"""

from typing import NamedTuple

import ml_collections

from configs import deit3


class Size(NamedTuple):
    """Epochs, and the stochastic depth of pre-training and of fine-tuning."""

    epochs: int
    drop: float
    drop_finetune: float


SIZES = {
    "ViT-S/16": Size(800, 0.05, 0.05),
    "ViT-B/16": Size(800, 0.2, 0.25),
    "ViT-L/16": Size(400, 0.35, 0.5),
}
STAGES = ("pretrain", "finetune")


def get_config(
    model: str = "ViT-S/16",
    epochs: str = "",
    stage: str = "pretrain",
    size: str = "224",
) -> ml_collections.ConfigDict:
    """A stage of the recipe for a model."""
    if model not in SIZES or stage not in STAGES:
        raise ValueError(
            f"model={model},stage={stage}: wanted a model of {', '.join(SIZES)} and "
            f"a stage of {', '.join(STAGES)}"
        )
    row = SIZES[model]
    if stage == "pretrain":
        config = deit3.get_config(model, epochs=epochs or str(row.epochs))
        config.model.stochastic_depth_rate = row.drop
        config.train.update(ema_decay=0.99996, ema_ramp=False)
    else:
        config = deit3.get_config(model, epochs=epochs, stage=stage, size=size)
        config.model.stochastic_depth_rate = row.drop_finetune
    config.model.update(
        norm="rmsnorm",
        qk_norm="rmsnorm",
        qkv_bias="none",
        num_registers=4,
        positions="learned_rope2d",
        rope_coordinates="index",
        rope_layout="pairs",
        rope_base=1e4,
        rope_register_base=100.0,
    )
    return config
