"""Encoded JPEGs in memory to random crops of 224 px, on one core, beside peers.

    python -m benchmarks.jpeg_speed --against main --sizes 500x400 1500x1200 \\
        --tensorflow-python tf-env/bin/python --torch-python torch-env/bin/python

The images are pieces of the photographs that scikit-learn bundles, enlarged where they
are too small, and all readers get the same bytes. A box of 5 to 100 % of the area is
cut and resized. Each reader is a process of its own, on the same core, with one thread
(and torch's worker process beside it, on that core too); they read in turns. Peers
whose Python is not given are left out, and so is the other commit.

"smaller copy" is our reader with the images that `vit_jax.data.prepare --shorter-side`
would have packed.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peers.worker import ROOT, Worker

WORKER = str(ROOT / "benchmarks/peers/jpeg_worker.py")
PHOTOS = ("china.jpg", "flower.jpg")
COUNT = 48  # images
OURS, SMALLER = "ours", "ours, smaller copy"


def write_images(folder: Path, width: int, height: int, quality: int) -> float:
    """Writes pieces of photographs; returns the mean number of bytes."""
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(0)
    folder.mkdir()
    sizes = []
    for number in range(COUNT):
        photo = Image.fromarray(load_sample_image(PHOTOS[number % len(PHOTOS)]))
        scale = max(1.0, 1.1 * width / photo.width, 1.1 * height / photo.height)
        size = round(scale * photo.width), round(scale * photo.height)
        photo = photo.resize(size, Image.Resampling.BICUBIC)
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        content = io.BytesIO()
        piece = photo.crop((left, top, left + width, top + height))
        piece.save(content, "JPEG", quality=quality)
        sizes.append(len(content.getvalue()))
        Path(folder, f"{number:02}.jpg").write_bytes(content.getvalue())
    return statistics.mean(sizes)


def write_smaller(folder: Path, source: Path, side: int) -> float:
    """Writes the smaller copies; returns the mean of their pixels, in millions."""
    from vit_jax.data.shrink import shrunk

    folder.mkdir()
    areas = []
    for path in sorted(source.iterdir()):
        _, content = shrunk(path.name, path.read_bytes(), side)
        Path(folder, path.name).write_bytes(content)
        areas.append(np.prod(Image.open(io.BytesIO(content)).size) / 1e6)
    return statistics.mean(areas)


def readers(arguments: argparse.Namespace, other: Path) -> dict[str, tuple[str, dict]]:
    """The Python and the specification of each reader, by its name in the table."""
    ours = {"reader": "ours", "tree": str(ROOT)}
    found = {OURS: (sys.executable, ours)}
    if arguments.against:
        before = {**ours, "tree": str(other)}
        found[f"ours at {arguments.against}"] = (sys.executable, before)
    if arguments.shorter_side:
        found[SMALLER] = (sys.executable, ours)
    if arguments.tensorflow_python:
        spec = {"reader": "tensorflow"}
        found["TensorFlow"] = (arguments.tensorflow_python, spec)
    if arguments.torch_python:
        for decoder, workers in (("pillow", 0), ("pillow", 1), ("torchvision", 0)):
            spec = {"reader": "torchvision", "decoder": decoder, "workers": workers}
            name = f"torchvision, {decoder}, num_workers={workers}"
            found[name] = (arguments.torch_python, spec)
    return found


def measure(
    arguments: argparse.Namespace, images: dict[str, Path], other: Path
) -> dict[str, list[float]]:
    """Images a second of each reader, in each round."""
    common = {
        "device": "cpu",
        "core": max(os.sched_getaffinity(0)),
        "batch": arguments.batch,
        "flip": "on" if arguments.flip else "off",
    }
    workers: list[Worker] = []
    try:
        for name, (python, own) in readers(arguments, other).items():
            folder = images.get(name, images[OURS])
            spec = common | own | {"images": str(folder)}
            workers.append(Worker(name, [python, WORKER], spec))
            try:
                print(f"  {name}: {workers[-1].facts}", flush=True)
            except RuntimeError as error:
                print(f"  {name} is left out: {error}", flush=True)
                workers.pop().close()
        rates = {worker.peer: [] for worker in workers}
        for number in range(arguments.rounds):
            # Nobody always comes behind the same neighbour.
            for worker in workers if number % 2 else workers[::-1]:
                seconds, _ = worker.run(arguments.batches, "read")
                rate = arguments.batch * arguments.batches / seconds
                rates[worker.peer].append(rate)
    finally:
        for worker in workers:
            worker.close()
    return rates


def rows(rates: dict[str, list[float]], pixels: dict[str, float]) -> list[str]:
    """The rows of the table: medians, and our ratio to each reader with its range."""
    lines = []
    for name, found in rates.items():
        median = statistics.median(found)
        ratios = [a / b for a, b in zip(rates[OURS], found, strict=True)]
        ratio = f"{statistics.median(ratios):.2f}"
        span = f"({min(ratios):.2f}-{max(ratios):.2f})"
        area = pixels.get(name, pixels[OURS])
        lines.append(
            f"| {name} | {median:,.0f} ({min(found):,.0f}-{max(found):,.0f}) | "
            f"{median * area:,.0f} | {ratio} {span} |"
        )
    return lines


def main(arguments: argparse.Namespace) -> None:
    """Measures each size, and prints its table."""
    with tempfile.TemporaryDirectory() as temporary:
        other = Path(temporary, "other")
        if arguments.against:
            command = ["git", "archive", arguments.against, "vit_jax"]
            archive = subprocess.run(
                command, cwd=ROOT, check=True, capture_output=True
            ).stdout
            other.mkdir()
            subprocess.run(["tar", "-x"], cwd=other, input=archive, check=True)
        for size in arguments.sizes:
            width, height = map(int, size.split("x"))
            images = {OURS: Path(temporary, size)}
            pixels = {OURS: width * height / 1e6}
            mean = write_images(images[OURS], width, height, arguments.quality)
            print(f"{size}, {mean / 1e3:.0f} kB an image", flush=True)
            if side := arguments.shorter_side:
                images[SMALLER] = Path(temporary, f"{size} to {side}")
                pixels[SMALLER] = write_smaller(images[SMALLER], images[OURS], side)
            rates = measure(arguments, images, other)
            print("| reader | images/s | million pixels/s | ours / it |")
            print("|---|--:|--:|--:|", *rows(rates, pixels), sep="\n", flush=True)
            if arguments.json:
                with open(arguments.json, "a") as file:
                    print(json.dumps({"size": size, "images/s": rates}), file=file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["500x400"], help="of the JPEGs")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs (90)")
    parser.add_argument("--against", help="a commit or branch of git")
    parser.add_argument("--shorter-side", type=int, default=256, help="0 for none")
    parser.add_argument("--tensorflow-python", help="a Python with tensorflow")
    parser.add_argument("--torch-python", help="a Python with torch and torchvision")
    parser.add_argument("--flip", action="store_true", help="mirror half of the crops")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=12, help="in a turn (12)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="file for all rates, a line for each size")
    main(parser.parse_args())
