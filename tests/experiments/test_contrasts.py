"""Comparisons of arms with few seeds against formulas and known lines."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.lab.contrasts import Rays, contrast, margins, mean_against


def test_contrast_of_two_arms_is_welchs_test():
    a, b = [27.5, 21.0, 19.0, 23.6], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5]
    interval = contrast({"a": a, "b": b}, {"a": 1, "b": -1})
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert interval[1:3] == pytest.approx((expected.low, expected.high))


def test_a_quiet_arm_lends_no_degrees_of_freedom():
    """By Satterthwaite's estimate alone the six quiet arms would lend theirs."""
    arms = {str(i): [0.0, 1.0, 2.0] for i in range(6)} | {"none": [0.0, 0.1, 0.2]}
    interval = mean_against(arms, "none")
    # Weights 1 and six times 1/6; of equal variances, (1 + 1/6)^2 / ((1 + 1/216) / 2).
    freedom = (7 / 6) ** 2 / ((1 + 1 / 216) / 2)
    error = math.sqrt(0.01 / 3 + 6 / 36 / 3)
    half = error * stats.t.ppf(0.975, freedom)
    assert interval[:3] == pytest.approx((0.9, 0.9 - half, 0.9 + half))


def test_arms_without_a_weight_play_no_part():
    arms = {"a": [1.0, 3.0, 4.0], "b": [5.0, 5.5, 7.0]}
    weights = {"a": -1, "b": 1}
    noisy = arms | {"c": [0.0, 600.0], "d": [1.0]}
    assert contrast(noisy, weights) == contrast(arms, weights)


def test_what_is_measured_on_the_same_runs_is_compared_within_them():
    start, end = [10.0, 20.0, 40.0], [11.0, 21.2, 40.9]
    paired = contrast({"s": start, "e": end}, {"s": -1, "e": 1}, paired=True)
    expected = stats.ttest_rel(end, start).confidence_interval()
    assert paired[1:3] == pytest.approx((expected.low, expected.high))
    assert "within runs" in paired.text()
    with pytest.raises(ValueError, match="a value for each run: got {'s': 3, 'e': 2}"):
        contrast({"s": start, "e": end[:2]}, {"s": -1, "e": 1}, paired=True)


def test_a_difference_is_small_beside_an_effect():
    arms = {"none": [0.0, 0.1], "1-D": [5.0, 5.1], "2-D": [6.0, 6.1]}
    less, more = margins(arms, {"2-D": 1, "1-D": -1}, {"1-D": 1, "none": -1})
    assert (less.value, more.value) == pytest.approx((4, 6))
    # 2 x 1-D minus none minus 2-D: one arm counts twice.
    assert less.high - less.value == pytest.approx(
        math.sqrt(6 * 0.005 / 2) * stats.t.ppf(0.975, 36 / 18)
    )


def test_contrast_of_single_seeds_excludes_nothing():
    interval = contrast({"a": [1.0], "b": [2.0]}, {"a": -1, "b": 1})
    assert interval[:3] == (1, -math.inf, math.inf)


def test_mean_against_weighs_the_other_arms_equally():
    arms = {"none": [1.0, 1.0], "x": [2.0, 2.0, 2.0], "y": [6.0, 6.0]}
    assert mean_against(arms, "none").value == 3


def test_contrast_names_the_arm_that_is_not_there():
    with pytest.raises(ValueError, match="no values of b"):
        contrast({"a": [1.0, 2.0]}, {"a": 1, "b": -1})


@pytest.mark.parametrize("bend", [0.0, -0.5])
def test_rays_find_the_slopes_of_curves_from_one_base(bend):
    def curve(slope: float, *places: float) -> list[tuple[float, float]]:
        return [(x, 10 + slope * np.log2(x) + bend * np.log2(x) ** 2) for x in places]

    rays = Rays({"depth": curve(3, 1, 2, 8), "width": curve(1, 0.25, 4)})
    assert (rays.base, rays.bend) == pytest.approx((10, bend))
    assert rays.slopes["depth"].value == pytest.approx(3)
    assert rays.sum({"depth": 1, "width": -1}).value == pytest.approx(2)


def test_rays_of_one_axis_have_the_interval_of_a_regression():
    x, y = np.log2([1.0, 2, 4, 8, 32]), np.array([1.0, 2.5, 2.7, 4.4, 5.0])
    slope = Rays({"depth": list(zip(2**x, y, strict=True))}).slopes["depth"]
    design = np.stack([np.ones(5), x, x**2], axis=1)
    solution, squares, *_ = np.linalg.lstsq(design, y)
    covariance = squares / 2 * np.linalg.inv(design.T @ design)
    half = math.sqrt(covariance[1, 1]) * stats.t.ppf(0.975, 2)
    expected = (solution[1], solution[1] - half, solution[1] + half)
    assert slope[:3] == pytest.approx(expected)


@pytest.mark.parametrize(
    "points", [{"depth": [(1, 1.0), (2, 2.0), (4, 3.0)]}, {"a": [(1, 1.0)] * 5}]
)
def test_rays_refuse_what_does_not_determine_them(points):
    with pytest.raises(ValueError, match="need more points"):
        Rays(points)
