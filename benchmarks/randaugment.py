"""RandAugment on the host: images a second, beside the same function of another commit.

    python -m benchmarks.randaugment --against main

Both are in one process, on the same images with the same draws, in turns of about
0.1 s of CPU time, so that other programs disturb less. The images are smooth noise:
what an operation takes depends little on them.
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from types import ModuleType

import cv2
import numpy as np

from vit_jax.cli import run_command
from vit_jax.data import randaug

PATH = "vit_jax/data/randaug.py"
SIDES = (16, 32, 224)  # digits, CIFAR, ImageNet
LAYERS, MAGNITUDE = 2, 15.0  # of Google's strongest recipes
TURN = 0.1


def module_of(commit: str) -> ModuleType:
    """The module as it is in a commit."""
    command = ["git", "show", f"{commit}:{PATH}"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    module = ModuleType(commit)
    exec(compile(source, f"{commit}:{PATH}", "exec"), module.__dict__)
    return module


def image_of(side: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise, uint8 (side, side, 3)."""
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype("uint8")


def seconds_of(
    function: Callable[..., np.ndarray], image: np.ndarray, calls: int, seed: int
) -> float:
    """Seconds of the CPU an image."""
    rng = np.random.default_rng(seed)
    start = time.thread_time()
    for _ in range(calls):
        function(image, LAYERS, MAGNITUDE, rng)
    return (time.thread_time() - start) / calls


def main(arguments: argparse.Namespace) -> None:
    cv2.setNumThreads(1)  # as in the loading threads, of which there is one a core
    now, other = randaug.randaugment, module_of(arguments.against).randaugment
    print(f"| image | now | {arguments.against} | time, now / {arguments.against} |")
    print("|---|--:|--:|--:|")
    for side in SIDES:
        image = image_of(side, np.random.default_rng(side))
        calls = max(10, round(TURN / seconds_of(now, image, 10, seed=0)))
        turns = [
            (seconds_of(now, image, calls, seed), seconds_of(other, image, calls, seed))
            for seed in range(arguments.rounds)
        ]
        ours, theirs = (statistics.median(times) for times in zip(*turns, strict=True))
        ratios = [a / b for a, b in turns]
        print(
            f"| {side} px | {1 / ours:,.0f} images/s | {1 / theirs:,.0f} images/s | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default="main", help="a commit or branch of git")
    parser.add_argument("--rounds", type=int, default=21)
    run_command(parser, main)
