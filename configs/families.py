"""A small model of each family, all trained by the same recipe on 32x32 images.

    python -m vit_jax.train --workdir runs/hybrid \\
        --config configs/families.py:family=hybrid,data=cifar10

`family` is vit, hybrid, bit, mixer, axial_vit or axial_resnet; `data` a data set by
name or a folder of images; smaller images are enlarged. Each model has about a million
parameters and takes minutes on a CPU: the runs show that the families train, not what
they can reach.
"""

import ml_collections

from configs import base

TOKENS = dict(depth=6, width=128)  # 16 tokens of 8x8 pixels
MODELS = {
    "vit": dict(name="ViT-mu/8", mlp_dim=512, num_heads=4, **TOKENS),
    # One unit at 8x8 places, then patches of 2x2 features.
    "hybrid": dict(
        name="ViT-mu/8",
        resnet_stem=(1,),
        stem_width=32,
        mlp_dim=512,
        num_heads=4,
        pooling="gap",
        **TOKENS,
    ),
    "bit": dict(name="BiT-R26x1", blocks=(1, 1, 1, 1), width=32),
    "mixer": dict(name="Mixer-S/8", token_mlp_dim=64, channel_mlp_dim=512, **TOKENS),
    "axial_vit": dict(
        name="Axial-ViT-mu/8", depth=3, width=128, mlp_dim=512, num_heads=4
    ),
    "axial_resnet": dict(name="AxialResNet-26", blocks=(1, 1, 1, 1), width=32),
}


def get_config(
    family: str = "vit", data: str = "cifar10", epochs: str = "3"
) -> ml_collections.ConfigDict:
    """AdamW, crops and flips; no other regularisation in so few epochs."""
    if family not in MODELS:
        raise ValueError(f"unknown family {family!r}: wanted {', '.join(MODELS)}")
    config = base.get_config()
    config.model.update(MODELS[family])
    config.data.update(
        name=data,
        batch_size=128,
        image_size=(32, 32),
        crop="random_resized_crop",
        crop_area=(0.5, 1.0),
        eval_crop="resize",
    )
    config.optim.update(learning_rate=1e-3, warmup="10%", weight_decay=0.05)
    config.train.duration = f"{epochs}epochs"
    return config
