"""Classes of images, and where the model looks.

    python -m vit_jax.predict --checkpoint runs/digits photo.jpg folder/ --top 3
    python -m vit_jax.predict --checkpoint runs/digits --split test --attention out
    python -m vit_jax.predict --checkpoint google/vit-base-patch16-224 photo.jpg

`predict_images` of `evaluation/predictions.py` does the same for arrays.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import jax

from vit_jax.cli import (
    IMAGE_SIZE_HELP,
    add_checkpoint_argument,
    add_model_options,
    command_parser,
    image_size,
    run_command,
)
from vit_jax.data.decode import ImageError
from vit_jax.data.files import Files, find_images
from vit_jax.evaluation.outcomes import as_json
from vit_jax.evaluation.predictions import predictions, spread
from vit_jax.figures import pictures
from vit_jax.figures.pictures import Prediction, shorten
from vit_jax.flags import BatchSize, Positive, flag
from vit_jax.interop.trained import FSDP_HELP, TrainedModel, load_trained
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.parallel import sharding
from vit_jax.storage import output
from vit_jax.storage.paths import as_path, on_disk

OVERVIEW_IMAGES = 16


def table_row(item: Prediction, name_width: int, label_width: int) -> str:
    """A line of the table: file, the true label if known, classes with percentages."""
    name = shorten(output.printable(item.name), name_width, keep_end=True)
    cells = [f"{name:{name_width}}"]
    if item.label is not None:
        cells.append(f"is {shorten(item.label, label_width):{label_width}} ")
    for label, share in item.best:
        cells.append(
            f"{shorten(label, label_width):{label_width}} {100 * share:5.1f} %"
        )
    return "  ".join(cells)


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


def check_run(run: TrainedModel, arguments: argparse.Namespace) -> None:
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
    folder = on_disk(arguments.attention) if arguments.attention else None
    read = (arguments.checkpoint, *source.paths)
    if arguments.json:
        output.check(as_path(arguments.json), read)
    if folder:
        output.check(folder, read, is_folder=True, results=True)
    indices = list(range(len(source)))
    devices = jax.devices()[: None if arguments.fsdp < 0 else arguments.fsdp]
    mesh = sharding.make_mesh(data=1, fsdp=arguments.fsdp, tensor=1, devices=devices)
    run = load_trained(
        arguments.checkpoint,
        ema=arguments.ema,
        image_size=arguments.image_size,
        mesh=mesh,
        **arguments.model_options,
    )
    check_run(run, arguments)
    if arguments.split:
        source, indices = spread(run, arguments.split, arguments.count or 8)
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
            pictures.prediction(item, folder / f"{number:04d}_{stem}.png")
            shown = [*shown, item][:OVERVIEW_IMAGES]

    if shown:
        overview = pictures.overview(shown, folder / "overview.png")
        print(f"attention overlays in {folder}, all at once in {overview}")
    if arguments.json:
        text = json.dumps(rows, indent=2, ensure_ascii=False)
        output.write(as_path(arguments.json), text + "\n")
    if failures:
        raise ImageError(
            f"{len(failures)} of {len(indices)} images could not be read:\n"
            + "\n".join(f"  {output.printable(text)}" for text in failures)
        )


if __name__ == "__main__":
    parser = command_parser("vit_jax.predict", __doc__)
    add_checkpoint_argument(
        parser,
        words="images",
        most=sys.maxsize,
        help="image files, and folders of them",
    )
    add_model_options(parser)
    parser.add_argument("--image-size", type=image_size, help=IMAGE_SIZE_HELP)
    parser.add_argument("--split", help="images of the run's own data set, not files")
    parser.add_argument(
        "--count", type=flag(Positive), help="with --split, evenly spaced (8)"
    )
    parser.add_argument(
        "--top", type=flag(Positive), default=5, help="classes shown (5)"
    )
    parser.add_argument("--json", help="file for names and probabilities")
    parser.add_argument("--attention", help="folder for pictures of the attention")
    parser.add_argument("--ema", action="store_true", help="use averaged parameters")
    parser.add_argument("--batch-size", type=flag(BatchSize), default=64)
    parser.add_argument("--fsdp", type=int, default=1, help=FSDP_HELP)
    run_command(parser, main)
