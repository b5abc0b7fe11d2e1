"""Classes of images, and where the model looks.

    python -m vit_jax.predict --checkpoint runs/digits photo.jpg folder/ --top 3
    python -m vit_jax.predict --checkpoint runs/digits --split test --attention out
    python -m vit_jax.predict --checkpoint google/vit-base-patch16-224 photo.jpg

`predict_images` does the same for arrays.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from vit_jax import plots, sharding
from vit_jax.analysis.features import output_rollout
from vit_jax.cli import run_command
from vit_jax.data.decode import ImageError
from vit_jax.data.files import Files, find_images
from vit_jax.data.mix import normalize
from vit_jax.data.sources import Source
from vit_jax.evaluate import open_source
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.outcomes import as_json, named, probabilities
from vit_jax.plots import Prediction, shorten
from vit_jax.run import CHECKPOINT_HELP, FSDP_HELP, Run, load_run
from vit_jax.storage.integrity import write_atomically
from vit_jax.storage.paths import as_path, medium, on_disk

OVERVIEW_IMAGES = 16


def predict_images(
    run: Run, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, batch_size: int = 64
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities of images of any sizes, prepared as in evaluation.

    Args:
        run: of `vit_jax.run.load_run`; its `label_names` name the columns.
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


def prepared(run: Run, image: UInt8[np.ndarray, "_ _ 3"]) -> np.ndarray:
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
    run: Run, images: Sequence[np.ndarray], batch_size: int, *, attention: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (n, classes) and rollout maps (n, h, w) of prepared images.

    Padded to `batch_size`, so that any number of images takes one compilation. Where
    the parameters are divided over devices, the batch is too.
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
    return jax.tree.map(lambda x: np.asarray(x)[: len(images)], output)


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
    heat = output_rollout(model, out) if attention else None
    return probabilities(logits, loss_name), heat


def predictions(
    run: Run,
    source: Source | Files,
    indices: Sequence[int],
    *,
    top: int,
    batch_size: int,
    attention: bool,
) -> Iterator[Prediction | ImageError]:
    """Predicts records in their order; one that cannot be read is given as its error.

    Args:
        top: number of classes of each, at most.
        attention: also the attention rollout.
    """

    def read(index: int) -> tuple[np.ndarray, str | None] | ImageError:
        try:
            record = source[index]
        except ImageError as error:
            return error
        label = source.label_names[record["label"]] if "label" in record else None
        return prepared(run, record["image"]), label

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            records = list(pool.map(read, chunk))
            images = [record[0] for record in records if isinstance(record, tuple)]
            shares, heats = forward(run, images, batch_size, attention=attention)
            results = zip(shares, heats if attention else repeat(None), strict=False)
            for index, record in zip(chunk, records, strict=True):
                if isinstance(record, ImageError):
                    yield record
                    continue
                image, label = record
                share, heat = next(results)
                order = np.argsort(-share, kind="stable")[:top]
                best = named(order, share[order], run.label_names)
                yield Prediction(source.record_name(index), image, best, heat, label)


def table_row(item: Prediction, name_width: int, label_width: int) -> str:
    """A line of the table: file, the true label if known, classes with percentages."""
    name = shorten(item.name, name_width, keep_end=True)
    cells = [f"{name:{name_width}}"]
    if item.label is not None:
        cells.append(f"is {shorten(item.label, label_width):{label_width}} ")
    for label, share in item.best:
        cells.append(
            f"{shorten(label, label_width):{label_width}} {100 * share:5.1f} %"
        )
    return "  ".join(cells)


def spread(run: Run, split: str, count: int) -> tuple[Source, list[int]]:
    """A split of the run's own data and the numbers of evenly spaced records in it."""
    source = open_source(dataclasses.replace(run.data, split=split))
    places = np.linspace(0, len(source) - 1, min(count, len(source)))
    return source, places.round().astype(int).tolist()


def check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for arguments that cannot be meant so."""
    if bool(arguments.images) == bool(arguments.split):
        found = "both" if arguments.split else "neither"
        raise ValueError(
            f"give image files and folders, or --split for the run's own data: found "
            f"{found}"
        )
    if arguments.count is not None and not arguments.split:
        raise ValueError("--count goes with --split: all files that are given are used")
    for name in ("top", "batch_size", "count"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}: wanted at least 1")


def check_run(run: Run, arguments: argparse.Namespace) -> None:
    """Raises ValueError for what a checkpoint has not got."""
    name = arguments.checkpoint
    if not run.model.num_classes:
        raise ValueError(
            f"{name} has no head, so it gives features and no classes; "
            "vit_jax.load returns its model and parameters"
        )
    if arguments.split and not run.data.name:
        raise ValueError(
            f"--split is for the data set that a run was trained on, and {name} tells "
            "of none: give image files and folders"
        )
    if arguments.attention and not has_attention(run.model):
        kind = "axial" if isinstance(run.model, VisionTransformer) else "no"
        raise ValueError(
            f"--attention shows the attention between all patches, and {name}, a "
            f"{type(run.model).__name__}, has {kind} attention: leave it out"
        )


def has_attention(model: AnyModel) -> bool:
    """Whether each token of a model sees each other one."""
    return isinstance(model, VisionTransformer) and model.attention == "full"


def main(arguments: argparse.Namespace) -> None:
    """The command: prints a row an image, batch by batch, and writes the files."""
    check(arguments)
    source = Files(find_images(arguments.images))  # a wrong name shows at once
    indices = list(range(len(source)))
    devices = jax.devices()[: None if arguments.fsdp < 0 else arguments.fsdp]
    mesh = sharding.make_mesh(data=1, fsdp=arguments.fsdp, tensor=1, devices=devices)
    run = load_run(arguments.checkpoint, ema=arguments.ema, mesh=mesh)
    check_run(run, arguments)
    if arguments.split:
        source, indices = spread(run, arguments.split, arguments.count or 8)
    folder = on_disk(arguments.attention) if arguments.attention else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    name_width = min(40, max(len(source.record_name(index)) for index in indices))
    label_width = min(20, max(map(len, run.label_names)))
    # A pipe gets whole lines, a terminal what it has room for.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize

    rows, shown, failures = [], [], []
    for number, item in enumerate(
        predictions(
            run,
            source,
            indices,
            top=arguments.top,
            batch_size=min(arguments.batch_size, len(indices)),
            attention=folder is not None,
        )
    ):
        if isinstance(item, ImageError):
            failures.append(str(item))
            continue
        print(shorten(table_row(item, name_width, label_width), width), flush=True)
        known = {} if item.label is None else {"label": item.label}
        rows.append({"file": item.name} | known | {"predictions": as_json(item.best)})
        if folder:
            stem = re.sub(r"[^\w.-]+", "_", Path(item.name).stem)[-80:]
            plots.prediction(item, folder / f"{number:04d}_{stem}.png")
            shown = [*shown, item][:OVERVIEW_IMAGES]

    if shown:
        overview = plots.overview(shown, folder / "overview.png")
        print(f"attention overlays in {folder}, all at once in {overview}")
    if arguments.json:
        text = json.dumps(rows, indent=2, ensure_ascii=False)
        path = as_path(arguments.json)
        medium(path).make_folder(path.parent)
        write_atomically(path, text + "\n")
    if failures:
        raise ImageError(
            f"{len(failures)} of {len(indices)} images could not be read:\n"
            + "\n".join(f"  {failure}" for failure in failures)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.predict",
        description="Classify images with a run, or a checkpoint of others.",
    )
    parser.add_argument("images", nargs="*", help="image files, and folders of them")
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT_HELP)
    parser.add_argument("--split", help="images of the run's own data set, not files")
    parser.add_argument("--count", type=int, help="with --split, evenly spaced (8)")
    parser.add_argument("--top", type=int, default=5, help="classes shown (5)")
    parser.add_argument("--json", help="file for names and probabilities")
    parser.add_argument("--attention", help="folder for pictures of the attention")
    parser.add_argument("--ema", action="store_true", help="use averaged parameters")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--fsdp", type=int, default=1, help=FSDP_HELP)
    run_command(parser, main)
