"""Predicted classes of single images, with attention maps."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from vit_jax.analysis.features import output_rollout
from vit_jax.data.decode import ImageError
from vit_jax.data.files import Files
from vit_jax.data.source_types import Source, label_numbers
from vit_jax.evaluation.classification import open_source
from vit_jax.evaluation.outcomes import named
from vit_jax.figures.pictures import Prediction
from vit_jax.interop.trained import TrainedModel
from vit_jax.losses import probabilities
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize
from vit_jax.parallel import sharding


def predict_images(
    run: TrainedModel,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    batch_size: int = 64,
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities of images of any sizes, prepared as in evaluation.

    Args:
        run: from `load_trained`; its `label_names` name the columns.
        images: uint8 RGB arrays (height, width, 3), one an image.
        batch_size: images on the device at a time.

    Raises:
        ValueError: an image of another type or shape.
    """
    chunks = [np.empty((0, len(run.label_names)), np.float32)]
    for start in range(0, len(images), batch_size):
        chunk = [prepared(run, image) for image in images[start : start + batch_size]]
        chunks.append(forward(run, chunk, batch_size, attention=False)[0])
    return np.concatenate(chunks)


def prepared(run: TrainedModel, image: UInt8[np.ndarray, "_ _ 3"]) -> np.ndarray:
    """The image as the model gets it, uint8 (height, width, 3) of the model's size.

    Raises:
        ValueError: the image is not uint8 (height, width, 3).
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            "an image must be uint8 of shape (height, width, 3), but one is "
            f"{image.dtype} of shape {image.shape}"
        )
    return run.data.eval_transform(image)


def forward(
    run: TrainedModel, images: Sequence[np.ndarray], batch_size: int, *, attention: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (n, classes) and rollout maps (n, h, w) of prepared images.

    The batch is padded to `batch_size`, so that any number of images needs one
    compilation, and divided over the devices of the parameters.
    """
    placement = jax.tree.leaves(run.params)[0].sharding
    batch_size = -(-batch_size // placement.num_devices) * placement.num_devices
    batch = np.zeros((batch_size, *run.data.image_size, 3), np.uint8)
    for row, image in enumerate(images):
        batch[row] = image
    mesh = placement.mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        output = forward_step(
            run.model,
            run.params,
            jax.device_put(batch, sharding.batch_sharding(mesh)),
            loss_name=run.loss["name"],
            attention=attention,
        )
    shares, heats = jax.tree.map(lambda x: np.asarray(x)[: len(images)], output)
    if not np.isfinite(shares).all():
        raise ArithmeticError(
            f"{run.source} gives outputs that are NaN or infinite: its weights are too "
            "large, or its dtype is too narrow"
        )
    return shares, heats


@functools.partial(jax.jit, static_argnames=("model", "loss_name", "attention"))
def forward_step(
    model: AnyModel,
    params: Any,
    images: UInt8[Array, "b height width 3"],
    *,
    loss_name: str,
    attention: bool,
) -> tuple[Float[Array, "b n"], Float[Array, "b h w"] | None]:
    """Probabilities and, if asked for, the attention rollout over the patches."""
    logits, out = model.apply(
        {"params": params}, normalize(images), train=False, return_attention=attention
    )
    heat = output_rollout(model, out) if attention else None  # pyright: ignore[reportArgumentType]
    return probabilities(logits, loss_name), heat


def predictions(
    run: TrainedModel,
    source: Source | Files,
    indices: Sequence[int],
    *,
    top: int,
    threshold: float | None,
    batch_size: int,
    attention: bool,
) -> Iterator[Prediction | ImageError]:
    """Predicts records in their order; one that cannot be read is given as its error.

    Args:
        top: number of classes for each, at most.
        threshold: more classes are given if their probabilities are not below it.
        attention: whether to give the attention rollout too.
    """

    def read(index: int) -> tuple[np.ndarray, tuple[str, ...] | None] | ImageError:
        try:
            record = source[index]
        except ImageError as error:
            return error
        names: Any = getattr(source, "label_names", ())  # `Files` has none
        image = prepared(run, record["image"])
        if "label" not in record:
            return image, None
        return image, tuple(names[number] for number in label_numbers(record["label"]))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            records = list(pool.map(read, chunk))
            images = [record[0] for record in records if isinstance(record, tuple)]
            shares, heats = forward(run, images, batch_size, attention=attention)
            results = zip(
                shares, repeat(None) if heats is None else heats, strict=False
            )
            for index, record in zip(chunk, records, strict=True):
                if isinstance(record, ImageError):
                    yield record
                    continue
                image, labels = record
                share, heat = next(results)
                above = 0 if threshold is None else int((share >= threshold).sum())
                order = np.argsort(-share, kind="stable")[: max(top, above)]
                best = named(order, share[order], run.label_names)
                yield Prediction(source.record_name(index), image, best, heat, labels)


def spread(run: TrainedModel, split: str, count: int) -> tuple[Source, list[int]]:
    """A split of the run's own data and the numbers of evenly spaced records in it."""
    source = open_source(dataclasses.replace(run.data, split=split))
    places = np.linspace(0, len(source) - 1, min(count, len(source)))
    return source, places.round().astype(int).tolist()
