"""Representations of images, for the protocols on frozen features.

The representation is `pre_logits`, the input of the head (arXiv 2010.11929, Eq. 4; with
the tanh layer where the model has one), as in big_vision's few-shot evaluation.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from tqdm import tqdm

from vit_jax.data.pipeline import Data, prefetch_to_device
from vit_jax.data.transforms import EVAL_CROPS
from vit_jax.evaluation.means import EvalStep, run_step
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize
from vit_jax.parallel import sharding
from vit_jax.values import Choice, Name, Size

Params = Any
FeatureFn = Callable[[Params, UInt8[Array, "b h w 3"]], Float[Array, "b d"]]


class Features(NamedTuple):
    """A row for each example, in the order of the split.

    Attributes:
        features: float32, the representation.
        labels: integers.
        index: number of the example in what was read; some are missing if
            `data.on_error` is "skip" and they could not be read.
    """

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]


def make_feature_fn(model: AnyModel) -> FeatureFn:
    """Builds the pure `(params, images) -> features`.

    Images are uint8 (b, h, w, 3) of the model's size, features float32 (b, d). The
    caller may jit it, vmap it over parameters or scan it over batches.
    """

    def feature_fn(params: Params, images: Array) -> Array:
        applied: Any = model.apply({"params": params}, normalize(images), train=False)
        return applied[1]["pre_logits"]

    return feature_fn


@functools.cache
def feature_step(model: AnyModel, mesh: jax.sharding.Mesh) -> EvalStep:
    """Builds `(params, batch) -> features, label, index, mask`, replicated.

    Cached, so that evaluators of the same model share its compilation.
    """
    feature_fn = make_feature_fn(model)

    def step(params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        rest = {name: batch[name] for name in ("label", "index", "mask")}
        return {"features": feature_fn(params, batch["image"])} | rest

    return jax.jit(
        sharding.on_mesh(step, mesh), out_shardings=sharding.replicated(mesh)
    )


class Extractor:
    """Computes the features of whole splits on all devices, each example once."""

    def __init__(
        self, model: AnyModel, data: Data, mesh: jax.sharding.Mesh, *, batch_size: int
    ) -> None:
        """Computes nothing yet.

        Args:
            data: its `image_size` is the model's.
            batch_size: over all processes; rounded up to a multiple of the devices.
        """
        self.data, self.mesh, self.batch_size = data, mesh, batch_size
        self._step = feature_step(model, mesh)
        self._skipped: set[str] = set()

    def __call__(
        self, params: Params, split: str, records: np.ndarray | None = None
    ) -> Features:
        """Features of a split, or of the records with these numbers, in this order.

        Prints the names of records that are left out, once.

        Raises:
            ValueError: unknown split.
            ImageError: an image that cannot be read.
        """
        columns, skipped = split_outputs(
            self._step,
            params,
            self.data,
            split,
            batch_size=self.batch_size,
            mesh=self.mesh,
            records=records,
            title=f"features of {split}",
        )
        for name in sorted(set(skipped) - self._skipped):
            tqdm.write(f"left out of the features, since it cannot be read: {name}")
            self._skipped.add(name)
        return Features(columns["features"], columns["label"], columns["index"])


def split_outputs(
    step: EvalStep,
    params: Params,
    data: Data,
    split: str,
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    title: str,
    records: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Runs a step over a split: its outputs, a row for each example, on the host.

    Also returns the names of records that were left out, since they cannot be read.

    Args:
        step: returns arrays with a row for each of the batch, `mask` among them;
            replicated, if there are several processes.
        batch_size: over all processes; rounded up to a multiple of the devices.
        title: of the progress bar.
        records: numbers of the examples to read, in this order; None for all.

    Raises:
        ValueError: unknown split, or no example in it that can be read.
        ImageError: an image that cannot be read.
    """
    batch_size = rounded_up(batch_size, mesh)
    placement = sharding.batch_sharding(mesh)
    several = jax.process_count() > 1
    rows = sharding.local_rows(placement, batch_size) if several else None
    batches = data.eval_batches(split, batch_size, rows=rows, records=records)
    parts = []
    with (
        contextlib.closing(prefetch_to_device(batches, placement)) as batches,
        tqdm(
            total=data.num_examples(split) if records is None else len(records),
            desc=title,
            unit=" images",
            leave=False,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        for part in run_step(step, params, batches):
            mask = part.pop("mask")
            parts.append({name: values[mask] for name, values in part.items()})
            bar.update(int(mask.sum()))
        skipped = batches.skipped
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    if not all(map(len, columns.values())):
        raise ValueError(f"no image of {data.name} {split} can be read")
    return columns, skipped


def rounded_up(batch_size: int, mesh: jax.sharding.Mesh) -> int:
    """The next batch size that divides over the devices of a mesh."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-batch_size // devices) * devices


def own_data(
    data: Data,
    *,
    name: str,
    split: str,
    classes: tuple[str, ...],
    data_dir: str,
    crop: str,
) -> Data:
    """The data of an evaluator; empty options keep those of the training."""
    if not (name or classes or crop):
        # The same object: it holds its images in memory already.
        return data
    return dataclasses.replace(
        data,
        name=name or data.name,
        split=split,
        classes=classes or (() if name else data.classes),
        label="label" if name else data.label,
        data_dir=data_dir or data.data_dir,
        eval_crop=crop or data.eval_crop,
        batch_size=1,
    )


@dataclasses.dataclass(eq=False)
class FrozenFeatures:
    """What the protocols on frozen features share: a training and a test split.

    Attributes:
        model, mesh: model and mesh of the training.
        data: data of the training, whose options hold where those here are empty; after
            the construction, data of the features.
        name: name of another data set; "" for the training's own.
        train_split, test_split: examples to learn from, and to classify.
        classes: as in `Data`; () for those of the training if `name` is "", else all.
        data_dir: folder of prepared tensorflow-datasets.
        crop: as `eval_crop`, such as "resize_center_crop" of big_vision's few-shot.
        batch_size: images in a forward pass, over all processes.
    """

    model: AnyModel
    data: Data
    mesh: jax.sharding.Mesh
    _: dataclasses.KW_ONLY
    name: str
    train_split: Name
    test_split: Name
    classes: tuple[Name, ...]
    data_dir: str
    crop: Annotated[str, Choice("", *EVAL_CROPS)]
    batch_size: Size

    def __post_init__(self) -> None:
        """Opens both splits; raises ValueError for unknown ones or unknown classes."""
        self.data = own_data(
            self.data,
            name=self.name,
            split=self.train_split,
            classes=self.classes,
            data_dir=self.data_dir,
            crop=self.crop,
        )
        self.data.num_examples(self.train_split)
        self.data.num_examples(self.test_split)
        if self.data.is_multi_label():
            raise ValueError(
                f"an image of {self.data.name} may have several labels, and features "
                "are judged by one (fewshot, knn, probe): leave them out, or name "
                "another data set"
            )
        self.label_names = self.data.label_names()
        self.extract = Extractor(
            self.model, self.data, self.mesh, batch_size=self.batch_size
        )
