"""BiT ResNets pre-trained as in their own paper (arXiv 1912.11370): SGD.

    python -m vit_jax.train --config configs/bit.py:model=BiT-R50x1,data=imagenet2012 \\
        --workdir runs/bit_s
    python -m vit_jax.train --workdir runs/r152x2_sgd \\
        --config configs/bit.py:model=BiT-R152x2,data=jft,epochs=7

Arguments: `model`; `data`, imagenet2012 (BiT-S, the default), imagenet21k (BiT-M) or
jft (BiT-L); `epochs`, by default the schedule's. With `data=jft,epochs=7` and the
models BiT-R50x1 and BiT-R152x2 these are the SGD rows of the ViT paper's Table 7, whose
Adam rows are in pretrain.py; the learning rate then falls at the same shares of the
run, which is our reading. SGD with momentum 0.9, learning rate 0.03 for 256
images, batch 4096, 5,000 steps of warm-up, weight decay 1e-4 added to the gradient, no
clipping, 224 px, Inception crop and flip.

To fine-tune: `finetune.py:recipe=bit` (BiT-HyperRule). The loss on the two larger sets
is that of pretrain.py. Expected: fine-tuned on ImageNet, R50x1 from JFT in 7 epochs
78.24 %, R152x2 84.37 % (Table 7); R152x4 81.30 % (S), 85.39 % (M), 87.54 % (L). Not run
by us.
"""

import ml_collections

from configs import base, pretrain

# Epochs, and those after which the learning rate falls to a tenth. The ViT paper says
# that BiT-L had 30 epochs, BiT's own 40.
SCHEDULES = {
    "imagenet2012": (90, (30, 60, 80)),
    "imagenet21k": (90, (30, 60, 80)),
    "jft": (40, (10, 23, 30, 37)),
}


def get_config(
    model: str = "BiT-R50x1", data: str = "imagenet2012", epochs: str = ""
) -> ml_collections.ConfigDict:
    """Section 4.1 of the BiT paper."""
    if data not in SCHEDULES or not model.startswith("BiT-"):
        raise ValueError(
            f"model={model},data={data}: wanted a model such as BiT-R50x1 and data of "
            f"{', '.join(SCHEDULES)}"
        )
    longest, falls = SCHEDULES[data]
    config = base.get_config()
    config.model.name = model
    pretrain.set_data(config, data)
    config.optim.update(
        name="sgd",
        learning_rate=0.03 * config.data.batch_size / 256,
        schedule="staircase",
        milestones=tuple(epoch / longest for epoch in falls),
        warmup="5000steps",
        weight_decay=1e-4,
        clip_norm=0.0,
    )
    config.train.duration = f"{epochs or longest}epochs"
    return config
