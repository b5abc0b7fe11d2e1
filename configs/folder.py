"""A folder of your own images, on any machine.

    python -m vit_jax.train --config configs/folder.py:data=photos --workdir runs/photos

`photos` holds a folder a class (a tenth of each is held out to evaluate on), or
train/class and val/class; or it is images with a CSV file of their labels, or that file
(docs/data.md). Where an image may have several labels, the loss is the sigmoid one, and
the metric mean average precision. Other arguments: `model=ViT-S/16`, `size=64`
(pixels), `init=ViT-B_16.npz` (start from a checkpoint, whose model is taken unless
`model` names one). Every key of base.py can be set after it, such as
`--config.train.duration=20epochs`. A batch is 32 images, or fewer if the folder has
fewer.
"""

import ml_collections

from configs import base
from vit_jax.data.source_types import Source, is_multi_label
from vit_jax.data.sources import make_source
from vit_jax.data.staging import is_url

BATCH_SIZE = 32


def get_config(
    data: str, model: str = "", size: str = "128", init: str = ""
) -> ml_collections.ConfigDict:
    """Small batches and strong augmentation, as small data sets need them."""
    config = base.get_config()
    pixels = int(size)
    source = training_images(data)
    config.init = init
    config.model.name = model or ("" if init else "ViT-Ti/16")
    if "ViT" in config.model.name:
        config.model.stochastic_depth_rate = 0.1
    config.data.update(
        name=data,
        batch_size=fitting_batch(data, source),
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
    if source is not None and is_multi_label(source):
        config.loss.name = "sigmoid"
        config.checkpoint.best_metric = "map"
        print(f"an image of {data} may have several labels: sigmoid loss, metric map")
    return config


def training_images(data: str) -> Source | None:
    """The data that the other settings depend on; None if they cannot be opened."""
    if is_url(data):
        return None  # A bucket may have to be copied, to a folder named later.
    try:
        return make_source(data, "train", cache="never")
    except (OSError, ValueError, ImportError):
        return None  # The run opens them again, and says what is wrong.


def fitting_batch(folder: str, source: Source | None) -> int:
    """The largest power of two up to 32 and up to the number of images."""
    images = BATCH_SIZE if source is None else len(source)
    if images >= BATCH_SIZE:
        return BATCH_SIZE
    batch_size = 2 ** (images.bit_length() - 1) if images else 1
    print(f"{folder} has {images} images to train on: batches of {batch_size}")
    return batch_size
