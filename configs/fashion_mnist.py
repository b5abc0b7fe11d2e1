"""A small ViT on Fashion-MNIST (60,000 grey images of 28x28 pixels, 10 classes).

    python -m vit_jax.data.prepare fashion_mnist
    python -m vit_jax.train --config configs/fashion_mnist.py --workdir runs/fashion

The aim is 92 % on the test split, not run yet.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
    """0.3 million parameters, so that a CPU trains several epochs in minutes."""
    config = base.get_config()
    config.model.update(
        name="ViT-mu/4", depth=6, width=64, mlp_dim=256, num_heads=4, pooling="gap"
    )
    config.data.update(
        name="fashion_mnist",
        batch_size=128,
        image_size=(28, 28),
        crop="padded_random_crop",
        eval_crop="resize",
    )
    config.optim.update(
        name="muon", learning_rate=2e-3, warmup="10%", weight_decay=0.05
    )
    config.train.duration = "15epochs"
    return config
