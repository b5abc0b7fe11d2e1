"""The input pipeline: from the config section `data` to batches on the device."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import numpy as np

from vit_jax.data.batches import EvalBatches, TrainBatches
from vit_jax.data.cpus import check_workers, usable_cpus
from vit_jax.data.decode import ADVICE, ImageError
from vit_jax.data.device import prefetch_to_device
from vit_jax.data.source_types import (
    CACHE_CHOICES,
    CachedSource,
    PartSource,
    Source,
    is_multi_label,
)
from vit_jax.data.stream import EvalBlocks, TrainBlocks
from vit_jax.data.transforms import ImageTransforms
from vit_jax.values import Choice, Count, Name, Range, Size

__all__ = ["Data", "prefetch_to_device"]

SAMPLINGS = ("balanced", "sqrt")
_SHOWN_CLASSES = 4
# Below this, most of the work on an image is Python's, which threads cannot share: at
# 32x32 a second thread halves the rate.
_SMALL_PIXELS = 64 * 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(ImageTransforms):
    """A data set and how its images become batches: the config section `data`.

    Attributes:
        split: training split, such as "train" or "train[:98%]".
        classes: keep only these, in all splits, relabelled in this order: names, or
          numbers as text; () for all. A slice of a split is taken of what is left.
        label: the class: a field of the records of a tensorflow-datasets set, a rule of
          `vit_jax/data/vtab_labels.py` that derives it from one, or a field of the
          `json` of tar shards.
        batch_size: images in a training batch over all processes.
        sampling: classes of unequal size: "" takes each image once an epoch;
          "balanced" takes as many images of each class, and "sqrt" as many as the root
          of its size is large, in an epoch of as many images as before: `balance.py`.
        repeated_augmentation: copies of each image in a batch, each augmented anew; a
          third of the images fills an epoch of 3, as in DeiT. 1 is off.
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

    split: Name = "train"
    classes: tuple[Name, ...] = ()
    label: Name = "label"
    batch_size: Size
    sampling: Annotated[str, Choice("", *SAMPLINGS)] = ""
    repeated_augmentation: Size = 1
    workers: Count = 0
    num_threads: Annotated[int, Range(0, 1024)] = 0
    on_error: Annotated[str, Choice("raise", "skip")] = "raise"
    max_errors: Count = 100
    cache: Annotated[str, Choice(*CACHE_CHOICES)] = "auto"
    data_dir: str = ""
    stage: str = ""
    holdout: Annotated[float, Range(0, 1, left_open=True, right_open=True)] = 0.1
    _sources: dict[str, Source] = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self):
        """Checks the options; opens nothing. Raises ValueError."""
        super().__post_init__()
        # A config read back from JSON has lists.
        object.__setattr__(self, "classes", tuple(self.classes))

    def __getstate__(self) -> dict[str, Any]:
        # Workers get the options only; the source that they read is pickled by itself.
        return {**self.__dict__, "_sources": {}}

    def label_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.source(self.split).label_names

    def is_multi_label(self) -> bool:
        """Whether an image may have several labels, so that `label` is (b, classes)."""
        return is_multi_label(self.source(self.split))

    def num_examples(self, split: str | None = None) -> int:
        """Number of records of a split; None is the training split."""
        return len(self.source(split or self.split))

    def in_words(self, splits: Iterable[str]) -> str:
        """Size of each split, the classes with their first names, what is left out."""
        from vit_jax.data.listing import describe_left_out
        from vit_jax.storage.output import printable

        names = self.label_names()
        sizes, left_out = [], {}
        for split in dict.fromkeys(splits):
            source = self.source(split)
            sizes.append(f"{len(source):,} images in {split}")
            # By folder: splits that were held out come from the same one.
            left_out |= getattr(source, "left_out", {})
        shown = ", ".join(map(printable, names[:_SHOWN_CLASSES]))
        more = ", ..." if len(names) > _SHOWN_CLASSES else ""
        text = f"{self.name}: {', '.join(sizes)}; {len(names):,} classes: {shown}{more}"
        if self.is_multi_label():
            mean = self.source(self.split).labels().sum(1).mean()
            text += f"; any number of labels an image, {mean:.3g} on average"
        counts = sum(left_out.values(), Counter())
        return f"{text}; {describe_left_out(counts)}" if counts else text

    def check_splits(self, eval_splits: tuple[str, ...]) -> None:
        """Opens the splits, so that mistakes show before the training.

        Raises:
            ValueError: a split that is not there, a batch larger than the training
              split, or more workers than the machine stands.
        """
        check_workers(self.workers)
        for split in eval_splits:
            self.num_examples(split)
        if self.batch_size > self.num_examples():
            raise ValueError(
                f"data.batch_size={self.batch_size} is larger than the split "
                f"{self.split!r} of {self.name}, which has {self.num_examples()} "
                "images; lower it"
            )
        if self.sampling and self.is_multi_label():
            raise ValueError(
                f"data.sampling={self.sampling!r} levels classes, and an image of "
                f"{self.name} may have several: set loss.class_weights instead"
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
              as from `sharding.local_rows`; None for all.

        Returns:
            Iterator of {"image": uint8 (local_batch, h, w, 3), "label": int32
            (local_batch,), or of several labels an image uint8 (local_batch,
            classes)}; close it, or use it in a `with`. With worker processes the
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
            copies=self.repeated_augmentation,
            order=self._order(source, seed),
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
            rows: as in `train_batches`; all processes get equally many batches.
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

    def source(self, split: str) -> Source:
        """The records of a split, opened once; raises as `make_source`."""
        # Imported where a split is opened: a reader of shards needs no other format.
        from vit_jax.data.sources import make_source

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
            # Where all was decoded, a bad record is reported now and not in mid-run.
            if self.on_error == "raise" and isinstance(source, CachedSource):
                if source.first_error():
                    raise ImageError(f"{source.first_error()}; {ADVICE}")
            self._sources[split] = source
        return self._sources[split]

    def _order(self, source: Source, seed: int) -> Callable[[int], int] | None:
        if not self.sampling:
            return None
        from vit_jax.data.balance import BalancedOrder

        copies = self.repeated_augmentation
        return BalancedOrder(source.labels(), self.sampling, seed, copies)

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
