"""ViT on ImageNet from scratch: the row "ViT-*, ImageNet" of the paper's Table 3.

    python -m vit_jax.data.prepare imagenet2012 --manual-dir FOLDER_OF_TARS
    python -m vit_jax.train --config configs/imagenet.py:ViT-B/16 --workdir runs/b16

300 epochs, batch 4096, Adam, learning rate 3e-3, cosine, 10,000 steps of warm-up,
weight decay 0.3, dropout 0.1, gradients clipped at 1, 224 px, pre-logits layer.
What the paper does not state: augmentation as in BiT, Inception crop and flip; sigmoid
loss and a head's bias of -10, as its authors answered (see pretrain.py).
Expected: 77.9 % for B/16 fine-tuned at 384 px (Table 5); the released run of this
recipe reached 74.8 % at 224 px. Not run by us.
"""

import ml_collections

from configs import pretrain


def get_config(model: str = "ViT-B/16") -> ml_collections.ConfigDict:
    """Table 3, last row."""
    return pretrain.get_config(model, "imagenet2012")
