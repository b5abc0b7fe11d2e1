"""Boxes of random crops: TensorFlow's by its quantiles, torchvision's by its law."""

import json
from pathlib import Path

import numpy as np
import pytest

from vit_jax.data.augment import resized_box
from vit_jax.data.boxes import BOXES, inception_box, random_resized_box
from vit_jax.data.transforms import BOX_CROPS

FILE = Path(__file__).parents[1] / "golden" / "tensorflow_crops.json"
GOLDEN = json.loads(FILE.read_text())


def test_each_crop_of_a_box_has_a_sampler():
    assert tuple(BOXES) == BOX_CROPS


def test_crop_box_statistics():
    rng = np.random.default_rng(0)
    boxes = [random_resized_box((400, 500), rng, (0.05, 1.0)) for _ in range(4000)]
    top, left, height, width = np.array(boxes).T
    assert (top >= 0).all() and (top + height <= 400).all()
    assert (left >= 0).all() and (left + width <= 500).all()
    area, aspect = height * width / 200_000, width / height
    assert 0.048 < area.min() < 0.06 and 0.9 < area.max() <= 1.0
    assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    # Uniform up to where large boxes stop to fit; symmetric in log aspect there.
    small = area < 0.4
    assert abs(np.mean(area[small]) - 0.225) < 0.01
    assert abs(np.mean(np.log(aspect[small]))) < 0.01


def test_crop_box_that_never_fits_is_the_largest_central_one():
    rng = np.random.default_rng(0)
    box = random_resized_box((10, 1000), rng, (1.0, 1.0))
    assert box == (0, (1000 - 13) // 2, 10, 13)
    box = random_resized_box((1000, 9), rng, (1.0, 1.0))
    assert box == ((1000 - 12) // 2, 0, 12, 9)
    # TensorFlow takes the whole image instead.
    assert inception_box((10, 1000), rng, (1.0, 1.0)) == (0, 0, 10, 1000)


def quantiles(boxes: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Of boxes (n, 4), at those of `golden/tensorflow_crops.json`."""
    top, left, height, width = boxes.T
    share = height * width / (shape[0] * shape[1])
    columns = {"area": share, "aspect": width / height, "top": top, "left": left}
    columns |= {"height": height, "width": width}
    at = GOLDEN["quantiles_at"]
    return {name: np.quantile(x, at) for name, x in columns.items()}


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_boxes_of_the_inception_crop_are_tensorflows(case):
    rng, shape, area = np.random.default_rng(0), case["shape"], case["area_range"]
    boxes = np.array([inception_box(shape, rng, area) for _ in range(10_000)])
    share = boxes[:, 2] * boxes[:, 3] / (shape[0] * shape[1])
    assert share.mean() == pytest.approx(case["mean_area"], abs=0.01)
    assert (share < 0.25).mean() == pytest.approx(case["below_a_quarter"], abs=0.02)
    assert (share == 1).mean() == pytest.approx(case["whole_image"], abs=0.003)
    for name, ours in quantiles(boxes, shape).items():
        theirs = np.array(case["quantiles"][name])
        # 3 % of the range between the outer quantiles, or a pixel where they are whole.
        least = 0.0 if name in ("area", "aspect") else 1.0
        allowed = max(least, 0.03 * np.ptp(theirs))
        assert np.abs(ours - theirs).max() <= allowed, name


def test_the_two_samplers_differ_as_measured():
    """Of a 500x375 image: the mean area, and the share of boxes below a quarter."""
    wanted = {"inception": (0.343, 0.425), "random_resized_crop": (0.417, 0.281)}
    rng = np.random.default_rng(0)
    for name, (mean, small) in wanted.items():
        boxes = [BOXES[name]((375, 500), rng, (0.05, 1)) for _ in range(10_000)]
        share = np.array([height * width for *_, height, width in boxes]) / 187_500
        assert share.mean() == pytest.approx(mean, abs=0.01)
        assert (share < 0.25).mean() == pytest.approx(small, abs=0.02)


@pytest.mark.parametrize("name", BOXES)
def test_boxes_depend_on_the_generator_only(name):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    boxes = [
        BOXES[name](image.shape[:2], np.random.default_rng(seed), (0.05, 1))
        for seed in (1, 1, 2)
    ]
    crops = [resized_box(image, box, (16, 12)) for box in boxes]
    assert crops[0].shape == (16, 12, 3) and crops[0].dtype == np.uint8
    assert (crops[0] == crops[1]).all() and (crops[0] != crops[2]).any()
