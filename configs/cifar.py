"""CIFAR-10 or CIFAR-100 from scratch, without any outside data.

    python -m vit_jax.train --config configs/cifar.py --workdir runs/cifar10
    python -m vit_jax.train --config configs/cifar.py:data=cifar100 --workdir runs/c100
    python -m vit_jax.train --config configs/cifar.py:size=mini --workdir runs/mini \\
        --config.data.name=/path/to/folder

The data: `python -m vit_jax.data.prepare cifar10`, or a folder train/class/*.jpg,
test/class/*.jpg. Sizes: `full`, ViT-Ti/4 (5.4 million parameters, 300 epochs, for a
GPU; the aim is 90 % on CIFAR-10, not run yet), and `mini` (1.2 million, 10 epochs;
expected 56 % in 8 minutes on 2 CPU cores).
"""

import ml_collections

from configs import base


def get_config(data: str = "cifar10", size: str = "full") -> ml_collections.ConfigDict:
    """The recipe: RandAugment, MixUp or CutMix, stochastic depth (as DeiT's)."""
    config = base.get_config()
    config.data.update(
        name=data,
        image_size=(32, 32),
        crop="random_resized_crop",
        crop_area=(0.3, 1.0),
        eval_crop="resize",
    )
    if size == "mini":
        config.model.update(
            name="ViT-mu/8", depth=6, width=128, mlp_dim=512, num_heads=4, pooling="gap"
        )
        config.data.batch_size = 128
        config.data.crop_area = (0.5, 1.0)
        config.optim.update(learning_rate=1e-3, warmup="10%", weight_decay=0.05)
        config.train.duration = "10epochs"
        return config
    if size != "full":
        raise ValueError(f"unknown size {size!r}: wanted full or mini")
    config.model.update(name="ViT-Ti/4", pooling="gap", stochastic_depth_rate=0.1)
    config.data.update(
        randaug_layers=2, randaug_magnitude=9.0, randaug_variant="intended"
    )
    config.mix.update(mixup_alpha=0.8, cutmix_alpha=1.0)
    config.loss.label_smoothing = 0.1
    config.optim.update(learning_rate=1e-3, warmup="10epochs", weight_decay=0.05)
    config.train.update(duration="300epochs", ema_decay=0.9998)
    config.eval.every = config.checkpoint.every = "5epochs"
    return config
