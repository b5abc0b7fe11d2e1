"""The config that `make gpu` measures: a plain ViT at 224 px, which timm has too.

    python -m vit_jax.plan --config benchmarks/gpu/vit.py:model=ViT-L/16,batch=128 \\
        --devices 1xH100 --num-examples 1281167 --num-classes 1000

No dropout and no augmentation on the device: AdamW with weight decay, gradients clipped
at norm 1, softmax loss, class token. No data is read: a plan is told its size.
"""

import ml_collections

from configs import base


def get_config(model: str, batch: str, size: str = "224") -> ml_collections.ConfigDict:
    """The defaults of base.py with a model, batch and image size."""
    config = base.get_config()
    config.model.name = model
    config.data.update(name="imagenet2012", batch_size=int(batch))
    config.data.image_size = (int(size), int(size))
    config.optim.weight_decay = 0.1
    config.eval.update(splits=("validation",), batch_size=int(batch))
    return config
