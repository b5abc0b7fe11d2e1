"""3-Augment and colour jitter against Pillow, which the original uses."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.data import augment, three_augment
from vit_jax.data.pipeline import Data

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
OPTIONS = dict(name="digits", batch_size=1, image_size=(16, 16), flip="off")


def test_one_of_three_is_drawn_evenly():
    grey = np.asarray(ImageOps.grayscale(Image.fromarray(IMAGE)))
    solarized = np.asarray(ImageOps.solarize(Image.fromarray(IMAGE)))
    rng, counts = np.random.default_rng(1), [0, 0, 0]
    for _ in range(600):
        out = three_augment.three_augment(IMAGE, rng)
        assert out.shape == IMAGE.shape and out.dtype == np.uint8
        if (out == out[..., :1]).all():
            assert np.abs(out[..., 0].astype(int) - grey).max() <= 1
            counts[0] += 1
        elif (out == solarized).all():
            counts[1] += 1
        else:  # What is left is smoother.
            assert np.diff(out.astype(int), axis=0).std() <= (
                np.diff(IMAGE.astype(int), axis=0).std()
            )
            counts[2] += 1
    # Five standard deviations of a share of a third.
    assert np.abs(np.array(counts) - 200).max() < 58


def test_blur_is_gaussian():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    # The differences along a blurred edge are the filter's weights.
    image = np.full((41, 41, 3), 10, np.uint8)
    image[:, 20:] = 210
    for sigma in (1.0, 2.0):
        profile = three_augment.blur(image, sigma)[20, :, 0].astype(float)
        weights = np.diff(profile) / 200
        places = np.arange(40) - 19
        assert weights.sum() == pytest.approx(1)
        assert (weights * places).sum() == pytest.approx(0, abs=0.05)
        assert (weights * places**2).sum() ** 0.5 == pytest.approx(sigma, rel=0.06)
    assert (three_augment.blur(point, 0.1) == point).all()


def test_color_jitter_equals_pillow():
    """Brightness, saturation, contrast, with the order and factors that are drawn."""

    class Script:
        factors = iter([1.2, 0.8, 1.1])

        def permutation(self, number):
            assert number == 3
            return np.array([0, 2, 1])

        def uniform(self, low, high):
            assert (low, high) == (0.7, 1.3)
            return next(self.factors)

    out = three_augment.color_jitter(IMAGE, 0.3, Script())
    picture = Image.fromarray(IMAGE)
    picture = ImageEnhance.Brightness(picture).enhance(1.2)
    picture = ImageEnhance.Color(picture).enhance(0.8)
    picture = ImageEnhance.Contrast(picture).enhance(1.1)
    assert np.abs(out.astype(int) - np.asarray(picture)).max() <= 2


def test_color_jitter_is_as_strong_as_asked():
    flat = np.full((4, 4, 3), 100, np.uint8)
    for strength in (0.1, 0.3):
        images = [
            three_augment.color_jitter(flat, strength, np.random.default_rng(seed))
            for seed in range(200)
        ]
        # An even grey is changed by brightness alone, but for rounding.
        values = np.array([image[0, 0, 0] for image in images], int)
        assert values.min() >= 100 * (1 - strength) - 2
        assert values.max() <= 100 * (1 + strength)
        assert np.ptp(values) > 0.8 * 200 * strength


def test_padded_random_crop_keeps_nearly_all():
    rows = np.arange(32, dtype=np.uint8)[:, None, None]
    image = np.broadcast_to(rows, (32, 32, 3))
    starts = set()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        out = augment.padded_random_crop(image, (32, 32), rng)
        assert out.shape == (32, 32, 3)
        shift = int(out[16, 0, 0]) - 16
        starts.add(shift)
        # Inside the image it is a shift, outside a reflection at the border pixel.
        wanted = np.abs(np.arange(32) + shift)
        wanted = np.where(wanted > 31, 62 - wanted, wanted)
        assert (out[:, 0, 0] == wanted).all()
    assert starts == set(range(-4, 5))
    wide = augment.padded_random_crop(IMAGE, (16, 16), np.random.default_rng(0))
    assert wide.shape == (16, 16, 3)


@pytest.mark.parametrize(
    "options", [{"three_augment": True}, {"color_jitter": 0.5}], ids=str
)
def test_the_pipeline_applies_it(options):
    plain = Data(**OPTIONS, crop="padded_random_crop")
    other = Data(**OPTIONS, crop="padded_random_crop", **options)
    images = [
        data.train_transform(IMAGE, np.random.default_rng(3)) for data in (plain, other)
    ]
    assert images[0].shape == (16, 16, 3) and (images[0] != images[1]).any()
    assert (plain.eval_transform(IMAGE) == other.eval_transform(IMAGE)).all()


def test_options_are_checked():
    with pytest.raises(ValueError, match="data.color_jitter is -0.1: wanted"):
        Data(**OPTIONS, color_jitter=-0.1)
