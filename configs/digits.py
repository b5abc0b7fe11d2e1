"""A small ViT on the 1,797 handwritten 8x8 digits that scikit-learn bundles.

    python -m vit_jax.train --config configs/digits.py --workdir runs/digits

Expected: at least 97 % of the 359 held-out test images after about a minute on 2 CPU
cores. It needs no download: this is what `make demo` runs.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    """Enlarged digits, so that there are 16 patches."""
    config = base.get_config()
    config.model.update(name="ViT-mu/4", depth=6, width=64, mlp_dim=256, num_heads=4)
    config.model.stochastic_depth_rate = 0.1
    config.data.update(
        name="digits",
        batch_size=128,
        image_size=(16, 16),
        crop="random_resized_crop",
        crop_area=(0.7, 1.0),
        eval_crop="resize",
    )
    config.optim.update(learning_rate=2e-3, warmup="10%", weight_decay=0.1)
    config.train.duration = "80epochs"
    config.eval.update(every="10epochs", batch_size=360)
    config.checkpoint.every = "10epochs"
    config.log.every = "20steps"
    return config
