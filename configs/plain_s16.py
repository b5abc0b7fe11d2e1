"""ViT-S/16 on ImageNet by "Better plain ViT baselines" (arXiv 2205.01580).

    python -m vit_jax.train --config configs/plain_s16.py --workdir runs/s16
    python -m vit_jax.train --config configs/plain_s16.py:300 --workdir runs/s16_300

Expected on the validation set: 76.5 % (90 epochs), 78.5 % (150), 80.0 % (300); 6 h 30
for 90 epochs on a TPU v3-8 in the paper. Not run by us.
"""

import ml_collections

from configs import base


def get_config(epochs: str = "90") -> ml_collections.ConfigDict:
    """Pooled patches, fixed positions, RandAugment and MixUp, batch 1024."""
    config = base.get_config()
    config.model.update(
        name="ViT-S/16", pooling="gap", positions="sincos2d", pre_logits=True
    )
    config.data.update(
        name="imagenet2012",
        split="train[:99%]",
        batch_size=1024,
        randaug_layers=2,
        randaug_magnitude=10.0,
        workers=8,
    )
    config.mix.mixup_alpha = 0.2
    config.optim.update(learning_rate=1e-3, weight_decay=0.1, momentum_dtype="bfloat16")
    config.train.duration = f"{epochs}epochs"
    config.eval.update(every="5epochs", splits=("train[99%:]", "validation"))
    return config
