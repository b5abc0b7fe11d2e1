"""A ViT with its rows permuted as the images of `data.scramble` are: the same function.

A random start is as likely with its rows in one order as in another. So a ViT with
learned positions cannot tell scrambled images from plain ones before, during or after
its training.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.lab.profiles import test_images
from vit_jax.data.scramble import patch_order, pixel_order, scrambled
from vit_jax.interop.trained import load_trained
from vit_jax.models.pixels import normalize

IMAGES = 128


def permuted(params: dict[str, Any], grid: tuple[int, int], kind: str) -> dict:
    """The parameters with which a ViT sees scrambled images as it saw plain ones.

    Token j of a scrambled image is made of patch `patch_order[j]`, and gets its
    position; pixel q of a patch is pixel `pixel_order[q]`, and gets its row of the
    patch embedding. What follows treats all tokens alike. Sums over tokens and pixels
    change their order: equal but for rounding, in training too.

    Args:
        params: of a `VisionTransformer` with positions `learned`, whose patch is that
            of the scrambling.
        grid: rows and columns of its patches.
    """
    kernel, table = params["embedding"]["kernel"], params["positions"]["embedding"]
    if kind != "pixels":
        prefix = table.shape[1] - grid[0] * grid[1]
        rows = np.r_[np.arange(prefix), prefix + patch_order(grid)]
        table = table[:, rows]
    if kind != "patches":
        side = kernel.shape[0]
        rows = kernel.reshape(side * side, *kernel.shape[2:])[pixel_order(side)]
        kernel = rows.reshape(kernel.shape)
    return params | {
        "embedding": params["embedding"] | {"kernel": kernel},
        "positions": {"embedding": table},
    }


def largest_change(folder: Path, kind: str) -> tuple[float, float]:
    """How far logits of a trained ViT move when images and rows are permuted.

    Returns:
        The largest difference of a logit, and the standard deviation of all logits.
    """
    run = load_trained(folder)
    side = run.model.patch_size
    plain, _ = test_images(run.config, IMAGES)
    moved = np.stack([scrambled(image, side, kind) for image in plain])

    def logits(params: dict[str, Any], images: np.ndarray) -> np.ndarray:
        pixels = normalize(jnp.asarray(images))
        return np.asarray(run.model.apply({"params": params}, pixels, train=False)[0])

    before = logits(run.params, plain)
    after = logits(permuted(run.params, run.model.grid, kind), moved)
    return float(np.abs(after - before).max()), float(before.std())
