"""Representations of images, which the protocols on frozen features start from.

The representation is `pre_logits`: what the head reads (arXiv 2010.11929, Eq. 4; the
tanh layer included where the model has one), as in big_vision's few-shot evaluation.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from tqdm import tqdm

from vit_jax import sharding
from vit_jax.data.mix import normalize
from vit_jax.data.pipeline import Data, prefetch_to_device
from vit_jax.models import AnyModel
from vit_jax.outcomes import Step

Params = Any
FeatureFn = Callable[[Params, UInt8[Array, "b h w 3"]], Float[Array, "b d"]]


class Evaluator(Protocol):
    """Measures parameters; built once, called at intervals of the training."""

    def __call__(self, params: Params) -> dict[str, float]:
        """Metrics by name. In several processes, all of them must call it."""
        ...


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

    Images are uint8 (b, h, w, 3) of the model's size, features float32 (b, d). To be
    jitted, vmapped over parameters or scanned over batches by the caller.
    """

    def feature_fn(params: Params, images: Array) -> Array:
        _, out = model.apply({"params": params}, normalize(images), train=False)
        return out["pre_logits"]

    return feature_fn


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
        feature_fn = make_feature_fn(model)

        def step(params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            rest = {name: batch[name] for name in ("label", "index", "mask")}
            return {"features": feature_fn(params, batch["image"])} | rest

        # Gathered, so that every process has all rows.
        self._step = jax.jit(
            sharding.on_mesh(step, mesh), out_shardings=sharding.replicated(mesh)
        )

    def __call__(
        self, params: Params, split: str, records: np.ndarray | None = None
    ) -> Features:
        """Features of a split, or of the records with these numbers, in this order.

        Raises:
            ValueError: unknown split.
            ImageError: an image that cannot be read.
        """
        columns = split_outputs(
            self._step,
            params,
            self.data,
            split,
            batch_size=self.batch_size,
            mesh=self.mesh,
            records=records,
        )
        return Features(columns["features"], columns["label"], columns["index"])


def split_outputs(
    step: Step,
    params: Params,
    data: Data,
    split: str,
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    records: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Runs a step over a split: its outputs, a row for each example, on the host.

    Args:
        step: returns arrays with a row for each of the batch, `mask` among them;
            replicated, if there are several processes.
        batch_size: over all processes; rounded up to a multiple of the devices.
        records: numbers of the examples to read, in this order; None for all.

    Raises:
        ValueError: unknown split, or no example in it that can be read.
        ImageError: an image that cannot be read.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-batch_size // devices) * devices
    placement = sharding.batch_sharding(mesh)
    several = jax.process_count() > 1
    rows = sharding.local_rows(placement, batch_size) if several else None
    batches = data.eval_batches(split, batch_size, rows=rows, records=records)
    parts = []
    with (
        contextlib.closing(prefetch_to_device(batches, placement)) as batches,
        tqdm(
            total=data.num_examples(split) if records is None else len(records),
            desc=f"features of {split}",
            unit=" images",
            leave=False,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        for part in run_step(step, params, batches):
            mask = part.pop("mask")
            parts.append({name: values[mask] for name, values in part.items()})
            bar.update(int(mask.sum()))
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    if not len(columns["index"]):
        raise ValueError(f"no image of {data.name} {split} can be read")
    return columns


def run_step(
    step: Step, params: Params, batches: Iterable[dict[str, jax.Array]]
) -> Iterator[dict[str, np.ndarray]]:
    """Runs a step on each batch and yields its results as arrays on the host.

    The device has one batch to do while the results of another are fetched. Were all
    dispatched at once, their images would fill its memory.
    """
    ahead = None
    for batch in batches:
        if jax.process_count() > 1 and jax.default_backend() == "cpu":
            # Two at a time would mix up the messages of the processes there.
            jax.block_until_ready(ahead)
        done, ahead = ahead, step(params, batch)
        if done is not None:
            yield jax.device_get(done)
    if ahead is not None:
        yield jax.device_get(ahead)


def other_data(
    data: Data,
    *,
    name: str = "",
    train_split: str = "train",
    classes: tuple[str, ...] = (),
    data_dir: str = "",
    crop: str = "",
) -> Data:
    """The data set of an evaluator, its images prepared for the same model.

    Args:
        data: of the training, whose options hold where the others are empty.
        name: "" for the same data set.
        train_split: its label names are those of the data set.
        classes: as of `Data`; () for those of the training if `name` is "", else all.
        crop: `eval_crop`, such as "resize_center_crop" of big_vision's few-shot.
    """
    if not (name or classes or crop):
        # The same object: what it holds in memory is not read a second time.
        return data
    return dataclasses.replace(
        data,
        name=name or data.name,
        split=train_split,
        classes=classes or (() if name else data.classes),
        data_dir=data_dir or data.data_dir,
        label="label" if name else data.label,
        eval_crop=crop or data.eval_crop,
        batch_size=1,
    )
