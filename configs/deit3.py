"""Nearly the recipe of DeiT III (arXiv 2204.07118).

    python -m vit_jax.train --config configs/deit3.py:model=ViT-S/16 --workdir runs/s
    python -m vit_jax.train --config configs/deit3.py:model=ViT-B/16 --workdir runs/b
    python -m vit_jax.train --workdir runs/b224 --init runs/b \\
        --config configs/deit3.py:model=ViT-B/16,stage=finetune

Arguments: `model`, ViT-S/16, ViT-B/16, ViT-L/16 or ViT-H/14; `data`, imagenet2012 (the
default) or imagenet21k; `epochs`; `stage`: `pretrain`, at the model's own resolution;
`finetune` on ImageNet after it, at `size` pixels (224 or 384); or `from21k`, on
ImageNet after ImageNet-21k. Values are those of the commands in facebookresearch/deit,
`README_revenge.md`. Two values are recalled from the paper: the stochastic depth for
400 epochs, and its weight decay of 0.02 on ImageNet, where the commands have 0.05.

LAMB, batch 2048, binary cross-entropy, 3-Augment and colour jitter, MixUp or CutMix,
LayerScale 1e-4, one rate of stochastic depth in all blocks, normal initial weights, and
on ImageNet repeated augmentation: three copies of an image in a batch. Differences:
training images are resized bilinearly, not bicubically; `finetune` has AugReg's
RandAugment without the accidents of its code, not timm's; the learning rate changes
with every step, not every epoch. Images of ViT-H/14 are 154 px instead of 160, a
multiple of the patch size with the same number of patches. docs/recipes.md has all of
it, line by line.

Expected on ImageNet's validation set, in percent, after 800 epochs: ViT-S 81.4; after
fine-tuning at 224 px ViT-B 83.8, ViT-L 84.9, ViT-H 85.2; at 384 px 83.4 (S), 85.0 (B),
85.8 (L); by way of ImageNet-21k at 224 px 83.1 (S), 85.7 (B), 87.0 (L), 87.2 (H). Not
run by us.
"""

from typing import NamedTuple

import ml_collections

from configs import base, finetune, pretrain


class Size(NamedTuple):
    """The settings that differ between models.

    Rates of stochastic depth are for 400 and 800 epochs, for ImageNet-21k, and for
    fine-tuning at 224 and 384 px and from ImageNet-21k. Ours are those of ViT-S at
    224 px, its resolution in pre-training, and of ViT-H at 384 px.
    """

    learning_rate: float
    pixels: int
    drop_400: float
    drop_800: float
    drop_21k: float
    drop_224: float
    drop_384: float
    drop_from21k: float


SIZES = {
    "ViT-S/16": Size(4e-3, 224, 0.0, 0.05, 0.05, 0.0, 0.0, 0.05),
    "ViT-B/16": Size(3e-3, 192, 0.1, 0.2, 0.1, 0.2, 0.15, 0.15),
    "ViT-L/16": Size(3e-3, 192, 0.4, 0.45, 0.3, 0.45, 0.4, 0.4),
    "ViT-H/14": Size(3e-3, 154, 0.5, 0.6, 0.5, 0.55, 0.55, 0.45),
}
STAGES = ("pretrain", "finetune", "from21k")
# Normalisation of pixels.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def get_config(
    model: str = "ViT-S/16",
    data: str = "imagenet2012",
    epochs: str = "",
    stage: str = "pretrain",
    size: str = "224",
) -> ml_collections.ConfigDict:
    """A stage of the recipe for a model."""
    if model not in SIZES or data not in ("imagenet2012", "imagenet21k"):
        raise ValueError(
            f"model={model},data={data}: wanted a model of {', '.join(SIZES)} and data="
            "imagenet2012 or imagenet21k"
        )
    if stage not in STAGES or (stage != "pretrain" and data != "imagenet2012"):
        raise ValueError(
            f"stage={stage},data={data}: wanted a stage of {', '.join(STAGES)}, the "
            "last two on imagenet2012"
        )
    row = SIZES[model]
    config = base.get_config()
    pretrain.set_data(config, data)
    if data == "imagenet2012":
        # All of the training set is trained on.
        config.data.split = "train"
        config.eval.splits = ("validation",)
    config.model.update(
        name=model,
        class_token_position=False,
        activation="gelu",
        layer_scale_init=1e-4,
        initialization="trunc_normal",
        head_bias_init=0.0,
        stochastic_depth_uniform=True,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
    config.data.update(
        eval_interpolation="bicubic", crop="random_resized_crop", crop_area=(0.08, 1.0)
    )
    config.mix.cutmix_alpha = 1.0
    # The evaluation does not crop: --eval-crop-ratio 1.0.
    config.data.eval_resize = row.pixels
    if stage != "pretrain":
        config.resample = "bicubic_plain"
    config.optim.update(end_learning_rate=1e-5, warmup="5epochs")
    if stage == "finetune":
        pixels = finetune.whole_patches(model, int(size))
        set_finetuning(config, row, pixels, epochs or "20")
        return config

    config.data.update(
        batch_size=2048,
        image_size=(row.pixels, row.pixels),
        three_augment=True,
        color_jitter=0.3,
    )
    config.optim.update(name="lamb", learning_rate=row.learning_rate, clip_norm=1.0)
    if stage == "pretrain" and data == "imagenet2012":
        set_imagenet(config, row, epochs or "800")
    else:
        set_imagenet21k(config, row, stage, model, epochs)
    return config


def set_imagenet(config: ml_collections.ConfigDict, row: Size, epochs: str) -> None:
    """800 epochs of ImageNet with a binary cross-entropy for each class."""
    config.model.stochastic_depth_rate = (
        row.drop_800 if float(epochs) > 400 else row.drop_400
    )
    config.loss.update(name="sigmoid", round_up=True)
    config.data.repeated_augmentation = 3
    config.mix.mixup_alpha = 0.8
    # Their loss is a mean over 1000 classes, ours a sum. So their clip of 1 and epsilon
    # of 1e-8 are multiplied by 1000; otherwise Adam does not depend on the scale.
    config.optim.update(weight_decay=0.05, clip_norm=1000.0, epsilon=1e-5)
    config.train.duration = f"{epochs}epochs"


def set_imagenet21k(
    config: ml_collections.ConfigDict, row: Size, stage: str, model: str, epochs: str
) -> None:
    """ImageNet-21k, or the fine-tuning on ImageNet after it."""
    config.loss.update(name="softmax", label_smoothing=0.1)
    config.data.crop = "padded_random_crop"
    config.optim.weight_decay = 0.02
    if stage == "from21k":
        config.model.stochastic_depth_rate = row.drop_from21k
        config.optim.learning_rate = 3e-4
        pixels, usual = 224, "50"
    else:
        config.model.stochastic_depth_rate = row.drop_21k
        config.optim.learning_rate = 1e-3
        is_huge = model == "ViT-H/14"
        # 126 is the multiple of 14 below 128.
        pixels, usual = (126, "90") if is_huge else (224, "240")
    config.data.update(image_size=(pixels, pixels), eval_resize=pixels)
    config.train.duration = f"{epochs or usual}epochs"


def set_finetuning(
    config: ml_collections.ConfigDict, row: Size, pixels: int, epochs: str
) -> None:
    """A few epochs of AdamW at the test resolution."""
    config.model.stochastic_depth_rate = row.drop_384 if pixels > 224 else row.drop_224
    config.data.update(
        batch_size=512,
        image_size=(pixels, pixels),
        eval_resize=pixels,
        randaug_layers=2,
        randaug_magnitude=9.0,
        randaug_variant="intended",
    )
    config.mix.mixup_alpha = 0.8
    config.loss.label_smoothing = 0.1
    # The learning rate is constant at its end value; gradients are not clipped.
    config.optim.update(learning_rate=1e-5, weight_decay=0.1, clip_norm=0.0)
    config.train.duration = f"{epochs}epochs"
