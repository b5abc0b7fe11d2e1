"""Fine-tuning by the paper's Table 4: SGD with momentum, cosine, no weight decay.

    python -m vit_jax.train --workdir runs/pets \\
        --config configs/finetune.py:model=ViT-B/16,data=oxford_iiit_pet,init=runs/b16

`init` is a run folder; its head is replaced by a zero one where the classes differ.
The paper takes the best learning rate of 0.001, 0.003, 0.01, 0.03 (ImageNet also 0.06)
on a part of the training set, then trains on the whole of it.
Expected: Table 5 of the paper. Not run by us; released weights and 384 px come with the
import of checkpoints.
"""

import ml_collections

from configs import base

STEPS = {
    "imagenet2012": 20_000,
    "cifar10": 10_000,
    "cifar100": 10_000,
    "oxford_iiit_pet": 500,
    "oxford_flowers102": 500,
}


def get_config(
    model: str = "ViT-B/16",
    data: str = "cifar10",
    init: str = "",
    size: str = "224",
) -> ml_collections.ConfigDict:
    """Batch 512, gradients clipped at 1; warm-up as in the released code."""
    config = base.get_config()
    steps = STEPS.get(data, 2_500)
    pixels = int(size)
    config.init = init
    config.model.name = model
    config.data.update(name=data, image_size=(pixels, pixels))
    config.optim.update(
        name="sgd",
        learning_rate=0.01,
        momentum_dtype="bfloat16",
        warmup=f"{100 if steps <= 500 else 500}steps",
    )
    config.train.duration = f"{steps}steps"
    config.eval.update(every="10%", splits=("test",))
    if data == "imagenet2012":
        config.eval.splits = ("validation",)
    config.checkpoint.every = "10%"
    return config
