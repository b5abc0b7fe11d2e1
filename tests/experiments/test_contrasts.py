"""Comparisons of arms with few seeds against formulas and known lines."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.lab.contrasts import Rays, contrast, mean_against


def test_contrast_of_two_arms_is_students_test_with_pooled_variance():
    a, b = [1.0, 2.0, 4.0], [3.0, 5.0, 4.0]
    interval = contrast({"a": a, "b": b}, {"a": 1, "b": -1})
    expected = stats.ttest_ind(a, b).confidence_interval()
    np.testing.assert_allclose(interval[:3], [-5 / 3, expected.low, expected.high])


def test_contrast_takes_the_variance_of_all_arms():
    arms = {"a": [1.0, 3.0], "b": [5.0, 5.0], "c": [0.0, 6.0]}
    interval = contrast(arms, {"a": -1, "b": 1})
    # Squares 2, 0 and 18 over 3 degrees of freedom; two means of two seeds each.
    half = math.sqrt(20 / 3) * stats.t.ppf(0.975, 3)
    np.testing.assert_allclose(interval[:3], [3, 3 - half, 3 + half])


def test_contrast_of_single_seeds_excludes_nothing():
    interval = contrast({"a": [1.0], "b": [2.0]}, {"a": -1, "b": 1})
    assert interval[:3] == (1, -math.inf, math.inf)


def test_mean_against_weighs_the_other_arms_equally():
    arms = {"none": [1.0, 1.0], "x": [2.0, 2.0, 2.0], "y": [6.0, 6.0]}
    assert mean_against(arms, "none").value == 3


def test_contrast_names_the_arm_that_is_not_there():
    with pytest.raises(ValueError, match="no values of b"):
        contrast({"a": [1.0, 2.0]}, {"a": 1, "b": -1})


def test_rays_find_the_slopes_of_lines_from_one_base():
    points = {
        "depth": [(1, 10.0), (2, 13.0), (8, 19.0)],
        "width": [(0.25, 8.0), (4, 12.0)],
    }
    rays = Rays(points)
    assert rays.base == pytest.approx(10)
    assert rays.slopes["depth"].value == pytest.approx(3)
    assert rays.sum({"depth": 1, "width": -1}).value == pytest.approx(2)
    assert rays.slopes["depth"].low == pytest.approx(3)


def test_rays_of_one_axis_have_the_interval_of_a_regression():
    x, y = np.array([1.0, 2, 4, 8]), [1.0, 2.5, 2.7, 4.4]
    slope = Rays({"depth": list(zip(x, y, strict=True))}).slopes["depth"]
    line = stats.linregress(np.log2(x), y)
    half = line.stderr * stats.t.ppf(0.975, 2)
    expected = [line.slope, line.slope - half, line.slope + half]
    np.testing.assert_allclose(slope[:3], expected)


@pytest.mark.parametrize(
    "points", [{"depth": [(1, 1.0), (2, 2.0)]}, {"a": [(1, 1.0)] * 4}]
)
def test_rays_refuse_what_does_not_determine_them(points):
    with pytest.raises(ValueError, match="need more points"):
        Rays(points)
