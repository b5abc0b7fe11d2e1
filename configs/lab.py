"""The inductive-bias laboratory: small models of every family on 32x32 images.

    python -m vit_jax.train --workdir runs/hybrid --config configs/lab.py:family=hybrid

The base of the grids in `experiments/`. `family` is vit, hybrid or resnet, at about
equal compute an image; `scale` is smoke (seconds, for tests), mini (25 seconds on two
CPU cores), medium (a million images, about 20 minutes of them) or small (minutes on a
GPU). Pre-training is on the classes `UPSTREAM` of CIFAR-10, few-shot evaluation and
transfer on the classes `DOWNSTREAM`, which the pre-training never sees, like ImageNet
and Flowers after JFT-300M in the paper. With `classes=all` training is on all classes,
and there is no few-shot evaluation. Smoke has digits, which need no preparation.
"""

import ml_collections

from configs import base

UPSTREAM = ("airplane", "bird", "cat", "frog", "horse", "ship")
DOWNSTREAM = ("automobile", "deer", "dog", "truck")
# Data, and the classes to pre-train on and to hold out, by scale.
CIFAR10 = ("cifar10", UPSTREAM, DOWNSTREAM)
DIGITS = ("digits", ("0", "1", "2", "3", "4", "5"), ("6", "7", "8", "9"))
DATA = {"smoke": DIGITS, "mini": CIFAR10, "medium": CIFAR10, "small": CIFAR10}

# Grids of 8x8 tokens, or of 8x8 features after the root, as 14x14 in the paper. Million
# multiply-adds an image: ViT 10.7, hybrid 9.6, ResNet 9.5; small 180, 183, 174.
VIT = dict(name="ViT-mu/4", depth=4, width=64, mlp_dim=128, num_heads=4)
HYBRID = VIT | dict(width=56, mlp_dim=112, resnet_stem=(), stem_width=32)
RESNET = dict(name="BiT-R26x1", blocks=(2, 2, 2), width=32)
MINI = {"vit": VIT, "hybrid": HYBRID, "resnet": RESNET}
TINY = dict(name="ViT-Ti/4", depth=6, width=192, mlp_dim=768, num_heads=3)
SMALL = {
    "vit": TINY,
    "hybrid": TINY | dict(resnet_stem=(), stem_width=64),
    "resnet": dict(name="BiT-R26x1", blocks=(2, 3, 3), width=128),
}
SMOKE = {
    "vit": VIT | dict(depth=2, width=16, mlp_dim=32, num_heads=2),
    "hybrid": HYBRID
    | dict(name="ViT-mu/8", depth=2, width=16, mlp_dim=32, num_heads=2),
    "resnet": dict(name="BiT-R26x1", blocks=(1,), width=32),
}
# 0.4, 0.3 and 0.9 million parameters.
WIDER = dict(width=96, mlp_dim=192, num_heads=3)
MEDIUM = {
    "vit": VIT | WIDER | dict(depth=5),
    "hybrid": HYBRID | WIDER,
    "resnet": RESNET,
}
MODELS = {"smoke": SMOKE, "mini": MINI, "medium": MEDIUM, "small": SMALL}
# Not in epochs, so that a run on a part of the data is as long as one on all of it.
# Small is 30 epochs of all the data.
DURATIONS = {
    "smoke": "4steps",
    "mini": "25600examples",
    "medium": "1000000examples",
    "small": "900000examples",
}
BATCHES = {"smoke": 16, "mini": 64, "medium": 128, "small": 256}


def get_config(
    family: str = "vit", scale: str = "mini", classes: str = "upstream"
) -> ml_collections.ConfigDict:
    """AdamW, crops and flips; no other regularisation."""
    if classes not in ("upstream", "all"):
        raise ValueError(f"unknown classes {classes!r}: wanted upstream or all")
    if scale not in MODELS:
        raise ValueError(f"unknown scale {scale!r}: wanted {', '.join(MODELS)}")
    if family not in MODELS[scale]:
        raise ValueError(f"unknown family {family!r}: wanted {', '.join(MINI)}")
    config = base.get_config()
    config.model.update(MODELS[scale][family])
    if family != "resnet":
        config.model.pooling = "gap"
    name, upstream, downstream = DATA[scale]
    config.data.update(
        name=name,
        classes=upstream,
        batch_size=BATCHES[scale],
        image_size=(32, 32),
        crop="random_resized_crop",
        crop_area=(0.5, 1.0),
        eval_crop="resize",
    )
    config.optim.update(learning_rate=2e-3, warmup="10%", weight_decay=0.05)
    config.train.duration = DURATIONS[scale]
    config.eval.update(every="100%", batch_size=100 if scale == "smoke" else 500)
    config.fewshot.update(
        every="100%", name=name, classes=downstream, shots=(5, 25), seeds=5
    )
    config.checkpoint.update(every="100%", keep_last=1)
    config.log.update(every="10%", tensorboard=False)
    if classes == "all":
        config.data.classes = ()
        config.fewshot.every = ""
    return config
