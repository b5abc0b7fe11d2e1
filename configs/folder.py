"""A folder of your own images, on any machine.

    python -m vit_jax.train --config configs/folder.py:data=photos --workdir runs/photos

`photos` holds a folder a class (a tenth of each is held out to evaluate on), or
train/class and val/class. Other arguments: `model=ViT-S/16`, `size=64` (pixels),
`init=ViT-B_16.npz` (start from a checkpoint, whose model is taken unless `model` names
one). Every key of base.py can be set after it, such as
`--config.train.duration=20epochs`. A batch is 32 images, or fewer if the folder has
fewer.
"""

import os

import ml_collections

from configs import base
from vit_jax.data.folder import FolderSource

BATCH_SIZE = 32


def get_config(
    data: str, model: str = "", size: str = "128", init: str = ""
) -> ml_collections.ConfigDict:
    """Small batches and strong augmentation, as small data sets need them."""
    config = base.get_config()
    pixels = int(size)
    config.init = init
    config.model.name = model or ("" if init else "ViT-Ti/16")
    if "ViT" in config.model.name:
        config.model.stochastic_depth_rate = 0.1
    config.data.update(
        name=data,
        batch_size=fitting_batch(data),
        image_size=(pixels, pixels),
        crop="random_resized_crop",
        crop_area=(0.2, 1.0),
        randaug_layers=2,
        randaug_variant="intended",
    )
    config.optim.update(learning_rate=3e-4, warmup="5%", weight_decay=0.1)
    config.train.duration = "50epochs"
    config.eval.update(splits=("val",), batch_size=BATCH_SIZE)
    config.log.every = "10steps"
    return config


def fitting_batch(folder: str) -> int:
    """The largest power of two up to 32 and up to the number of images."""
    try:
        images = len(FolderSource(os.path.expanduser(folder), "train"))
    except (OSError, ValueError):
        # Shards, a bucket or a broken folder: opening the data reports problems.
        return BATCH_SIZE
    if images >= BATCH_SIZE:
        return BATCH_SIZE
    batch_size = 2 ** (images.bit_length() - 1) if images else 1
    print(f"{folder} has {images} images to train on: batches of {batch_size}")
    return batch_size
