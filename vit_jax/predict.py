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
from typing import Any

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
from vit_jax.evaluation.multi_label import THRESHOLD
from vit_jax.evaluation.outcomes import as_json
from vit_jax.evaluation.predictions import predictions, spread
from vit_jax.figures import pictures
from vit_jax.figures.pictures import Prediction, shorten
from vit_jax.flags import BatchSize, Positive, Probability, flag
from vit_jax.interop.trained import FSDP_HELP, TrainedModel, load_trained
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.parallel import sharding
from vit_jax.storage import output
from vit_jax.storage.paths import as_path, on_disk

OVERVIEW_IMAGES = 16


def table_row(
    item: Prediction,
    best: list[tuple[str, float]],
    name_width: int,
    label_width: int,
) -> str:
    """A line of the table: file, the true labels if known, classes with percentages.

    Args:
        best: the predicted classes, of several labels perhaps none.
    """
    name = shorten(output.printable(item.name), name_width, keep_end=True)
    cells = [f"{name:{name_width}}"]
    if item.labels is not None:
        text = ", ".join(item.labels) or "of no class"
        cells.append(f"is {shorten(text, label_width):{label_width}} ")
    if not best:
        cells.append("no class")
    for label, share in best:
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


def check_places(
    arguments: argparse.Namespace, folder: Path | None, source: Files
) -> None:
    """Raises OutputError for files and a folder that cannot be written, or are read."""
    read = (arguments.checkpoint, *source.paths)
    if arguments.json:
        output.check(as_path(arguments.json), read)
    if folder:
        output.check(folder, read, is_folder=True, results=True)


def threshold_of(run: TrainedModel, arguments: argparse.Namespace) -> float | None:
    """The probability from which on classes are predicted; None for the best ones.

    Raises:
        ValueError: one is given for probabilities that sum to 1.
    """
    threshold = arguments.threshold
    if threshold is None:
        return THRESHOLD if run.multi_label else None
    if run.loss["name"] != "sigmoid":
        raise ValueError(
            f"--threshold is for runs with the sigmoid loss, and {arguments.checkpoint}"
            " has softmax, whose best class is meant: leave it out"
        )
    return threshold


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


def known_labels(item: Prediction, run: TrainedModel) -> dict[str, Any]:
    """The true labels for JSON: `labels`, `label` if there is one, or nothing."""
    if item.labels is None:
        return {}
    return {"labels": item.labels} if run.multi_label else {"label": item.labels[0]}


def main(arguments: argparse.Namespace) -> None:
    """The command: prints a row an image, batch by batch, and writes the files."""
    check(arguments)
    source = Files(find_images(arguments.images))  # a wrong name shows at once
    folder = on_disk(arguments.attention) if arguments.attention else None
    check_places(arguments, folder, source)
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
    threshold = threshold_of(run, arguments)
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
            threshold=threshold,
            batch_size=min(arguments.batch_size, len(indices)),
            attention=folder is not None,
        )
    ):
        if isinstance(item, ImageError):
            failures.append(str(item))
            continue
        best = [pair for pair in item.best if pair[1] >= (threshold or 0)]
        text = table_row(item, best, name_width, label_width)
        print(shorten(text, width), flush=True)
        known = known_labels(item, run)
        rows.append({"file": item.name} | known | {"predictions": as_json(best)})
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
    parser.add_argument(
        "--threshold",
        type=flag(Probability),
        help="of several labels an image, all classes from this probability on (0.5)",
    )
    parser.add_argument("--json", help="file for names and probabilities")
    parser.add_argument("--attention", help="folder for pictures of the attention")
    parser.add_argument("--ema", action="store_true", help="use averaged parameters")
    parser.add_argument("--batch-size", type=flag(BatchSize), default=64)
    parser.add_argument("--fsdp", type=int, default=1, help=FSDP_HELP)
    run_command(parser, main)
