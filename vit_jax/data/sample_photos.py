"""A small folder of real photos, to try fine-tuning and prediction on.

    python -m vit_jax.data.sample_photos photos

Pieces of the two photographs that scikit-learn bundles, a Chinese temple and a dahlia:
`photos/train/CLASS` from the left half of the temple or flower, `photos/val/CLASS` from
its right half, so that the two share no pixel. Two photographs teach a model nothing
about others: they only show that the commands work.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from vit_jax.cli import command_parser, run_command
from vit_jax.storage import output

# The photograph of each class, and the rows and columns that the object fills.
CLASSES = {
    "temple": ("china.jpg", slice(40, 400), slice(70, 350)),
    "flower": ("flower.jpg", slice(80, 360), slice(160, 460)),
}
SIDE = 112
COUNTS = {"train": 40, "val": 10}


def write_photos(folder: Path) -> int:
    """Writes the pieces as JPEG files; returns how many there are."""
    # Imported here: it takes seconds, and a wrong flag should be reported at once.
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    for name, (file, rows, columns) in CLASSES.items():
        photo = load_sample_image(file)[rows, columns]
        middle = photo.shape[1] // 2
        parts = {"train": photo[:, :middle], "val": photo[:, middle:]}
        for split, part in parts.items():
            place = folder / split / name
            for number in range(COUNTS[split]):
                top = generator.integers(part.shape[0] - SIDE + 1)
                left = generator.integers(part.shape[1] - SIDE + 1)
                piece = part[top : top + SIDE, left : left + SIDE]
                content = io.BytesIO()
                Image.fromarray(piece).save(content, "JPEG", quality=92)
                output.write(place / f"{number:02}.jpg", content.getvalue())
    return len(CLASSES) * sum(COUNTS.values())


def main(arguments: argparse.Namespace) -> None:
    """The command: writes the photos and says how to train on them."""
    output.check(arguments.folder, is_folder=True)
    count = write_photos(arguments.folder)
    print(
        f"{arguments.folder}: {count} photos of {len(CLASSES)} classes\n"
        "train on them with\n"
        f"  python -m vit_jax.train --config folder:data={arguments.folder} "
        "--workdir runs/photos"
    )


if __name__ == "__main__":
    parser = command_parser("vit_jax.data.sample_photos", __doc__)
    parser.add_argument("folder", type=Path, help="where they are written")
    run_command(parser, main)
