"""How images are cropped and augmented for training, and prepared for evaluation."""

import dataclasses
import re
from typing import Annotated

import numpy as np

from vit_jax.data import augment
from vit_jax.values import (
    Choice,
    ImageSize,
    NotNegative,
    Range,
    check_fields,
)

BOX_CROPS = ("inception", "random_resized_crop")
CROPS = (
    *BOX_CROPS,
    "resize_small_random_crop",
    "resize_random_crop",
    "padded_random_crop",
    "resize",
)
EVAL_CROPS = ("resize_small_center_crop", "resize_center_crop", "resize")
Side = Annotated[int, Range(0, 1 << 14)]  # larger ones fill the memory
Area = Annotated[float, Range(0, 1, left_open=True)]
# Written signs and left-right poses: the mirror image is another class, or none.
_NO_FLIP = frozenset(
    "binary_alpha_digits cmaterdb digits dsprites emnist kmnist mnist mnist_corrupted "
    "omniglot smallnorb svhn_cropped".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransforms:
    """What happens to each image on the host: a part of the config section `data`.

    Attributes:
        name: "digits", a tensorflow-datasets name, a folder of images or of shards, or
          a bucket of shards: `sources.make_source`.
        image_size: (height, width) in pixels that the model gets.
        crop: training crop. "inception": a random box, resized, drawn as TensorFlow
          does; "random_resized_crop": one drawn as torchvision does;
          "resize_small_random_crop": resize with the aspect kept, random place;
          "resize_random_crop": resize without, random place; "padded_random_crop":
          resize to cover, pad by 4 pixels, random place; "resize": whole image.
        crop_area: range of the share of the image's area that these boxes have.
        crop_resize: length in pixels to which the longer side of `image_size`
          corresponds before a random crop; 0 is 8/7 of it (256 for 224).
        eval_crop: "resize_small_center_crop", "resize_center_crop" without the aspect
          (of big_vision's few-shot evaluation), or "resize", the whole image.
        eval_resize: as `crop_resize`, before the centre crop.
        eval_interpolation: filter of the evaluation resizes, "bilinear" or "bicubic".
        flip: mirror half of the training images: "on", "off", or "auto", which is off
          for data sets of written signs and poses and on for all others.
        randaug_layers: operations of RandAugment for each image; 0 is none.
        randaug_magnitude: their strength, scale 10.
        randaug_variant: "tensorflow", the code of the papers with its accidents, or
          "intended", without them: `vit_jax/data/randaug.py`.
        three_augment: one of greyscale, solarisation and blur, drawn for each image.
        color_jitter: brightness, contrast and saturation change by up to this share.
    """

    name: str
    image_size: ImageSize
    crop: Annotated[str, Choice(*CROPS)] = "inception"
    crop_area: tuple[Area, Area] = (0.05, 1.0)
    crop_resize: Side = 0
    eval_crop: Annotated[str, Choice(*EVAL_CROPS)] = "resize_small_center_crop"
    eval_resize: Side = 0
    eval_interpolation: Annotated[str, Choice(*augment.FILTERS)] = "bilinear"
    flip: Annotated[str, Choice("auto", "on", "off")] = "auto"
    randaug_layers: Annotated[int, Range(0, 16)] = 0
    randaug_magnitude: Annotated[float, Range(0, 30)] = 10.0
    randaug_variant: Annotated[str, Choice("tensorflow", "intended")] = "tensorflow"
    three_augment: bool = False
    color_jitter: NotNegative = 0.0

    def __post_init__(self):
        """Checks the options. Raises ValueError."""
        check_fields(self, "data")
        # A config read back from JSON has lists.
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "crop_area", tuple(self.crop_area))
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError(
                "data.crop_area must be (least, most) with least <= most, got "
                f"{self.crop_area}"
            )
        longer = max(self.image_size)
        for key in ("crop_resize", "eval_resize"):
            if 0 != getattr(self, key) < longer:
                raise ValueError(
                    f"data.{key} must be 0 (8/7 of the image size) or at least {longer}"
                    ", the longer side of data.image_size, so that the crop fits; got "
                    f"{getattr(self, key)}"
                )

    def train_transform(
        self, image: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Crops, flips and augments: uint8 (h, w, 3) to uint8 image_size + (3,)."""
        size = self.image_size
        # Imported where they are used: most runs have a part of them.
        if self.crop in BOX_CROPS:
            from vit_jax.data.boxes import BOXES

            box = BOXES[self.crop](image.shape[:2], rng, self.crop_area)
            image = augment.resized_box(image, box, size)
        elif self.crop == "padded_random_crop":
            image = augment.padded_random_crop(image, size, rng)
        elif self.crop == "resize":
            image = augment.resize(image, size)
        else:
            keep_aspect = self.crop == "resize_small_random_crop"
            scale = augment.resize_small if keep_aspect else augment.resize
            image = scale(image, augment.enlarged(size, self.crop_resize))
            image = augment.random_crop(image, size, rng)
        if self.flips():
            image = augment.random_flip(image, rng)
        if self.randaug_layers:
            from vit_jax.data.randaug import randaugment

            strength = self.randaug_layers, self.randaug_magnitude
            image = randaugment(image, *strength, rng, self.randaug_variant)
        if self.three_augment:
            from vit_jax.data.three_augment import three_augment

            image = three_augment(image, rng)
        if self.color_jitter:
            from vit_jax.data.three_augment import color_jitter

            image = color_jitter(image, self.color_jitter, rng)
        return image

    def stored_transform(self, image: np.ndarray) -> np.ndarray:
        """The part of `train_transform` before anything random; uint8 (h, w, 3)."""
        size = augment.enlarged(self.image_size, self.crop_resize)
        if self.crop in BOX_CROPS:
            return image
        if self.crop == "resize_small_random_crop":
            return augment.resize_small(image, size)
        if self.crop == "padded_random_crop":
            return augment.padded(image, self.image_size)
        whole = self.crop == "resize"
        return augment.resize(image, self.image_size if whole else size)

    def eval_transform(self, image: np.ndarray) -> np.ndarray:
        """Resizes and crops: uint8 (h, w, 3) to uint8 image_size + (3,)."""
        antialias = self.eval_interpolation
        if self.eval_crop == "resize":
            return augment.resize(image, self.image_size, antialias=antialias)
        size = augment.enlarged(self.image_size, self.eval_resize)
        keep_aspect = self.eval_crop == "resize_small_center_crop"
        scale = augment.resize_small if keep_aspect else augment.resize
        image = scale(image, size, antialias=antialias)
        return augment.center_crop(image, self.image_size)

    def flips(self) -> bool:
        """Whether half of the training images are mirrored ("auto" resolved)."""
        if self.flip == "auto":
            parts = self.name.rstrip("/").split("/")
            if re.fullmatch(r"\d+\.\d+\.\d+", parts[-1]):
                # The folder of a prepared set: NAME/VERSION or NAME/CONFIG/VERSION.
                return not set(parts[-3:]) & _NO_FLIP
            return not {parts[0], parts[-1]} & _NO_FLIP
        return self.flip == "on"
