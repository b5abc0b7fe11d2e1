"""Intervals have their stated coverage; fits recover true values; verdicts."""

import math

import numpy as np
import pytest

from experiments.lab import fits, paper
from experiments.lab.statistics import (
    Interval,
    all_of,
    bootstrap,
    difference,
    mean_interval,
    mean_std,
    spearman,
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
    assert verdict(difference([1.0], [0.0, 0.1]), ">") == "undecided"


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_mean_intervals_cover(seeds):
    covered = coverage(lambda rng: mean_interval(rng.normal(size=seeds)), 0, 300)
    # 12 seeds are bootstrapped, which is known to be a little narrow.
    low = 0.92 if seeds < 10 else 0.87
    assert low < covered < 0.99


def test_the_bootstrap_counts_seeds_and_examples():
    """Deviation 1 between seeds and 1 within: the truth's spread is known."""
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(20, 1))
    samples = offsets + rng.normal(size=(20, 50))
    result = bootstrap(samples)
    # Half-width 1.96 sqrt((s^2 + s_within^2 / 50) / 20), s^2 of the seeds' means.
    s2 = samples.mean(axis=1).var() + samples.var(axis=1).mean() / 50
    expected = 1.96 * math.sqrt(s2 / 20)
    assert (result.high - result.low) / 2 == pytest.approx(expected, rel=0.1)
    assert result.value == pytest.approx(samples.mean())
    assert result == bootstrap(samples)  # the same numbers each time
    one_seed = bootstrap(samples[:1])
    within = 1.96 * samples[0].std() / math.sqrt(50)
    assert (one_seed.high - one_seed.low) / 2 == pytest.approx(within, rel=0.15)


def test_welch_by_the_textbook():
    a, b = [27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5]
    result = difference(a, b)
    # scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    from scipy import stats

    ends = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (result.low, result.high) == pytest.approx((ends.low, ends.high))


def test_pairs_by_seed_cancel_what_they_share():
    shared = {0: 10.0, 1: 20.0, 2: 40.0}
    better = {seed: value + 1 + 0.01 * seed for seed, value in shared.items()}
    paired = difference(better, shared)
    assert paired.method.startswith("paired")
    assert verdict(paired, ">") == "supported"
    assert verdict(difference(list(better.values()), list(shared.values())), ">") == (
        "undecided"
    )


@pytest.mark.parametrize("other", [{0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0, 3: 2.5}])
def test_no_pairs_of_two_seeds_or_of_different_ones(other):
    one = {0: 1.0, 1: 2.0} if len(other) == 2 else {0: 1.0, 1: 2.0, 2: 2.5}
    assert difference(one, other).method.startswith("Welch")


def test_welch_covers_at_two_and_three_seeds():
    def make(rng):
        return difference(rng.normal(size=2), rng.normal(1, 3, size=3))

    assert 0.9 < coverage(make, -1, 400) < 0.995


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
    with pytest.raises(ValueError, match="at least one part"):
        all_of([])
    with pytest.raises(ValueError, match="direction"):
        verdict(interval(0, 1), "up")


def test_intervals_have_the_digits_that_their_width_deserves():
    text = interval(1.3, 2.9).text("points", sign=True)
    assert text == "+2.1 points, 95 % CI [1.3, 2.9] (given)"
    assert interval(0.013, 0.029).text("points", 100, sign=True) == text
    assert interval(120.4, 180.2).text("px") == "150 px, 95 % CI [120, 180] (given)"


def test_lines_find_their_slopes():
    x = [1.0, 10.0, 100.0, 1000.0]
    line = fits.fit_log_linear(x, [2 + 3 * math.log(v) for v in x])
    assert (line.intercept, line.slope.value) == pytest.approx((2, 3))
    assert line.residual == pytest.approx(0, abs=1e-9)
    power = fits.fit_power(x, [5 * v**-0.3 for v in x])
    assert power.slope.value == pytest.approx(-0.3)
    assert math.exp(power.intercept) == pytest.approx(5)
    with pytest.raises(ValueError, match="above 0"):
        fits.fit_power([0, 1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="three points"):
        fits.fit_power([1, 2], [1, 2])


def test_slopes_cover():
    x = np.array([1.0, 3, 10, 30, 100])

    def make(rng):
        return fits.fit_log_linear(x, np.log(x) + rng.normal(size=5)).slope

    assert 0.91 < coverage(make, 1, 300) < 0.985


def test_the_factor_of_compute_at_equal_error():
    x = np.array([1.0, 10, 100])
    result = fits.equal_performance_ratio(x, 5 * x**-0.2, 3 * x, 5 * x**-0.2)
    assert result.value == pytest.approx(1 / 3)
    assert result.low == pytest.approx(result.high)


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
    assert 10 < result.at.value < 100


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
    assert behind.at.low == math.inf and behind.share == 0
    assert "beyond 1,000" in behind.text() and "below 10" in ahead.text()
    assert verdict(behind.at, "<", 1000) == "not supported"


def test_a_crossing_near_the_end_has_an_open_bound():
    x = [10.0, 100.0, 1000.0]
    a = np.array([[0.1, 0.3, 0.52], [0.1, 0.28, 0.5]])
    b = np.array([[0.2, 0.4, 0.5], [0.22, 0.4, 0.5]])
    result = fits.crossing(x, a, b)
    assert 100 < result.at.low < 1000 and result.at.high == math.inf
    assert 0.5 < result.share < 1 and "> 1,000" in result.text()


def test_curves_must_fit_the_amounts():
    with pytest.raises(ValueError, match="must increase"):
        fits.crossing([10, 5], [[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="each of 2 amounts"):
        fits.crossing([5, 10], [[1, 2, 3]], [[1, 2]])


def test_rank_correlation_and_its_exact_p():
    up = spearman([1, 2, 3, 4], [10, 100, 1000, 10000])
    # The identity and its reverse are as extreme, of 24 orders.
    assert up == (1.0, pytest.approx(2 / 24), 4)
    rng = np.random.default_rng(3)
    x = rng.normal(size=30)
    from scipy import stats

    noisy = x + rng.normal(size=30)
    result, reference = spearman(x, noisy), stats.spearmanr(x, noisy)
    assert result.rho == pytest.approx(reference.statistic)
    assert result.p < 0.01 and reference.pvalue < 0.01
    unrelated = rng.normal(size=30)
    assert spearman(x, unrelated).p == pytest.approx(
        stats.spearmanr(x, unrelated).pvalue, abs=0.03
    )
    # The order observed is one of those possible: p is never zero.
    assert spearman(x, x).p == pytest.approx(1 / 10000)
    with pytest.raises(ValueError, match="constant"):
        spearman([1, 2, 3], [1, 1, 1])
    with pytest.raises(ValueError, match="three pairs"):
        spearman([1, 2], [1, 2])
