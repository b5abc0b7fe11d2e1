"""How images are cropped and augmented for training, and prepared for evaluation."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from vit_jax.data import augment

BOX_CROPS = ("inception", "random_resized_crop")
_CHOICES = {
    "crop": (
        *BOX_CROPS,
        "resize_small_random_crop",
        "resize_random_crop",
        "padded_random_crop",
        "resize",
    ),
    "eval_crop": ("resize_small_center_crop", "resize_center_crop", "resize"),
    "eval_interpolation": augment.FILTERS,
    "flip": ("auto", "on", "off"),
    "randaug_variant": ("tensorflow", "intended"),
}
# Written signs and left-right poses: the mirror image is another class, or none.
_NO_FLIP = frozenset(
    "binary_alpha_digits cmaterdb digits dsprites emnist kmnist mnist mnist_corrupted "
    "omniglot smallnorb svhn_cropped".split()
)


def check_choices(options: object, choices: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError for an option of `data` that is not one of its choices."""
    for key, allowed in choices.items():
        if getattr(options, key) not in allowed:
            raise ValueError(
                f"data.{key} must be one of {', '.join(allowed)}, got "
                f"{getattr(options, key)!r}"
            )


def check_least(options: object, least: dict[str, int]) -> None:
    """Raises ValueError for an option of `data` that is below its least value."""
    for key, value in least.items():
        if getattr(options, key) < value:
            raise ValueError(
                f"data.{key} must be at least {value}, got {getattr(options, key)}"
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
    image_size: tuple[int, int]
    crop: str = "inception"
    crop_area: tuple[float, float] = (0.05, 1.0)
    crop_resize: int = 0
    eval_crop: str = "resize_small_center_crop"
    eval_resize: int = 0
    eval_interpolation: str = "bilinear"
    flip: str = "auto"
    randaug_layers: int = 0
    randaug_magnitude: float = 10.0
    randaug_variant: str = "tensorflow"
    three_augment: bool = False
    color_jitter: float = 0.0

    def __post_init__(self):
        """Checks the options. Raises ValueError."""
        check_choices(self, _CHOICES)
        # A config read back from JSON has lists.
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "crop_area", tuple(self.crop_area))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(
                "data.image_size must be (height, width), both positive, got "
                f"{self.image_size}"
            )
        area = self.crop_area
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(
                "data.crop_area must be (least, most) with 0 < least <= most <= 1, "
                f"got {area}"
            )
        check_least(self, {"randaug_layers": 0, "color_jitter": 0})
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
