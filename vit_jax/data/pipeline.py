"""The input pipeline: from the config section `data` to batches on the device."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np

from vit_jax.data import augment
from vit_jax.data.batches import EvalBatches, TrainBatches
from vit_jax.data.cpus import usable_cpus
from vit_jax.data.decode import ADVICE, ImageError
from vit_jax.data.device import prefetch_to_device
from vit_jax.data.randaug import randaugment
from vit_jax.data.sources import CACHE_CHOICES, CachedSource, Source, make_source
from vit_jax.data.stream import EvalBlocks, TrainBlocks
from vit_jax.data.subsets import PartSource
from vit_jax.data.three_augment import color_jitter, three_augment

__all__ = ["Data", "prefetch_to_device"]

_CHOICES = {
    "crop": (
        *("inception", "resize_small_random_crop", "resize_random_crop"),
        *("padded_random_crop", "resize"),
    ),
    "eval_crop": ("resize_small_center_crop", "resize_center_crop", "resize"),
    "eval_interpolation": augment.FILTERS,
    "flip": ("auto", "on", "off"),
    "on_error": ("raise", "skip"),
    "cache": CACHE_CHOICES,
}
_LEAST = {"batch_size": 1} | dict.fromkeys(
    ("max_errors", "workers", "num_threads", "randaug_layers", "color_jitter"), 0
)
# Written signs and left-right poses: the mirror image is another class, or none.
_NO_FLIP = frozenset(
    "binary_alpha_digits cmaterdb digits dsprites emnist kmnist mnist mnist_corrupted "
    "omniglot smallnorb svhn_cropped".split()
)
# Below this the work on an image is Python's, which threads cannot share: measured
# at 32x32, a second thread halves the rate.
_SMALL_PIXELS = 64 * 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """A data set and how its images become batches: the config section `data`.

    Attributes:
        name: "digits", a tensorflow-datasets name, a folder of images or of shards, or
          a bucket of shards: `sources.make_source`.
        split: training split, such as "train" or "train[:98%]".
        classes: keep only these, in all splits, relabelled in this order: names, or
          numbers as text; () for all. A slice of a split is taken of what is left.
        label: the class: a field of the records of a tensorflow-datasets set, a rule of
          `vit_jax/data/vtab_labels.py` that derives it from one, or a field of the
          `json` of tar shards.
        batch_size: images in a training batch over all processes.
        image_size: (height, width) in pixels that the model gets.
        crop: training crop. "inception": a random box, resized;
          "resize_small_random_crop": resize with the aspect kept, random place;
          "resize_random_crop": resize without, random place; "padded_random_crop":
          resize to cover, pad by 4 pixels, random place; "resize": whole image.
        crop_area: range of the share of the image that "inception" cuts.
        crop_resize: length in pixels to which the longer side of `image_size`
          corresponds before a random crop; 0 is 8/7 of it (256 for 224).
        eval_crop: "resize_small_center_crop", "resize_center_crop" without the aspect
          (of big_vision's few-shot evaluation), or "resize", the whole image.
        eval_resize: as `crop_resize`, before the centre crop.
        eval_interpolation: of these resizes, "bilinear" or "bicubic".
        flip: mirror half of the training images: "on", "off", or "auto", which is off
          for data sets of written signs and poses and on for all others.
        randaug_layers: operations of RandAugment for each image; 0 is none.
        randaug_magnitude: their strength, scale 10.
        three_augment: one of greyscale, solarisation and blur, drawn for each image.
        color_jitter: brightness, contrast and saturation change by up to this share.
        workers: worker processes; 0 is threads of this process, best unless
          RandAugment or Python itself is the bottleneck. A cached data set is copied
          to each worker. Evaluation always uses threads.
        num_threads: threads when there are no workers; 0 is one for each CPU that the
          process may use (`vit_jax/data/cpus.py`), but one for small images in memory,
          where threads would only wait for each other.
        on_error: a bad record stops the training ("raise"), or is replaced by the next
          good one and listed ("skip").
        max_errors: number of skipped records beyond which the training stops.
        cache: decoded images in memory: "auto" (up to 1 GiB), "always", "never".
        data_dir: folder of prepared tensorflow-datasets, also gs://bucket/folder; "" is
          their default.
        stage: folder of this host that data in buckets is copied to, once.
        holdout: share of each class in "val" of a folder without splits.
    """

    name: str
    split: str = "train"
    classes: tuple[str, ...] = ()
    label: str = "label"
    batch_size: int
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
    three_augment: bool = False
    color_jitter: float = 0.0
    workers: int = 0
    num_threads: int = 0
    on_error: str = "raise"
    max_errors: int = 100
    cache: str = "auto"
    data_dir: str = ""
    stage: str = ""
    holdout: float = 0.1
    _sources: dict[str, Source] = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self):
        """Checks the options; opens nothing. Raises ValueError."""
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(
                    f"data.{key} must be one of {', '.join(choices)}, got "
                    f"{getattr(self, key)!r}"
                )
        # A config read back from JSON has lists.
        object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
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
        for key, least in _LEAST.items():
            if getattr(self, key) < least:
                raise ValueError(
                    f"data.{key} must be at least {least}, got {getattr(self, key)}"
                )
        longer = max(self.image_size)
        for key in ("crop_resize", "eval_resize"):
            if 0 != getattr(self, key) < longer:
                raise ValueError(
                    f"data.{key} must be 0 (8/7 of the image size) or at least {longer}"
                    ", the longer side of data.image_size, so that the crop fits; got "
                    f"{getattr(self, key)}"
                )

    def __getstate__(self) -> dict[str, Any]:
        # Workers get the options; the one source that they read travels by itself.
        return {**self.__dict__, "_sources": {}}

    def label_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.source(self.split).label_names

    def num_examples(self, split: str | None = None) -> int:
        """Number of records of a split; None is the training split."""
        return len(self.source(split or self.split))

    def check_splits(self, eval_splits: tuple[str, ...]) -> None:
        """Opens the splits, so that what is wrong with them shows before training.

        Raises:
            ValueError: a split that is not there, or a batch larger than the training
              split.
        """
        for split in eval_splits:
            self.num_examples(split)
        if self.batch_size > self.num_examples():
            raise ValueError(
                f"data.batch_size={self.batch_size} is larger than the split "
                f"{self.split!r} of {self.name}, which has {self.num_examples()} "
                "images; lower it"
            )

    def train_batches(
        self,
        *,
        seed: int,
        start_index: int = 0,
        rows: np.ndarray | None = None,
    ) -> TrainBatches:
        """Shuffled, augmented batches without end.

        Args:
            seed: decides order and augmentation; 0 or more.
            start_index: `next_index` of the iterator to go on from.
            rows: sorted numbers of the rows of each batch that this process delivers,
              as of `sharding.local_rows`; None for all.

        Returns:
            Iterator of {"image": uint8 (local_batch, h, w, 3), "label": int32
            (local_batch,)}; close it, or use it in a `with`. With worker processes the
            program's main module needs `if __name__ == "__main__":`.

        Raises:
            ValueError: batch larger than the split.
            ImageError: here, or later from the iterator: a bad record.
        """
        self.check_splits(())
        source = self.source(self.split)
        tries = 1 if self.on_error == "raise" else self.max_errors + 1
        blocks = TrainBlocks(
            source,
            self.train_transform,
            self.image_size,
            seed=seed,
            tries=tries,
            start=start_index,
            batch_size=self.batch_size,
            rows=rows,
        )
        return TrainBatches(
            blocks, start_index=start_index, **self._reading(source, self.workers)
        )

    def eval_batches(
        self,
        split: str,
        batch_size: int,
        *,
        rows: np.ndarray | None = None,
        records: np.ndarray | None = None,
    ) -> EvalBatches:
        """Each record of a split once, in order, the last batch padded.

        Args:
            split: such as "test" or "train[98%:]".
            batch_size: images in a batch over all processes.
            rows: as of `train_batches`; all processes get equally many batches.
            records: numbers of the records to read, in this order; None for all.

        Returns:
            Iterator of {"image", "label"} as in training, "mask": bool (local_batch,),
            False where there is no record, and "index": int64 (local_batch,), the
            number of the record, or its place in `records`; `len` is the number of
            batches.

        Raises:
            ValueError: unknown or empty split.
            ImageError: here, or later from the iterator: a bad record.
        """
        source = self.source(split)
        reading = self._reading(source, workers=0)
        if records is not None:
            source = PartSource(source, records, source.label_names)
        blocks = EvalBlocks(
            source,
            self.eval_transform,
            self.image_size,
            batch_size=batch_size,
            rows=rows,
        )
        return EvalBatches(blocks, **reading)

    def train_transform(
        self, image: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Crops, flips and augments: uint8 (h, w, 3) to uint8 image_size + (3,)."""
        size = self.image_size
        if self.crop == "inception":
            image = augment.inception_crop(image, size, rng, area=self.crop_area)
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
            image = randaugment(image, self.randaug_layers, self.randaug_magnitude, rng)
        if self.three_augment:
            image = three_augment(image, rng)
        if self.color_jitter:
            image = color_jitter(image, self.color_jitter, rng)
        return image

    def stored_transform(self, image: np.ndarray) -> np.ndarray:
        """The part of `train_transform` before anything random; uint8 (h, w, 3)."""
        size = augment.enlarged(self.image_size, self.crop_resize)
        if self.crop == "inception":
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

    def source(self, split: str) -> Source:
        """The records of a split, opened once; raises as `make_source`."""
        if split not in self._sources:
            source = make_source(
                self.name,
                split,
                classes=self.classes,
                label=self.label,
                data_dir=self.data_dir or None,
                stage=self.stage,
                holdout=self.holdout,
                cache=self.cache,
            )
            # Known already where all was decoded: then not in the middle of a run.
            if self.on_error == "raise" and isinstance(source, CachedSource):
                if source.first_error():
                    raise ImageError(f"{source.first_error()}; {ADVICE}")
            self._sources[split] = source
        return self._sources[split]

    def _reading(self, source: Source, workers: int) -> dict[str, Any]:
        in_memory = isinstance(source, CachedSource) or self.name == "digits"
        small = math.prod(self.image_size) <= _SMALL_PIXELS
        threads = 1 if in_memory and small else usable_cpus()
        return {
            "num_threads": self.num_threads or threads,
            "workers": workers,
            "on_error": self.on_error,
            "max_errors": self.max_errors,
        }
