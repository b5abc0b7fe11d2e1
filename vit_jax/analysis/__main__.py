"""What a checkpoint has learned: the paper's pictures, and its inductive biases.

    python -m vit_jax.analysis --checkpoint runs/photos --images FOLDER
    python -m vit_jax.analysis --checkpoint runs/cifar10 --split test
    python -m vit_jax.analysis --checkpoint ViT-B_16.npz --images FOLDER --initial
    python -m vit_jax.analysis --checkpoint ViT-B_16.npz --images FOLDER --radius

Attention rollout, mean attention distance, filters and positions as figures; locality,
2-D structure and equivariance as numbers. With `--split`, a split of the run's data,
also the accuracy with shuffled blocks and without positions. `--initial` measures the
same model at its initialisation beside it. `--radius` limits attention to a radius in
patches, in one layer at a time and in all: accuracy, or without labels the share of
images that keep their class.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.analysis.profile import bias_profile
from vit_jax.analysis.radius import Limited, limited
from vit_jax.cli import (
    add_checkpoint_argument,
    command_parser,
    image_size,
    run_command,
)
from vit_jax.data.files import Files, find_images
from vit_jax.data.source_types import Source
from vit_jax.evaluation.predictions import prepared, spread
from vit_jax.figures.heads import radius_tiles
from vit_jax.figures.model import Trained, draw_model
from vit_jax.flags import Positive, flag
from vit_jax.interop.trained import TrainedModel, load_trained
from vit_jax.models import init_params
from vit_jax.models.pixels import normalize
from vit_jax.storage import output
from vit_jax.storage.paths import on_disk


def read_images(
    arguments: argparse.Namespace, run: TrainedModel
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images of the model's size, and their labels if the model's own data has them.

    Raises:
        ValueError: neither images nor a split, or both.
        ImageError: an image that cannot be read.
    """
    if bool(arguments.images) == bool(arguments.split):
        raise ValueError(
            "give --images with files and folders, or --split of the run's own data"
        )
    source: Source | Files
    if arguments.split:
        source, places = spread(run, arguments.split, arguments.count)
    else:
        source = Files(find_images(arguments.images))
        steps = np.linspace(0, len(source) - 1, min(arguments.count, len(source)))
        places = steps.round().astype(int).tolist()
    records = [source[place] for place in places]
    images = np.stack([prepared(run, record["image"]) for record in records])
    # Accuracies are those of one label an image.
    known = arguments.split and run.model.num_classes and not run.multi_label
    return images, np.array([r["label"] for r in records]) if known else None


def report(profiles: dict[str, dict[str, float]], every_layer: bool) -> str:
    """A Markdown table with a line for each measure and a column for each state."""
    names = list(dict.fromkeys(name for p in profiles.values() for name in p))
    lines = ["| measure | " + " | ".join(profiles) + " |"]
    lines.append("|---" * (1 + len(profiles)) + "|")
    for name in names:
        if not every_layer and any(part in name for part in ("block_", "stage_")):
            continue
        cells = [f"{p[name]:.3f}" if name in p else "" for p in profiles.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def radius_report(found: Limited) -> str:
    """A Markdown table with a line for each layer and a column for each radius."""
    columns = [f"radius {radius}" for radius in found.radii]
    lines = [f"| {found.measure}, limit in | " + " | ".join(columns) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for n, row in enumerate(found.values):
        name = f"layer {n}" if n < len(found.values) - 1 else "all layers"
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in row) + " |")
    return "\n".join([*lines, f"\nwithout a limit: {found.whole:.3f}"])


def main(arguments: argparse.Namespace) -> None:
    """The command: measures, prints a table, draws and writes `profile.json`."""
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}: wanted at least 1")
    folder = on_disk(arguments.output)
    read = (arguments.checkpoint, *(arguments.images or ()))
    output.check(folder, read, is_folder=True, results=True)
    run = load_trained(arguments.checkpoint, image_size=arguments.image_size)
    images, labels = read_images(arguments, run)
    pixels = normalize(jnp.asarray(images))
    within = (
        limited(run.model, run.params, pixels, labels) if arguments.radius else None
    )
    states = {"checkpoint": run.params}
    if arguments.initial:
        states["at initialisation"] = init_params(run.model, jax.random.key(0))
    key = jax.random.key(0)
    profiles = {
        name: bias_profile(run.model, params, pixels, labels, key=key)
        for name, params in states.items()
    }
    print(f"{run.source}: {len(images)} images\n")
    print(report(profiles, arguments.layers))
    facts = {"checkpoint": run.source, "images": len(images), "profiles": profiles}
    if within:
        print(f"\n{radius_report(within)}")
        facts["radius"] = within._asdict() | {"values": within.values.tolist()}
    with output.filling(folder) as new:
        drawn = draw_model(Trained(run.model, run.params), images, new)
        if within:
            path, label = new / "radius.png", within.measure
            drawn["radius"] = radius_tiles(
                within.values, within.radii, path, bar_label=label
            )
        output.write(new / "profile.json", json.dumps(facts, indent=1) + "\n")
    print(f"\n{folder}: profile.json, {', '.join(p.name for p in drawn.values())}")


if __name__ == "__main__":
    parser = command_parser("vit_jax.analysis", __doc__)
    add_checkpoint_argument(parser)
    parser.add_argument("--images", nargs="+", help="files and folders")
    parser.add_argument("--split", help="of the run's own data, such as test")
    parser.add_argument(
        "--count", type=flag(Positive), default=128, help="images, evenly spread"
    )
    parser.add_argument(
        "--image-size", type=image_size, metavar="HxW", help="or a side (checkpoint's)"
    )
    parser.add_argument("--initial", action="store_true", help="also before training")
    parser.add_argument(
        "--radius", action="store_true", help="also with attention within a radius"
    )
    parser.add_argument("--layers", action="store_true", help="print every layer")
    parser.add_argument("--output", default="analysis", help="folder of the figures")
    run_command(parser, main)
