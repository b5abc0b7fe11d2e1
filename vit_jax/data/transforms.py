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
SCRAMBLES = ("patches", "pixels", "both")
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
        object_size: pixels a side to which images are cut and augmented, to stand
          anywhere on a grey canvas of `image_size`: `canvas.py`; 0 is no canvas. In
          evaluation the place depends on the image alone.
        scramble: last of all, one fixed permutation of "patches", of the "pixels" in
          each patch, or "both", in training and evaluation: `scramble.py`. It depends
          on `image_size`. CutMix, which is not done here, cuts the scrambled plane.
        scramble_patch: side of these patches in pixels.
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
    object_size: Side = 0
    scramble: Annotated[str, Choice("", *SCRAMBLES)] = ""
    scramble_patch: Side = 0

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
        if self.object_size:
            from vit_jax.data.canvas import check_object

            check_object(self.image_size, self.object_size)
        if self.scramble:
            from vit_jax.data.scramble import check_patch

            check_patch(self.image_size, self.scramble_patch)
        longer = max(self.crop_size)
        for key in ("crop_resize", "eval_resize"):
            if 0 != getattr(self, key) < longer:
                raise ValueError(
                    f"data.{key} must be 0 (8/7 of the image size) or at least {longer}"
                    ", the longer side of what is cut out, so that the crop fits; got "
                    f"{getattr(self, key)}"
                )

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) that crops have: of the image, or of the object in it."""
        side = self.object_size
        return (side, side) if side else self.image_size

    def train_transform(
        self, image: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Crops, flips and augments: uint8 (h, w, 3) to uint8 image_size + (3,)."""
        size = self.crop_size
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
        return self.arranged(image, rng)

    def stored_transform(self, image: np.ndarray) -> np.ndarray:
        """The part of `train_transform` before anything random; uint8 (h, w, 3)."""
        size = augment.enlarged(self.crop_size, self.crop_resize)
        if self.crop in BOX_CROPS:
            return image
        if self.crop == "resize_small_random_crop":
            return augment.resize_small(image, size)
        if self.crop == "padded_random_crop":
            return augment.padded(image, self.crop_size)
        whole = self.crop == "resize"
        return augment.resize(image, self.crop_size if whole else size)

    def eval_transform(self, image: np.ndarray) -> np.ndarray:
        """Resizes and crops: uint8 (h, w, 3) to uint8 image_size + (3,)."""
        antialias, size = self.eval_interpolation, self.crop_size
        if self.eval_crop == "resize":
            return self.arranged(augment.resize(image, size, antialias=antialias))
        keep_aspect = self.eval_crop == "resize_small_center_crop"
        scale = augment.resize_small if keep_aspect else augment.resize
        larger = augment.enlarged(size, self.eval_resize)
        image = scale(image, larger, antialias=antialias)
        return self.arranged(augment.center_crop(image, size))

    def arranged(
        self, image: np.ndarray, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """The image on its canvas, and scrambled, where the options say so."""
        if self.object_size:
            from vit_jax.data.canvas import on_canvas

            image = on_canvas(image, self.image_size, rng)
        if self.scramble:
            from vit_jax.data.scramble import scrambled

            image = scrambled(image, self.scramble_patch, self.scramble)
        return image

    def flips(self) -> bool:
        """Whether half of the training images are mirrored ("auto" resolved)."""
        if self.flip == "auto":
            parts = self.name.rstrip("/").split("/")
            if re.fullmatch(r"\d+\.\d+\.\d+", parts[-1]):
                # The folder of a prepared set: NAME/VERSION or NAME/CONFIG/VERSION.
                return not set(parts[-3:]) & _NO_FLIP
            return not {parts[0], parts[-1]} & _NO_FLIP
        return self.flip == "on"
