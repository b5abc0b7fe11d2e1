"""A chain of the public commands, from training to the files of timm and Hugging Face.

    python -m benchmarks.families --workdir runs/families --cifar10 FOLDER

1. The same command trains a ViT, a hybrid and a BiT on CIFAR-10 and on Fashion-MNIST.
2. The ViT is fine-tuned at twice the resolution from its checkpoint.
3. The result is converted to timm and to Hugging Face.
4. All three classify the same images with the same probabilities.

About half an hour on 2 CPU cores with the default of 3 epochs. Started again, it is
resumed. Prints Markdown tables. The models are small: `configs/families.py`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vit_jax.data.sources import make_source
from vit_jax.storage.run_files import read_metrics

FAMILIES = ("vit", "hybrid", "bit")
IMAGES = 64
# Programs differ in the order of additions, and probabilities have six digits.
TOLERANCE = 1e-5


def command(module: str, *arguments: object) -> None:
    """Runs a public command, as a user would.

    Raises:
        CalledProcessError: it failed.
    """
    line = [sys.executable, "-m", f"vit_jax.{module}", *map(str, arguments)]
    print("$ python", *line[1:], flush=True)
    subprocess.run(line, check=True)


def train_families(workdir: Path, data: dict[str, list[str]], epochs: int) -> None:
    """Trains each family on each data set; prints the test accuracies."""
    rows = []
    for dataset, overrides in data.items():
        for family in FAMILIES:
            folder = workdir / f"{family}_{dataset}"
            spec = f"configs/families.py:family={family},data={dataset},epochs={epochs}"
            command("train", f"--config={spec}", f"--workdir={folder}", *overrides)
            rows.append((family, dataset, accuracy(folder)))
    print("\n| model | data | test accuracy |\n|---|---|---|")
    for family, dataset, value in rows:
        print(f"| {family} | {dataset} | {100 * value:.2f} % |")
    print(flush=True)


def accuracy(folder: Path) -> float:
    """The last test accuracy of a run."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [row for row in rows if row["split"] == "test"][-1]["accuracy"]


def finetune(workdir: Path, overrides: list[str], steps: int) -> Path:
    """Fine-tunes the ViT of CIFAR-10 at 64 instead of 32 pixels."""
    folder = workdir / "vit_64px"
    command(
        "train",
        "--config=configs/finetune.py:dataset=cifar10,size=64",
        f"--init={workdir / 'vit_cifar10'}",
        f"--workdir={folder}",
        f"--config.train.duration={steps}steps",
        "--config.optim.warmup=10%",
        "--config.data.batch_size=128",
        "--config.eval.every=100%",
        "--config.checkpoint.every=50%",
        *overrides,
    )
    return folder


def write_images(folder: Path, name: str, data_dir: str) -> Path:
    """The first test images of a data set as files."""
    source = make_source(name, "test", data_dir=data_dir or None, cache="never")
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(IMAGES, len(source))):
        Image.fromarray(source[index]["image"]).save(folder / f"{index:03d}.png")
    return folder


def predictions(checkpoint: Path, images: Path) -> list[dict[str, float]]:
    """Probability of each class, for each image, by the `predict` command."""
    path = images.parent / f"{checkpoint.stem}.json"
    command(
        "predict", f"--checkpoint={checkpoint}", images, "--top=10", f"--json={path}"
    )
    rows = json.loads(path.read_text())
    return [
        {item["label"]: item["probability"] for item in row["predictions"]}
        for row in rows
    ]


def compare(results: dict[str, list[dict[str, float]]]) -> None:
    """Prints the differences of the probabilities.

    Raises:
        AssertionError: they are larger than rounding errors.
    """
    first = next(iter(results.values()))
    print("\n| checkpoint | same class | largest difference of a probability |")
    print("|---|---|---|")
    for name, rows in results.items():
        pairs = list(zip(first, rows, strict=True))
        same = sum(max(a, key=a.get) == max(b, key=b.get) for a, b in pairs)
        gap = max(abs(a[label] - b[label]) for a, b in pairs for label in a)
        print(f"| {name} | {same} of {len(rows)} | {gap:.1e} |", flush=True)
        assert np.isfinite(gap) and gap < TOLERANCE, f"{name} answers differently"


def main() -> None:
    """Runs the chain."""
    parser = argparse.ArgumentParser(description="Train, fine-tune, convert, predict.")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cifar10", default="cifar10", help="name or folder")
    parser.add_argument("--data-dir", default="", help="of tensorflow-datasets")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning")
    arguments = parser.parse_args()

    place = [f"--config.data.data_dir={arguments.data_dir}"]
    cifar10 = [*place, f"--config.data.name={arguments.cifar10}"]
    workdir = arguments.workdir
    data = {"cifar10": cifar10, "fashion_mnist": place}
    train_families(workdir, data, arguments.epochs)
    tuned = finetune(workdir, cifar10, arguments.steps)
    print(f"\nfine-tuned at 64 px: {100 * accuracy(tuned):.2f} %\n", flush=True)

    images = write_images(workdir / "images", arguments.cifar10, arguments.data_dir)
    checkpoints = {
        "run folder": tuned,
        "timm": workdir / "vit_timm",
        "Hugging Face": workdir / "vit_huggingface",
    }
    for name in ("timm", "huggingface"):
        command("convert", tuned, workdir / f"vit_{name}", f"--layout={name}")
    compare({k: predictions(path, images) for k, path in checkpoints.items()})


if __name__ == "__main__":
    main()
