"""Pre-training as in Table 3 of the paper, all its rows, and of larger models.

    python -m vit_jax.plan --config configs/pretrain.py:model=ViT-L/16 \\
        --topology v5e:16x16 --config.model.scan=true --config.model.remat=dots
    python -m vit_jax.train --config configs/pretrain.py:model=ViT-L/16 --workdir runs/l

Arguments: `model`; `data`: imagenet21k (the default), jft, jft3b or imagenet2012;
`epochs`, by default the most in the table. All rows have batch 4096, 224 px, Adam,
10,000 steps of warm-up, and for ViTs a pre-logits layer. Hybrids and axial ViTs take
the row of their ViT where they have none of their own (section 4.1).

ImageNet-21k has no public builder and JFT is not public: `--config.data.name=FOLDER`
with a folder of images, one for each class, or the name of a builder of your own. The
paper holds nothing out; here the first 51,200 images are for evaluation, as in
big_vision's vit_i21k.py. What the paper does not state is as its authors answered in
google-research/vision_transformer, issues 2, 34 and 89: the sigmoid loss and a head's
bias of -10, on ImageNet too, and a linear decay that ends at 1e-5. Augmentation as in
BiT: Inception crop and flip. None of it has been run.
Expected: Table 5 of the paper after fine-tuning; exaFLOPs of Table 6 by
`vit_jax.planning.flops.pretraining_exaflops`.
"""

import re
from typing import NamedTuple

import ml_collections

from configs import base


class Row(NamedTuple):
    """A row of Table 3; weight decay is multiplied by the learning rate."""

    models: tuple[str, ...]
    data: str
    epochs: tuple[int, ...]
    learning_rate: float
    decay: str
    weight_decay: float
    dropout: float


def jft(models: tuple[str, ...], epochs: tuple[int, ...], learning_rate: float) -> Row:
    return Row(models, "jft", epochs, learning_rate, "linear", 0.1, 0.0)


def imagenet21k(models: tuple[str, ...], epochs: tuple[int, ...]) -> Row:
    return Row(models, "imagenet21k", epochs, 1e-3, "linear", 0.03, 0.1)


# A name that ends in "*" is a prefix.
TABLE_3 = (
    jft(("ViT-B/16", "ViT-B/32"), (7,), 8e-4),
    jft(("ViT-L/32",), (7,), 6e-4),
    jft(("ViT-L/16",), (7, 14), 4e-4),
    jft(("ViT-H/14",), (14,), 3e-4),
    jft(("BiT-R50x1", "BiT-R50x2"), (7,), 1e-3),
    jft(("BiT-R101x1",), (7,), 8e-4),
    jft(("BiT-R152x1", "BiT-R152x2"), (7,), 6e-4),
    jft(("R50+ViT-B/16", "R50+ViT-B/32"), (7,), 8e-4),
    jft(("R50+ViT-L/32",), (7,), 2e-4),
    jft(("R50+ViT-L/16",), (7, 14), 4e-4),
    imagenet21k(("ViT-B/16", "ViT-B/32"), (90,)),
    imagenet21k(("ViT-L/16", "ViT-L/32"), (30, 90)),
    Row(("ViT-*",), "imagenet2012", (300,), 3e-3, "cosine", 0.3, 0.1),
)
# Runs whose results are in the paper, but not their recipes: learning rates and, for
# ViT-b, the whole row are our reading. Table 6 also has BiT-R152x2 at `epochs=14`.
NOT_IN_TABLE_3 = (
    jft(("BiT-R200x3",), (14,), 6e-4),
    jft(("ViT-b/32",), (7,), 8e-4),
    imagenet21k(("ViT-H/14",), (90,)),
)
# Models that are not in the paper. The learning rate of ViT-g is big_vision's, that of
# ViT-8B ours; the data is that of arXiv 2106.04560, the epochs are ours.
LARGER = (
    Row(("ViT-g*",), "jft3b", (4,), 8e-4, "linear", 0.03, 0.0),
    Row(("ViT-8B*",), "jft3b", (4,), 3e-4, "linear", 0.03, 0.0),
)
ROWS = TABLE_3 + NOT_IN_TABLE_3 + LARGER
# The vision tower of EVA-CLIP-8B (arXiv 2402.04252), as we recall it: 7.5 billion.
SIZES = {
    "ViT-8B": {"depth": 32, "width": 4096, "mlp_dim": 20480, "num_heads": 32},
}


def find_row(model: str, data: str) -> Row:
    """The recipe of a model on a data set.

    Raises:
        ValueError: there is none; the message lists the recipes.
    """

    def fits(pattern: str, name: str) -> bool:
        start = pattern.removesuffix("*")
        return name.startswith(start) if start != pattern else name == pattern

    rows = [row for row in ROWS if row.data == data]
    if not rows:
        names = dict.fromkeys(row.data for row in ROWS)
        raise ValueError(f"data={data}: wanted one of {', '.join(names)}")
    for name in (model, re.sub("^.*(?=ViT-)", "", model)):
        for row in rows:
            if any(fits(pattern, name) for pattern in row.models):
                return row
    known = [name for row in rows for name in row.models]
    raise ValueError(
        f"model={model}: on {data} there are recipes for {', '.join(known)}"
    )


def get_config(
    model: str = "ViT-B/16", data: str = "imagenet21k", epochs: str = ""
) -> ml_collections.ConfigDict:
    """The recipe of a row."""
    row = find_row(model, data)
    config = base.get_config()
    config.model.update(name=model, dropout_rate=row.dropout)
    if "ViT" in model:
        config.model.pre_logits = True
    for name, size in SIZES.items():
        if model.startswith(name):
            config.model.update(size, name=model.replace(name, "ViT-G"))
    if data == "jft3b":
        config.model.update(scan=True, remat="dots")
        config.optim.momentum_dtype = "bfloat16"
    set_data(config, data)
    config.loss.name = "sigmoid"
    config.model.head_bias_init = -10.0
    config.optim.update(
        learning_rate=row.learning_rate,
        end_learning_rate=1e-5 if row.decay == "linear" else 0.0,
        schedule=row.decay,
        weight_decay=row.weight_decay,
        # The paper clips gradients on ImageNet only.
        clip_norm=1.0 if data == "imagenet2012" else 0.0,
    )
    config.train.duration = f"{epochs or max(row.epochs)}epochs"
    return config


def set_data(config: ml_collections.ConfigDict, data: str) -> None:
    """Splits, loss and evaluations of a large data set; batch 4096."""
    config.data.update(name=data, batch_size=4096, workers=8)
    if data == "imagenet2012":
        config.data.split = "train[:99%]"
        config.eval.update(every="5epochs", splits=("train[99%:]", "validation"))
        config.checkpoint.every = "1epochs"
        return
    config.data.split = "train[51200:]"
    config.loss.name = "sigmoid"
    config.model.head_bias_init = -10.0
    config.eval.update(every="10000steps", splits=("train[:51200]",))
    config.checkpoint.every = "10000steps"
