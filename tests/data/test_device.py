"""Data in memory and its augmentation on the device, against those of the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.data import augment, boxes, in_memory
from vit_jax.data.decode import ImageError
from vit_jax.data.device_augment import BOXES, make_augment, resized_box
from vit_jax.data.pipeline import Data
from vit_jax.data.stream import example_at

# All but those of boxes, which are tested one by one, as their resizing is.
CROPS = (
    "resize_small_random_crop",
    "resize_random_crop",
    "padded_random_crop",
    "resize",
)


def digits(**options) -> Data:
    return Data(**({"name": "digits", "batch_size": 8, "image_size": (8, 8)} | options))


def write(path, size, value=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


# --- on the device ---


@pytest.mark.parametrize("crop", BOXES)
@pytest.mark.parametrize("shape, area", [((20, 32), (0.05, 1.0)), ((9, 40), (0.5, 1))])
def test_boxes_are_distributed_as_on_the_host(crop, shape, area):
    rng, count = np.random.default_rng(0), 4000
    keys = jax.random.split(jax.random.key(1), count)
    ours = np.asarray(jax.vmap(lambda key: BOXES[crop](key, shape, area))(keys))
    theirs = np.array([boxes.BOXES[crop](shape, rng, area) for _ in range(count)])
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= shape).all()
    for one, other in zip(ours.T, theirs.T, strict=True):
        deviation = np.sqrt((one.var() + other.var()) / count)
        assert abs(one.mean() - other.mean()) <= 4 * deviation
        grid = np.arange(max(shape) + 1)
        cumulated = [(x[:, None] <= grid).mean(0) for x in (one, other)]
        # Kolmogorov-Smirnov: a distance that chance exceeds once in a million.
        assert np.abs(cumulated[0] - cumulated[1]).max() < 2.7 * np.sqrt(2 / count)
    # The whole joint distribution of the sides, not only those of area and aspect.
    products = [x[:, 2] * x[:, 3] / np.prod(shape) for x in (ours, theirs)]
    assert products[0].mean() == pytest.approx(products[1].mean(), abs=0.02)


@pytest.mark.parametrize("crop", BOXES)
def test_a_box_that_never_fits_is_that_of_the_host(crop):
    rng = np.random.default_rng(0)
    for shape in ((4, 60), (60, 4)):
        wanted = boxes.BOXES[crop](shape, rng, (0.9, 1.0))
        box = BOXES[crop](jax.random.key(0), shape, (0.9, 1.0))
        assert tuple(box.tolist()) == wanted


def test_resized_boxes_are_opencvs_to_one_grey_level():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    resize = jax.jit(resized_box, static_argnums=2)
    for box in ((0, 0, 24, 30), (3, 5, 8, 12), (20, 1, 4, 29), (7, 7, 1, 2)):
        top, left, height, width = box
        for size in ((16, 16), (32, 20)):
            wanted = augment.resize(
                image[top : top + height, left : left + width], size
            )
            ours = np.asarray(resize(image, jnp.array(box), size))
            assert ours.dtype == np.uint8 and ours.shape == (*size, 3)
            assert np.abs(ours.astype(int) - wanted).max() <= 1
    # A box of the wanted size is left alone.
    ours = np.asarray(resize(image, jnp.array((2, 3, 16, 16)), (16, 16)))
    np.testing.assert_array_equal(ours, image[2:18, 3:19])


@pytest.mark.parametrize("crop", CROPS)
def test_stored_images_and_device_make_the_hosts_images(crop):
    """Every image of the device is one that the host's transform makes."""
    data = digits(crop=crop, flip="on", image_size=(6, 6))
    rng, count = np.random.default_rng(1), 300
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stored = np.stack([data.stored_transform(image)] * count)
    augmented = np.asarray(make_augment(data)(jax.random.key(0), stored))
    assert augmented.shape == (count, 6, 6, 3) and augmented.dtype == np.uint8
    devices = {one.tobytes() for one in augmented}
    # All places of the crop, both ways round; padded by reflection, many look alike.
    hosts = {data.train_transform(image, rng).tobytes() for _ in range(10 * count)}
    assert devices <= hosts and len(devices) > 0.9 * len(hosts)


def test_half_of_the_images_are_flipped_and_each_draws_for_itself():
    data = digits(crop="resize", flip="on")
    images = np.zeros((1000, 8, 8, 3), np.uint8)
    images[:, :, 0] = 255
    flipped = np.asarray(make_augment(data)(jax.random.key(0), images))[:, 0, -1, 0] > 0
    assert 430 < flipped.sum() < 570
    same = make_augment(digits(crop="resize", flip="auto"))(jax.random.key(0), images)
    np.testing.assert_array_equal(same, images)


# --- in memory ---


def test_examples_follow_the_index_law():
    wanted = [example_at(position, 7, 3) for position in range(5, 30)]
    assert in_memory.examples(5, 30, 7, 3).tolist() == wanted


def test_splits_in_memory_are_those_of_the_pipeline():
    data = digits(crop="resize", flip="off", image_size=(6, 6))
    images = in_memory.training_images(data)
    source = data.source("train")
    assert len(images.label) == len(source) == data.num_examples()
    for index in (0, 700, 1437):
        record = source[index]
        wanted = data.train_transform(record["image"], np.random.default_rng(0))
        np.testing.assert_array_equal(images.image[index], wanted)
        assert images.label[index] == record["label"]
    test = in_memory.eval_images(data, "test")
    (batch,) = data.eval_batches("test", batch_size=359)
    np.testing.assert_array_equal(test.image, batch["image"])
    np.testing.assert_array_equal(test.label, batch["label"])


def test_images_of_several_sizes_are_named(tmp_path):
    for number in range(3):
        write(tmp_path / "train" / "cat" / f"{number}.png", (6, 4 + number))
    options = {"name": str(tmp_path), "image_size": (4, 4)}
    with pytest.raises(
        ValueError, match=r"\.png is \(., 6\) pixels and other .* \(., "
    ):
        in_memory.training_images(digits(**options))
    whole = in_memory.training_images(digits(**options, crop="resize"))
    assert whole.image.shape == (3, 4, 4, 3)


def test_bad_and_too_many_images_are_named(tmp_path, monkeypatch):
    write(tmp_path / "train" / "cat" / "good.png", (4, 4))
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="bad.png.*mend or remove it"):
        in_memory.training_images(digits(name=str(tmp_path), crop="resize"))
    monkeypatch.setattr(in_memory, "MAX_BYTES", 1 << 10)
    with pytest.raises(ValueError, match="'train' of digits takes .* more than .* GiB"):
        in_memory.training_images(digits(batch_size=9))
