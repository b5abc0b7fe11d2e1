"""Pre-training as in Table 3 of the paper, and of larger models: one row a model.

    python -m vit_jax.plan --config configs/pretrain.py:model=ViT-L/16 \\
        --topology v5e:16x16 --config.model.scan=true --config.model.remat=dots
    python -m vit_jax.train --config configs/pretrain.py:model=ViT-L/16 --workdir runs/l

Arguments: `model`; `data`, of imagenet21k (the default), jft, jft3b and imagenet2012;
`epochs`, where the table gives two numbers. All of it: batch 4096, 224 px, Adam, 10,000
steps of warm-up, pre-logits layer.

ImageNet-21k has no public builder and JFT is not public: `--config.data.name=FOLDER`
with a folder of images, a folder a class, or the name of a builder of your own. The
paper holds nothing out; here the first 51,200 images are for evaluation, as in
big_vision's vit_i21k.py. The loss, which the paper does not state, and the head's bias
are as there. Augmentation as in BiT: Inception crop and flip. None of it has been run.
"""

import ml_collections

from configs import base, imagenet

# Beginning of the model's name: epochs (the most the table gives), learning rate.
TABLE_3 = {
    "imagenet21k": {"ViT-B": (90, 1e-3), "ViT-L": (90, 1e-3)},
    "jft": {
        "ViT-B": (7, 8e-4),
        "ViT-L/32": (7, 6e-4),
        "ViT-L/16": (14, 4e-4),
        "ViT-H/14": (14, 3e-4),
        "BiT-R50": (7, 1e-3),
        "BiT-R101": (7, 8e-4),
        "BiT-R152": (7, 6e-4),
        "R50+ViT-B": (7, 8e-4),
        "R50+ViT-L/32": (7, 2e-4),
        "R50+ViT-L/16": (14, 4e-4),
    },
    # Not of the paper. Rates are those of ViT-g in big_vision and, for the largest,
    # ours; the data is what arXiv 2106.04560 used, the epochs are ours.
    "jft3b": {"ViT-g": (4, 8e-4), "ViT-8B": (4, 3e-4)},
}
# Weight decay, multiplied by the learning rate, and dropout.
REGULARISATION = {"imagenet21k": (0.03, 0.1), "jft": (0.1, 0.0), "jft3b": (0.03, 0.0)}
# The vision tower of EVA-CLIP-8B (arXiv 2402.04252), as we recall it: 7.5 billion.
SIZES = {
    "ViT-8B": {"depth": 32, "width": 4096, "mlp_dim": 20480, "num_heads": 32},
}


def get_config(
    model: str = "ViT-B/16", data: str = "imagenet21k", epochs: str = ""
) -> ml_collections.ConfigDict:
    """A row of the table, for the whole run."""
    if data == "imagenet2012":
        return imagenet.get_config(model)
    if data not in TABLE_3:
        raise ValueError(
            f"data={data}: wanted one of imagenet2012, {', '.join(TABLE_3)}"
        )
    rows = [row for row in TABLE_3[data].items() if model.startswith(row[0])]
    if not rows:
        raise ValueError(
            f"model={model}: on {data} there are recipes for {', '.join(TABLE_3[data])}"
        )
    name, (longest, learning_rate) = rows[0]
    decay, dropout = REGULARISATION[data]

    config = base.get_config()
    config.model.update(name=model, dropout_rate=dropout, head_bias_init=-10.0)
    if not model.startswith("BiT"):
        config.model.pre_logits = True
    if name in SIZES:
        config.model.update(SIZES[name], name=model.replace(name, "ViT-G"))
    if data == "jft3b":
        config.model.update(scan=True, remat="dots")
        config.optim.momentum_dtype = "bfloat16"
    config.loss.name = "sigmoid"
    config.data.update(name=data, split="train[51200:]", batch_size=4096, workers=8)
    config.optim.update(
        learning_rate=learning_rate,
        schedule="linear",
        weight_decay=decay,
        # Only its ImageNet runs were clipped.
        clip_norm=0.0,
    )
    config.train.duration = f"{epochs or longest}epochs"
    config.eval.update(every="10000steps", splits=("train[:51200]",))
    config.checkpoint.every = "10000steps"
    return config
