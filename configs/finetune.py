"""Fine-tuning of a checkpoint: SGD with momentum, cosine, batch 512, clipped at 1.

    python -m vit_jax.train --workdir runs/pets \\
        --config configs/finetune.py:dataset=oxford_iiit_pet --init ViT-B_16.npz
    python -m vit_jax.sweep --workdir runs/pets_sweep \\
        --config configs/finetune.py:dataset=oxford_iiit_pet --init ViT-B_16.npz

`--init` is a run folder, a file, or the name of a public checkpoint; the architecture
is taken from it unless `model=` names one. Its positions are resampled to `size=`
pixels (384); its head is replaced by a zero one where the classes differ. Arguments:

    dataset  tensorflow-datasets name, or a folder of images (default cifar10)
    recipe   paper       Table 4; images as in BiT: 448 px, random crop of 384
             vit_jax     google-research/vision_transformer's defaults: Inception crop
             big_vision  its `transfer.py`: crop and learning rate for each data set
    probe    yes trains the head alone (linear probe)

`train` takes the recipe's usual learning rate; `sweep` tries those of Table 4 on a part
of the training set that is held out, and trains on all of it with the best.
Expected: Table 5 of the paper. Not run by us at this size: there is no GPU here.
"""

from typing import NamedTuple

import ml_collections

from configs import base


class Task(NamedTuple):
    """What the recipes say of a data set."""

    steps: int = 2_500
    train_share: int = 90  # percent trained on while the learning rate is chosen
    learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    big_vision_crop: str = "inception"
    big_vision_rate: float = 0.003
    eval_split: str = "test"


TASKS = {
    "imagenet2012": Task(
        20_000, 99, (0.003, 0.01, 0.03, 0.06), "inception", 0.03, "validation"
    ),
    "cifar10": Task(10_000, 98, big_vision_crop="resize_small_random_crop"),
    "cifar100": Task(
        10_000,
        98,
        big_vision_crop="resize_small_random_crop",
        big_vision_rate=0.01,
    ),
    "oxford_iiit_pet": Task(500),
    "oxford_flowers102": Task(500),
}
# Dropout of google-research/vision_transformer's configs; 0 for all others.
DROPOUT = {"ViT-H/14": 0.1, "ViT-L/16": 0.1, "R50+ViT-B/16": 0.1}
RECIPES = ("paper", "vit_jax", "big_vision")


def get_config(
    model: str = "",
    dataset: str = "cifar10",
    init: str = "",
    size: str = "384",
    recipe: str = "paper",
    probe: str = "no",
) -> ml_collections.ConfigDict:
    """Steps and learning rates of Table 4; warm-up as in the released code."""
    if recipe not in RECIPES or probe not in ("yes", "no"):
        raise ValueError(
            f"recipe={recipe},probe={probe}: wanted a recipe of {', '.join(RECIPES)} "
            "and probe=yes or no"
        )
    config = base.get_config()
    task = TASKS.get(dataset, Task())
    pixels = int(size)
    config.init = init
    config.model.name = model
    config.data.update(name=dataset, image_size=(pixels, pixels))
    config.optim.update(
        name="sgd",
        learning_rate=0.01,
        momentum_dtype="bfloat16",
        warmup=f"{100 if task.steps <= 500 else 500}steps",
        freeze=("(?!head/)",) if probe == "yes" else (),
    )
    if recipe == "vit_jax":
        config.model.dropout_rate = DROPOUT.get(model, 0.0)
        config.data.eval_crop = "resize"
        small = model == "ViT-B/16" and dataset == "cifar10"
        config.optim.learning_rate = 0.01 if small else 0.03
    else:
        # 448 for 384, as in BiT's HyperRule.
        enlarged = pixels * 7 // 6
        config.data.update(crop_resize=enlarged, eval_resize=enlarged)
    if recipe == "paper":
        config.data.update(crop="resize_random_crop", eval_crop="resize")
    if recipe == "big_vision":
        config.data.crop = task.big_vision_crop
        config.optim.learning_rate = task.big_vision_rate
    config.train.duration = f"{task.steps}steps"
    config.eval.update(every="10%", splits=(task.eval_split,))
    config.checkpoint.every = "10%"
    config.sweep.update(
        learning_rates=task.learning_rates,
        train_split=f"train[:{task.train_share}%]",
        dev_split=f"train[{task.train_share}%:]",
    )
    return config
