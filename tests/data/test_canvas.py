"""Objects anywhere on a canvas: where they stand, and what is around them."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax.data import in_memory
from vit_jax.data.canvas import GREY
from vit_jax.data.device_augment import make_augment
from vit_jax.data.pipeline import Data
from vit_jax.interop.trained import fitted

OBJECTS = np.random.default_rng(0).integers(0, 100, (300, 4, 4, 3), dtype=np.uint8)


def data(**options) -> Data:
    own = {"name": "digits", "batch_size": 8, "image_size": (9, 6), "object_size": 4}
    return Data(
        **(own | {"crop": "resize", "eval_crop": "resize", "flip": "off"} | options)
    )


def corner(image: np.ndarray) -> tuple[int, int]:
    """Where the only pixels that are not grey begin."""
    rows, columns = (
        np.flatnonzero((image != GREY).any(axis)) for axis in ((1, 2), (0, 2))
    )
    assert len(rows) == len(columns) == 4
    return int(rows[0]), int(columns[0])


def check(images: np.ndarray, size: tuple[int, int]) -> set[tuple[int, int]]:
    """The places of the objects, each of which has to be there whole."""
    assert images.shape == (300, *size, 3) and images.dtype == np.uint8
    places = [corner(image) for image in images]
    for image, thing, (top, left) in zip(images, OBJECTS, places, strict=True):
        np.testing.assert_array_equal(image[top : top + 4, left : left + 4], thing)
    return set(places)


EVERYWHERE = {(top, left) for top in range(6) for left in range(3)}


def test_objects_stand_everywhere_in_training():
    rng = np.random.default_rng(1)
    host = np.stack([data().train_transform(x, rng) for x in OBJECTS])
    device = np.asarray(make_augment(data())(jax.random.key(0), OBJECTS))
    assert check(host, (9, 6)) == check(device, (9, 6)) == EVERYWHERE


def test_in_evaluation_an_object_has_its_place():
    images = np.stack([data().eval_transform(x) for x in OBJECTS])
    assert check(images, (9, 6)) == EVERYWHERE
    again = np.stack([data().eval_transform(x.copy()) for x in OBJECTS])
    np.testing.assert_array_equal(images, again)


def test_a_larger_canvas_has_nearly_the_same_places():
    large = data(image_size=(54, 36))
    for thing in OBJECTS[:50]:
        pairs = zip(
            corner(data().eval_transform(thing)),
            corner(large.eval_transform(thing)),
            ((6, 51), (3, 33)),
            strict=True,
        )
        for small, place, (few, many) in pairs:
            assert place * few // many <= small <= (place + 1) * few // many


def test_crops_are_of_the_object():
    """Also those that are stored for the device, and those of another canvas."""
    image = np.random.default_rng(2).integers(0, 100, (40, 30, 3), dtype=np.uint8)
    crops = {"crop": "resize_random_crop", "eval_crop": "resize_center_crop"}
    cut = data(**crops, crop_resize=5, eval_resize=5)
    assert cut.stored_transform(image).shape == (5, 5, 3)
    corner(cut.train_transform(image, np.random.default_rng(0)))
    corner(cut.eval_transform(image))
    larger = fitted(cut, (18, 18))
    assert larger == dataclasses.replace(cut, image_size=(18, 18))
    stored = in_memory.eval_images(larger, "test").image
    assert stored.shape == (359, 18, 18, 3)
    corner(stored[0])


def test_objects_are_scrambled_with_their_canvas():
    options = {"image_size": (8, 8), "scramble": "pixels", "scramble_patch": 8}
    plain = data(image_size=(8, 8))
    for thing in OBJECTS[:3]:
        ours, theirs = (x.eval_transform(thing) for x in (data(**options), plain))
        assert (ours != theirs).any()
        assert sorted(map(tuple, ours.reshape(-1, 3))) == sorted(
            map(tuple, theirs.reshape(-1, 3))
        )


def test_objects_larger_than_the_canvas_are_refused():
    with pytest.raises(
        ValueError, match="object_size=7 is larger than the canvas, .*9x6"
    ):
        data(object_size=7)
    data(object_size=6)
