"""Scrambled planes: one permutation, last of all, the same on host and device."""

import jax
import numpy as np
import pytest

from vit_jax.data.device_augment import make_augment
from vit_jax.data.pipeline import Data
from vit_jax.data.scramble import patch_order, pixel_order, plane_order, scrambled

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 8, 3), dtype=np.uint8)
KINDS = ("patches", "pixels", "both")


def data(**options) -> Data:
    own = {"name": "digits", "batch_size": 8, "image_size": (12, 8), "crop": "resize"}
    return Data(**(own | {"flip": "off", "scramble_patch": 4} | options))


def blocks(image: np.ndarray) -> np.ndarray:
    """Patches of 4 pixels in raster order, (6, 16, 3)."""
    rows, columns = image.shape[0] // 4, image.shape[1] // 4
    cut = image.reshape(rows, 4, columns, 4, 3).swapaxes(1, 2)
    return cut.reshape(rows * columns, 16, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_and_pixels_move_as_their_orders_say(kind):
    wanted = blocks(IMAGE)
    if kind != "pixels":
        wanted = wanted[patch_order((3, 2))]
    if kind != "patches":
        wanted = wanted[:, pixel_order(4)]
    np.testing.assert_array_equal(blocks(scrambled(IMAGE, 4, kind)), wanted)
    assert (wanted != blocks(IMAGE)).any()
    order = plane_order((12, 8), 4, kind)
    np.testing.assert_array_equal(np.sort(order), np.arange(96))


def test_the_permutations_never_change():
    """Runs of several days, and of several versions of NumPy, are compared."""
    assert patch_order((2, 4)).tolist() == [5, 4, 2, 0, 7, 6, 3, 1]
    assert pixel_order(3).tolist() == [7, 3, 4, 1, 6, 8, 5, 0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_scrambling_comes_last_in_training_and_evaluation(kind):
    plain = data(crop="resize_random_crop", flip="on", color_jitter=0.5)
    other = data(crop="resize_random_crop", flip="on", color_jitter=0.5, scramble=kind)
    for transform in ("train_transform", "eval_transform"):
        seeds = [(), ()]
        if transform == "train_transform":
            seeds = [(np.random.default_rng(5),) for _ in range(2)]
        ours, theirs = (
            getattr(one, transform)(IMAGE, *seed)
            for one, seed in zip((other, plain), seeds, strict=True)
        )
        np.testing.assert_array_equal(ours, scrambled(theirs, 4, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_scrambles_as_the_host(kind):
    images = RNG.integers(0, 256, (5, 12, 8, 3), dtype=np.uint8)
    ours = make_augment(data(scramble=kind))(jax.random.key(0), images)
    wanted = [scrambled(image, 4, kind) for image in images]
    np.testing.assert_array_equal(ours, np.stack(wanted))


@pytest.mark.parametrize("patch", [0, 3, 5])
def test_patches_that_do_not_tile_are_refused(patch):
    with pytest.raises(
        ValueError, match=f"sides of data.image_size, 12x8: it is {patch}"
    ):
        data(scramble="pixels", scramble_patch=patch)
    data(scramble_patch=patch)  # not read then


def test_unknown_scrambles_are_refused():
    with pytest.raises(
        ValueError, match="data.scramble is 'rows': wanted one of patch"
    ):
        data(scramble="rows")
