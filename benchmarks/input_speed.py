"""The input pipeline: images a second, beside that of another commit.

    python -m benchmarks.input_speed --against main --folder cifar10

The folder has `train/CLASS/image`; without `--folder`, images are 500 x 400 JPEGs of
smooth noise. Each of the two is a process of its own, and they read in turns, so that
other programs disturb both alike. Images a second of CPU time are the steadier figure.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
TICKS = os.sysconf("SC_CLK_TCK")


def write_photos(folder: Path) -> None:
    """200 JPEGs of 500 x 400 pixels in two classes."""
    rng = np.random.default_rng(0)
    for number in range(200):
        coarse = rng.integers(0, 256, (40, 50, 3), np.uint8)
        image = Image.fromarray(coarse).resize((500, 400), Image.Resampling.BICUBIC)
        path = folder / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def cpu_seconds() -> float:
    """CPU time of this process and of its children."""
    from multiprocessing import active_children

    total = time.process_time()
    for child in active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def serve(folder: str, size: int, batch_size: int, workers: int) -> None:
    """Reads batches for as many seconds as each line of stdin says."""
    from vit_jax.data.pipeline import Data

    data = Data(
        name=folder,
        batch_size=batch_size,
        image_size=(size, size),
        cache="never",
        workers=workers,
    )
    with data.train_batches(seed=0) as batches:
        print("ready", flush=True)
        for line in sys.stdin:
            for _ in range(4):  # read ahead while the other one had its turn
                next(batches)
            count, start, cpu = 0, time.perf_counter(), cpu_seconds()
            while time.perf_counter() - start < float(line):
                next(batches)
                count += batch_size
            seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
            print(count / seconds, count / cpu, flush=True)


@contextlib.contextmanager
def reader(tree: Path, words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that serves with the library of a tree."""
    command = [sys.executable, __file__, "--serve", *words]
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(tree)},
        cwd=tree,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the reader of {tree} did not start")
        yield process
        process.stdin.close()


def turn(process: subprocess.Popen[str], seconds: float) -> tuple[float, float]:
    """Images a second, and a second of CPU time."""
    assert process.stdin and process.stdout
    print(seconds, file=process.stdin, flush=True)
    rate, per_cpu = map(float, process.stdout.readline().split())
    return rate, per_cpu


def compare(trees: list[Path], words: list[str], arguments: argparse.Namespace) -> str:
    """A row of the table: rates of both, and the ratios of pairs of turns."""
    with reader(trees[0], words) as now, reader(trees[1], words) as other:
        pairs = []
        for number in range(arguments.pairs):
            # Each is the first as often as the other.
            order = (other, now) if number % 2 else (now, other)
            rates = [turn(process, arguments.seconds) for process in order]
            pairs.append(rates if number % 2 else rates[::-1])
    cells = []
    for kind in (0, 1):
        theirs, ours = ([pair[which][kind] for pair in pairs] for which in (0, 1))
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        cells += [f"{statistics.median(x):,.0f}" for x in (theirs, ours)]
        span = f"{min(ratios):.2f}-{max(ratios):.2f}"
        cells.append(f"{statistics.median(ratios):.3f} ({span})")
    return " | ".join(cells)


def main(arguments: argparse.Namespace) -> None:
    # Not at the top: this file also runs beside the packages of an older commit.
    from benchmarks.commit import unpack

    with tempfile.TemporaryDirectory() as temporary:
        other = unpack(arguments.against, Path(temporary, "other"))
        folder = Path(arguments.folder or temporary, "" if arguments.folder else "jpeg")
        if not arguments.folder:
            write_photos(folder)
        name = arguments.against
        print(
            f"| reading | images/s, {name} | now | ratio | a CPU second, {name} | now |"
            " ratio |\n|---|--:|--:|--:|--:|--:|--:|"
        )
        for workers in (0, WORKERS):
            words = [str(folder.absolute()), str(arguments.size)]
            words += [str(arguments.batch_size), str(workers)]
            kind = f"{workers} worker processes" if workers else "threads"
            cells = compare([ROOT, other], words, arguments)
            print(f"| {kind} | {cells} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], *map(int, sys.argv[3:]))
        sys.exit()
    from vit_jax.cli import run_command

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default="main", help="a commit or branch of git")
    parser.add_argument("--folder", help="default: 200 JPEGs of 500 x 400 pixels")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side (224)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn (2)")
    run_command(parser, main)
