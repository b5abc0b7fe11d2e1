"""Compares full-size models with the original code, weights random: `make parity`.

Each model is written by its project, read by us, written by us, and read by its
project again. Prints a Markdown table; the measure is the largest difference of a logit
over the largest logit. The exit status is 1 if it is above 1e-4 anywhere, or if any bit
of a tensor has changed on the way.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from golden.weights import random_pixels
from parity import (
    architectures,
    cards,
    huggingface_classes,
    huggingface_originals,
    our_models,
    resampling,
    timm_originals,
    torchvision_originals,
)
from parity.original import Original

from vit_jax.interop import files, load_checkpoint, save_checkpoint

LIMIT = 1e-4
MODULES = (timm_originals, huggingface_originals, torchvision_originals, our_models)


def compare(original: Original) -> tuple[str, float]:
    """A row of the table, and the difference that counts."""
    pixels = random_pixels(original.image_size)[:1]
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs", Path(folder) / "ours"
        theirs.mkdir()
        original.write(theirs)
        reference = original.logits(theirs, pixels)
        loaded = load_checkpoint(theirs, dtype="float32")
        logits = jax.jit(loaded.model.apply, static_argnames="train")(
            {"params": loaded.params}, 2 * pixels - 1, train=False
        )[0]
        save_checkpoint(
            ours,
            loaded.model,
            loaded.params,
            layout=original.layout,
            facts=loaded.facts,
        )
        check_tensors(theirs, ours)
        cards.check(ours)
        again = original.logits(ours, pixels)
    largest = np.abs(reference).max()
    read, back = (float(np.abs(x - reference).max()) for x in (logits, again))
    count = sum(x.size for x in jax.tree.leaves(loaded.params))
    row = (
        f"| {original.architecture} | {original.layout} | {count:,} | {largest:.2f} "
        f"| {read:.1e} | {back:.1e} |"
    )
    return row, max(read, back) / float(largest)


def check_tensors(theirs: Path, ours: Path) -> None:
    """Raises AssertionError if a tensor of both files is not equal bit for bit."""
    before, after = (
        {name.removeprefix("vision_model."): x for name, x in tensors.items()}
        for tensors in (files.read_tensors(path)[0] for path in (theirs, ours))
    )
    both = before.keys() & after.keys()
    # The attention pooling that `SiglipForImageClassification` leaves out.
    lost = [x for x in before.keys() - both if not x.startswith("head.")]
    assert len(lost) <= 1, lost
    for name in both:
        # The mask of pre-training is none of our parameters.
        if not name.endswith("mask_token"):
            assert before[name].tobytes() == after[name].tobytes(), name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of an architecture's name")
    only = parser.parse_args().only
    failed = []
    print(
        "| architecture | layout | parameters | largest logit | max logit difference "
        "| after writing and reading again | seconds |\n|---|---|--:|--:|--:|--:|--:|"
    )
    start = time.time()
    for original in (found for module in MODULES for found in module.originals()):
        if only not in original.architecture:
            continue
        begin = time.time()
        row, difference = compare(original)
        print(f"{row} {time.time() - begin:.0f} |", flush=True)
        if not difference <= LIMIT:
            failed.append(f"{original.architecture}: {difference:.1e}")
        jax.clear_caches()
        gc.collect()
    print("\n| resampling | original | from | to | max difference |")
    print("|---|---|---|---|--:|")
    for name, original, old, new, difference in resampling.rows():
        print(f"| {name} | {original} | {old} | {new} | {difference:.1e} |")
        if not difference <= LIMIT:
            failed.append(f"{name} {old} to {new}: {difference:.1e}")
    for project, module in (
        ("timm", architectures),
        ("transformers", huggingface_classes),
    ):
        print(f"\n| model of {project}, one block | | difference |\n|---|---|--:|")
        for name, outcome, difference in module.rows(only):
            print(f"| {name} | {outcome} | {difference:.1e} |", flush=True)
            if not difference <= LIMIT:
                failed.append(f"{name}, one block: {difference:.1e}")
    print(f"\n{time.time() - start:.0f} s")
    if failed:
        print(
            f"above {LIMIT:.0e} of the largest: " + "; ".join(failed), file=sys.stderr
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
