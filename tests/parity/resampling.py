"""Positions and patches resampled by timm and scipy, and by us."""

import numpy as np
import parity.operators  # noqa: F401
import scipy.ndimage
import torch
from golden.weights import random_tensor
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from vit_jax.models.resample import resample_grid, resample_patches

GRIDS = [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((7, 12), (16, 9))]
PATCHES = [((16, 16), (32, 32)), ((16, 16), (12, 12)), ((8, 14), (14, 10))]


def bicubic(old: tuple[int, int], new: tuple[int, int]) -> float:
    table = random_tensor("pos_embed", (1, old[0] * old[1], 32))
    theirs = resample_abs_pos_embed(
        torch.from_numpy(table), new, old, num_prefix_tokens=0
    )
    ours = resample_grid(table.reshape(*old, 32), new, "bicubic")
    return difference(ours, theirs.numpy().reshape(*new, 32))


def bicubic_plain(old: tuple[int, int], new: tuple[int, int]) -> float:
    """As transformers interpolates positions."""
    table = random_tensor("pos_embed", (1, *old, 32))[0]
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(table.transpose(2, 0, 1)[None].copy()),
        size=new,
        mode="bicubic",
        align_corners=False,
    )
    ours = resample_grid(table, new, "bicubic_plain")
    return difference(ours, theirs.numpy()[0].transpose(1, 2, 0))


def bilinear(old: tuple[int, int], new: tuple[int, int]) -> float:
    """As in the ViT paper's code."""
    table = random_tensor("pos_embed", (1, *old, 32))[0]
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    return difference(
        resample_grid(table, new, "bilinear"),
        scipy.ndimage.zoom(table, zoom, order=1),
    )


def linear_plain(old: tuple[int, int], new: tuple[int, int]) -> float:
    """As timm interpolates the positions of a FlexiViT."""
    table = random_tensor("pos_embed", (1, old[0] * old[1], 32))
    filters = {"interpolation": "bilinear", "antialias": False}
    theirs = resample_abs_pos_embed(
        torch.from_numpy(table), new, old, num_prefix_tokens=0, **filters
    )
    ours = resample_grid(table.reshape(*old, 32), new, "linear_plain")
    return difference(ours, theirs.numpy().reshape(*new, 32))


def linear_patches(old: tuple[int, int], new: tuple[int, int]) -> float:
    """As timm resizes the patches of a FlexiViT."""
    kernel = random_tensor("patch_embed.proj.weight", (32, 3, *old))
    theirs = resample_patch_embed(
        torch.from_numpy(kernel), list(new), "bilinear", antialias=False
    ).numpy()
    ours = resample_patches(kernel.transpose(2, 3, 1, 0), new, "linear_plain")
    return difference(ours, theirs.transpose(2, 3, 1, 0))


def patches(old: tuple[int, int], new: tuple[int, int]) -> float:
    kernel = random_tensor("patch_embed.proj.weight", (32, 3, *old))
    theirs = resample_patch_embed(torch.from_numpy(kernel), list(new)).numpy()
    ours = resample_patches(kernel.transpose(2, 3, 1, 0), new)
    return difference(ours, theirs.transpose(2, 3, 1, 0))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest one, over the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def rows() -> list[tuple[str, str, tuple[int, int], tuple[int, int], float]]:
    """Function, original, old and new size, difference."""
    return [
        (function.__name__, original, old, new, function(old, new))
        for function, original, sizes in (
            (bicubic, "timm resample_abs_pos_embed", GRIDS),
            (bicubic_plain, "torch interpolate, as transformers", GRIDS),
            (bilinear, "scipy.ndimage.zoom, order 1", GRIDS),
            (patches, "timm resample_patch_embed", PATCHES),
            (linear_plain, "timm resample_abs_pos_embed, FlexiViT", GRIDS),
            (linear_patches, "timm resample_patch_embed, FlexiViT", PATCHES),
        )
        for old, new in sizes
    ]
