"""Host augmentation: geometry, statistics of the crop, RandAugment's operations."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.data import augment, randaug

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = randaug.OPERATIONS
# In the order of big_vision's `distort_image_with_randaugment`.
OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY"),
    *("TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
)


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def _smooth(side: int = 40) -> np.ndarray:
    return cv2.GaussianBlur(_noise(side, side), (0, 0), 4)


def test_flip_is_an_involution():
    image = _noise(5, 7)
    assert (augment.flip(image)[:, 0] == image[:, -1]).all()
    assert (augment.flip(augment.flip(image)) == image).all()


def test_flip_of_a_part_is_that_of_numpy():
    image = _noise(9, 8)
    for part in (image, image[2:7, 1:6], image[::-1], image[:, ::2], image[:1, :1]):
        np.testing.assert_array_equal(augment.flip(part), part[:, ::-1])


def test_random_flip_mirrors_half():
    image, rng = _noise(2, 3), np.random.default_rng(0)
    flipped = [(augment.random_flip(image, rng) != image).any() for _ in range(1000)]
    assert 440 < sum(flipped) < 560


def test_crops_are_parts_of_the_image():
    image = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    assert (augment.center_crop(image, (2, 3)) == image[2:4, 3:6]).all()
    seen = {
        tuple(augment.random_crop(image, (5, 8), np.random.default_rng(seed))[0, 0])
        for seed in range(60)
    }
    assert seen == {tuple(image[row, column]) for row in (0, 1) for column in (0, 1)}
    with pytest.raises(ValueError, match="7x7 pixels does not fit .* 6x9"):
        augment.center_crop(image, (7, 7))


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (8, 8), (100, 33)])
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (24, 16)])
def test_resize_small_covers_and_keeps_the_aspect(shape, size):
    height, width = augment.resize_small(_noise(*shape), size).shape[:2]
    assert height >= size[0] and width >= size[1]
    assert height == size[0] or width == size[1]
    assert abs(width / height - shape[1] / shape[0]) < 0.07 * shape[1] / shape[0]


def test_resize_filters():
    image = _noise(64, 64)
    filters = {
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }
    assert tuple(filters) == augment.FILTERS
    for name, pillow in filters.items():
        antialiased = augment.resize(image, (16, 12), antialias=name)
        expected = Image.fromarray(image).resize((12, 16), pillow)
        assert (antialiased == np.asarray(expected)).all()
        small = augment.resize_small(image[:40], (16, 16), antialias=name)
        expected = Image.fromarray(image[:40]).resize((26, 16), pillow)
        assert (small == np.asarray(expected)).all()
    aliased = augment.resize(image, (16, 16))
    assert aliased.std() > 1.5 * antialiased.std()
    assert augment.resize(image, (64, 64)) is image


def test_enlarged():
    assert augment.enlarged((224, 224), 0) == (256, 256)
    assert augment.enlarged((32, 32), 36) == (36, 36)
    assert augment.enlarged((32, 64), 72) == (36, 72)


def test_lookup_operations_on_known_values():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    values = np.arange(256)

    def of(image):
        return image[..., 1].ravel().astype(int)

    assert (of(randaug.posterize(ramp, 4)) == values // 16 * 16).all()
    for bits in (0, 1):
        assert (of(randaug.posterize(ramp, bits)) == values // 128 * 128).all()
    assert (of(randaug.posterize(ramp, 8)) == values).all()
    assert (of(randaug.solarize(ramp, 256)) == values).all()
    assert (of(randaug.solarize(ramp, 0)) == 255 - values).all()
    assert (of(randaug.solarize(ramp, 100))[[99, 100]] == (99, 155)).all()
    added = of(randaug.solarize_add(ramp, 110))
    assert (added[[0, 127, 128, 255]] == (110, 237, 128, 255)).all()
    assert (of(randaug.brightness(ramp, 1.9))[[0, 100, 200]] == (0, 190, 255)).all()
    assert (of(randaug.equalize(ramp)) == values).all()
    assert (of(randaug.autocontrast(ramp // 2 + 50)) >= 0).all()
    stretched = of(randaug.autocontrast(ramp // 2 + 50))
    assert (stretched.min(), stretched.max()) == (0, 255)
    flat = np.full((4, 4, 3), 77, np.uint8)
    assert (randaug.autocontrast(flat) == flat).all()
    assert (randaug.equalize(flat) == flat).all()


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 1.9])
def test_enhancements_agree_with_pillow(factor):
    image = _smooth()
    picture = Image.fromarray(image)
    pairs = {
        "color": (randaug.color, ImageEnhance.Color),
        "contrast": (randaug.contrast, ImageEnhance.Contrast),
        "brightness": (randaug.brightness, ImageEnhance.Brightness),
        "sharpness": (randaug.sharpness, ImageEnhance.Sharpness),
    }
    for name, (ours, theirs) in pairs.items():
        expected = np.asarray(theirs(picture).enhance(factor)).astype(int)
        difference = np.abs(ours(image, factor).astype(int) - expected)
        assert difference.max() <= 3, name
    assert (randaug.color(image, 1.0) == image).all()


def test_histogram_operations_agree_with_pillow():
    image = _smooth()
    picture = Image.fromarray(image)
    assert (randaug.equalize(image) == np.asarray(ImageOps.equalize(picture))).all()
    difference = randaug.autocontrast(image).astype(int) - np.asarray(
        ImageOps.autocontrast(picture)
    )
    assert np.abs(difference).max() <= 1


def test_geometry():
    image = _noise(9, 9)
    assert (randaug.rotate(image, 0) == image).all()
    assert (randaug.rotate(image, 90) == np.rot90(image)).all()
    assert (randaug.rotate(image, 45)[0, 0] == 128).all()
    shifted = randaug.affine(image, np.array([[1, 0, 2], [0, 1, 0]]))
    assert (shifted[:, :7] == image[:, 2:]).all() and (shifted[:, 7:] == 128).all()


def test_cutout_is_a_grey_square():
    image = np.zeros((40, 40, 3), np.uint8)
    counts = set()
    for seed in range(40):
        cut = randaug.cutout(image, 3, np.random.default_rng(seed))
        rows, columns = np.where(cut[..., 0] == 128)
        assert (cut == 128).sum() == 3 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        counts.add(len(rows))
    assert max(counts) == 36 and not image.any()


def test_all_operations_change_the_image_and_none_changes_its_input():
    image = _noise(40, 40) // 2 + 30
    before = image.copy()
    unchanged = []
    for variant, operations in randaug.OPERATIONS.items():
        assert tuple(operations) == OPERATIONS
        for name, operation in operations.items():
            result = operation(image, 1.0, np.random.default_rng(3))
            assert result.shape == image.shape and result.dtype == np.uint8
            if (result == image).all():
                unchanged.append((variant, name))
    # At level 10 its threshold is 256: nothing reaches it.
    assert unchanged == [("intended", "Solarize")]
    assert (image == before).all()


class FirstDraws:
    """In the place of a generator: the draws that the golden file was written with."""

    def random(self) -> float:
        return 0.0  # a positive sign

    def integers(self, high: int) -> int:
        return int(np.float32(0.4) * np.float32(high))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_tensorflows_at_each_level(name):
    with np.load(GOLDEN / "tensorflow_randaugment.npz") as golden:
        operation = randaug.OPERATIONS["tensorflow"][name]
        for level in (0, 1, 5, 9, 10, 15, 20):
            ours = operation(golden["picture"], level / 10, FirstDraws())
            np.testing.assert_array_equal(ours, golden[f"{name}_{level}"], f"{level}")


def test_magnitudes_that_wrap_in_tensorflow_and_do_not_as_intended():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)

    def solarized(variant, magnitude):
        operation = randaug.OPERATIONS[variant]["Solarize"]
        return operation(ramp, magnitude / 10, FirstDraws())

    for magnitude in (0, 10, 20):
        assert (solarized("tensorflow", magnitude) == 255 - ramp).all()
    half = np.where(ramp < 128, ramp, 255 - ramp)
    for variant, magnitude in (("tensorflow", 15), ("tensorflow", 5), ("intended", 5)):
        assert (solarized(variant, magnitude) == half).all()
    for magnitude in (10, 15, 20):
        assert (solarized("intended", magnitude) == ramp).all()


def test_contrast_in_tensorflow_counts_pixels():
    image = np.full((224, 224, 3), 40, np.uint8)
    flat = {name: of["Contrast"](image, 0.0, None) for name, of in VARIANTS.items()}
    # A tenth of the image, nine tenths of 224 x 224 / 256 = 196, or of the mean.
    assert (flat["tensorflow"] == 180).all() and (flat["intended"] == 40).all()
    assert (
        randaug.contrast_by_size(np.full((240, 255, 3), 40, np.uint8), 0) == 239
    ).all()


def test_translate_and_cutout_scale_with_the_image_as_intended_alone():
    # At level 10: 100 and 40 pixels, of 224.
    for side, moved_as_intended, half in ((224, (100,), 40), (112, (50,), 20)):
        image = np.full((side, side, 3), 7, np.uint8)
        for name, of in VARIANTS.items():
            moved = of["TranslateX"](image, 1.0, np.random.default_rng(0))
            wanted = moved_as_intended if name == "intended" else (100,)
            assert (moved[0, :, 0] == 128).sum() in wanted
            cut = (of["Cutout"](image, 1.0, FirstDraws())[..., 0] == 128).any(0).sum()
            place = FirstDraws().integers(side)
            reach = half if name == "intended" else 40
            assert cut == min(side, place + reach) - max(0, place - reach)


@pytest.mark.parametrize("magnitude", [0.0, 10.0, 15.0, 20.0])
def test_no_picture_becomes_constant(magnitude):
    """Posterize 0 once made an eighth of the images of `light1` black."""
    image, rng = _noise(224, 224), np.random.default_rng(0)
    for _ in range(60):
        assert np.ptp(randaug.randaugment(image, 2, magnitude, rng)) > 0


def test_randaugment_depends_on_the_generator_only():
    image = _noise(224, 224)
    results = [
        randaug.randaugment(image, 2, 5, np.random.default_rng(seed)).tobytes()
        for seed in [*range(20), *range(20)]
    ]
    assert results[:20] == results[20:]
    assert len(set(results)) > 15
    assert randaug.randaugment(image, 0, 10, np.random.default_rng(0)) is image
