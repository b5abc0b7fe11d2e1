"""Intervals have their stated coverage; fits recover true values; verdicts."""

import math

import numpy as np
import pytest

from experiments.lab import fits, paper
from experiments.lab.contrasts import contrast
from experiments.lab.statistics import (
    Interval,
    all_of,
    joint_level,
    mean_interval,
    mean_std,
    verdict,
)


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 0.95, "given")


def coverage(make_interval, truth: float, rounds: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    result = [make_interval(rng) for _ in range(rounds)]
    return float(np.mean([i.low <= truth <= i.high for i in result]))


def test_mean_and_deviation_are_of_the_sample():
    assert mean_std([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)), 2)
    mean, std, n = mean_std([0.5])
    assert (mean, n) == (0.5, 1) and math.isnan(std)
    with pytest.raises(ValueError, match="one finite value or more"):
        mean_std([])
    with pytest.raises(ValueError, match="one finite value or more"):
        mean_std([0.5, math.nan])


def test_two_seeds_have_the_interval_of_students_t():
    # t(0.975, 1) = 12.706; the standard error of (0, 2) is 1.
    result = mean_interval([0.0, 2.0])
    assert (result.low, result.high) == pytest.approx(
        (1 - 12.706, 1 + 12.706), abs=1e-3
    )


def test_one_seed_has_no_interval_and_decides_nothing():
    result = mean_interval([5.0])
    assert (result.low, result.high) == (-math.inf, math.inf)
    assert verdict(result, ">", 0) == "undecided"
    assert "no interval" in result.text()


@pytest.mark.parametrize("value", [0.0, 0.1, 83.3])
def test_seeds_that_agree_exactly_decide_nothing(value):
    """The mean of three times 0.1 is not 0.1: what rounding leaves is no spread."""
    result = mean_interval([value, value, value])
    assert (result.low, result.high) == (-math.inf, math.inf)
    assert "no spread" in result.text()


def test_what_is_exact_but_for_rounding_is_below_a_bound():
    """Errors of 1e-13 that differ by 1e-14 have a spread of their own."""
    errors = {"circular": [1.0e-13, 1.1e-13, 1.3e-13]}
    found = contrast(errors, {"circular": 1})
    assert verdict(found, "<", 1e-3) == "supported"
    # Beside values near 1 such a difference is rounding.
    near = {"a": [0.5, 0.6, 0.7], "b": [0.5 + 1e-13, 0.6 + 2e-13, 0.7]}
    assert "no spread" in contrast(near, {"a": 1, "b": -1}, paired=True).text()


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_mean_intervals_cover(seeds):
    covered = coverage(lambda rng: mean_interval(rng.normal(size=seeds)), 0, 1000)
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(
    ("low", "high", "direction", "bound", "expected"),
    [
        (0.1, 2, ">", 0, "supported"),
        (-0.1, 2, ">", 0, "undecided"),
        (-2, -0.1, ">", 0, "not supported"),
        (0.1, 2, ">", 1, "undecided"),
        (-2, -0.1, "<", 0, "supported"),
        (0.1, 2, "<", 0, "not supported"),
        (-0.2, 0.3, "within", 0.33, "supported"),
        (-0.4, 0.3, "within", 0.33, "undecided"),
        (0.4, 0.6, "within", 0.33, "not supported"),
        (-0.6, -0.4, "within", 0.33, "not supported"),
        (math.nan, math.nan, ">", 0, "undecided"),
        (math.inf, math.inf, "<", 1, "not supported"),
    ],
)
def test_the_verdict_is_where_the_whole_interval_lies(
    low, high, direction, bound, expected
):
    assert verdict(interval(low, high), direction, bound) == expected


def test_a_claim_of_parts_is_as_good_as_the_worst():
    assert all_of(["supported", "supported"]) == "supported"
    assert all_of(["supported", "undecided"]) == "undecided"
    assert all_of(["undecided", "not supported", "supported"]) == "not supported"
    assert all_of(["undecided", "out of reach here"]) == "out of reach here"
    assert all_of(["not supported", "out of reach here"]) == "not supported"
    with pytest.raises(ValueError, match="at least one part"):
        all_of([])
    with pytest.raises(ValueError, match="direction"):
        verdict(interval(0, 1), "up")


def test_intervals_have_the_digits_that_their_width_deserves():
    text = interval(1.3, 2.9).text("points", sign=True)
    assert text == "+2.1 points, 95 % CI [1.3, 2.9] (given)"
    assert interval(0.013, 0.029).text("points", 100, sign=True) == text
    assert interval(120.4, 180.2).text("px") == "150 px, 95 % CI [120, 180] (given)"
    strict = interval(1.3, 2.9)._replace(level=joint_level(12)).text()
    assert strict == "2.1, 99.6 % CI [1.3, 2.9] (given)"


def test_the_factor_of_compute_at_equal_error():
    x = np.array([1.0, 10, 100])
    result = fits.equal_performance_ratio(x, 5 * x**-0.2, 3 * x, 5 * x**-0.2)
    assert result.value == pytest.approx(1 / 3)
    assert (result.low, result.high) == (0, math.inf)  # no spread


def test_there_is_no_factor_where_error_does_not_fall():
    x = np.array([1.0, 10, 100])
    rising = fits.equal_performance_ratio(x, x**0.2, x, 1.1 * x**0.2)
    assert math.isnan(rising.value) and verdict(rising, "<", 1) == "undecided"
    assert rising.text() == "no value (error does not fall for certain)"


def test_the_factor_of_compute_covers():
    x = np.array([50.0, 100, 200, 600, 1500])

    def make(rng):
        noise = np.exp(0.03 * rng.normal(size=(2, 5)))
        a, b = 40 * x**-0.3 * noise[0], 40 * (x / 20) ** -0.3 * noise[1]
        return fits.equal_performance_ratio(x, a, x, b)

    # So far apart that the uncertainty of the slope counts too.
    assert 0.91 < coverage(make, 1 / 20, 300) < 0.985


def test_the_papers_factor_is_that_of_its_text():
    """Section 4.4: ViT needs 2 to 4 times less compute than ResNets (Average-5)."""
    curve = {}
    for family in ("ViT", "ResNet"):
        rows = [row for row in paper.TABLE_6 if row["family"] == family]
        curve[family] = (
            [row["exaflops"] for row in rows],
            [100 - row["average_5"] for row in rows],
        )
    result = fits.equal_performance_ratio(*curve["ViT"], *curve["ResNet"])
    assert 1 / 4.5 < result.value < 1 / 2


def test_crossings_of_the_paper():
    """Fig. 4: B/32 passes R50x1 between 9M and 30M, L/16 R152x2 between 30M and 90M."""
    images = paper.FIGURE_4["images"]
    for a, b, low, high in (
        ("ViT-B/32", "R50x1", 9e6, 30e6),
        ("ViT-L/16", "R152x2", 30e6, 90e6),
    ):
        accuracy = paper.FIGURE_4["accuracy"]
        result = fits.crossing(images, [accuracy[a]], [accuracy[b]])
        assert result.side == "crosses" and low < result.at.value < high
        assert math.isnan(result.at.low) and "no interval" in result.text()


def test_the_crossing_is_where_the_lines_meet():
    x = np.array([1.0, 10, 100, 1000])
    rise = np.log10(x)  # 0 1 2 3
    result = fits.crossing(x, [rise], [np.full(4, 1.5)])
    assert result.at.value == pytest.approx(10**1.5)
    # Both at chance first, where a happens to be ahead: the last crossing counts.
    result = fits.crossing(x, [[0.11, 0.2, 0.6, 0.9]], [[0.1, 0.4, 0.5, 0.55]])
    assert result.at.value == pytest.approx(10 ** (1 + 2 / 3))


def test_crossings_cover():
    x = np.array([1e3, 3e3, 1e4, 3e4, 1e5])
    a, b = 10 * np.log10(x) - 5, 4 * np.log10(x) + 16  # meet at 10 ** 3.5

    def make(rng):
        curves = (curve + rng.normal(size=(2, 5)) for curve in (a, b))
        return fits.crossing(x, *curves).at

    assert 0.88 < coverage(make, 10**3.5, 100) < 1


def test_no_crossing_says_on_which_side():
    x = [10.0, 100.0, 1000.0]
    low = np.array([[0.1, 0.2, 0.3], [0.1, 0.21, 0.3]])
    ahead, behind = fits.crossing(x, low + 0.5, low), fits.crossing(x, low, low + 0.5)
    assert (ahead.at.value, ahead.side) == (0, "ahead everywhere")
    assert (behind.at.value, behind.side) == (math.inf, "behind at the end")
    assert behind.at.low == math.inf
    assert "beyond 1,000" in behind.text() and "below 10" in ahead.text()
    assert verdict(behind.at, "<", 1000) == "not supported"


def test_a_crossing_near_the_end_has_an_open_bound():
    x = [10.0, 100.0, 1000.0]
    a = np.array([[0.1, 0.3, 0.52], [0.101, 0.301, 0.5]])
    b = np.array([[0.2, 0.4, 0.5], [0.201, 0.401, 0.5]])
    result = fits.crossing(x, a, b)
    assert 100 < result.at.low < 1000 and result.at.high == math.inf
    assert "> 1,000" in result.text()


def test_curves_must_fit_the_amounts():
    with pytest.raises(ValueError, match="must increase"):
        fits.crossing([10, 5], [[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="each of 2 amounts"):
        fits.crossing([5, 10], [[1, 2, 3]], [[1, 2]])
