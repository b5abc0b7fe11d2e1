"""How often each rule decides where there is no effect: at most in about 5 % of cases.

A rule is tried on runs whose truth lies at the bound of the claim, where each verdict
but "undecided" is chance. Seeds are normal, three an arm unless stated. Where variances
differ 150-fold, Welch's intervals for three seeds are a little too narrow: 6 to 7 % in
place of 5 %. Decided by the variance of all arms of a grid, as it was done here before,
the same comparison of two noisy arms among quiet ones is wrong in 35 % of cases. The
findings of a report together are wrong in at most 5 %, also where variances differ so.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from experiments.compute import factor_of
from experiments.lab.contrasts import (
    Rays,
    against,
    contrast,
    margins,
    mean_against,
)
from experiments.lab.fits import crossing
from experiments.lab.records import (
    HEADLINE_LEVEL,
    HEADLINES,
    claim_level,
    judged,
    judged_small,
)
from experiments.lab.statistics import Interval, Verdict, mean_interval, verdict

NOISY = math.sqrt(150)
Arms = dict[str, np.ndarray]
Rule = Callable[[np.random.Generator], Verdict]


def decided(rule: Rule, rounds: int) -> int:
    """In how many rounds a rule says more than "undecided"."""
    rng = np.random.default_rng(0)
    return sum(rule(rng) != "undecided" for _ in range(rounds))


def most(share: float, rounds: int) -> int:
    """What a rule that errs in a share of cases exceeds once in a thousand times."""
    return int(stats.binom.ppf(0.999, rounds, share))


def draw(rng: np.random.Generator, deviations: list[float], seeds: int = 3) -> Arms:
    """Arms 0, 1, ... of mean 0."""
    return {str(i): d * rng.normal(size=seeds) for i, d in enumerate(deviations)}


def difference(*deviations: float, seeds: int = 3) -> Rule:
    return lambda rng: verdict(
        contrast(draw(rng, [*deviations], seeds), {"0": 1, "1": -1}), ">"
    )


def gain(*deviations: float) -> Rule:
    """Who gains more, as the ViT and the ResNet from more data."""
    weights = {"0": 1, "1": -1, "2": -1, "3": 1}
    return lambda rng: verdict(contrast(draw(rng, [*deviations]), weights), ">")


def of_shared_seeds(weights: list[float], correlation: float, noisy: float) -> Rule:
    """Arms of one model: what a seed does to one of them it does to all in part."""
    deviations = np.array([noisy] + [1.0] * (len(weights) - 1))
    share = math.sqrt(correlation), math.sqrt(1 - correlation)

    def rule(rng: np.random.Generator) -> Verdict:
        shared, own = rng.normal(size=3), rng.normal(size=(len(weights), 3))
        values = deviations[:, None] * (share[0] * shared + share[1] * own)
        arms = {str(i): arm for i, arm in enumerate(values)}
        return verdict(contrast(arms, dict(zip(arms, weights, strict=True))), ">")

    return rule


def mean_of_others(*deviations: float) -> Rule:
    return lambda rng: verdict(mean_against(draw(rng, [*deviations]), "0"), ">")


def within_runs(rng: np.random.Generator) -> Verdict:
    """Three steps of each run, which differ far less than the runs."""
    shared = 10 * rng.normal(size=3)
    steps = {name: shared + rng.normal(size=3) for name in "012"}
    return verdict(contrast(steps, {"0": 1, "1": -2, "2": 1}, paired=True), ">")


def of_few_images(rng: np.random.Generator) -> Verdict:
    """Accuracies in steps that are twice as large as their deviation."""
    arms = {k: np.round(v / 2) for k, v in draw(rng, [1.0, 1.0]).items()}
    return verdict(contrast(arms, {"0": 1, "1": -1}), ">")


def equivalence(rng: np.random.Generator) -> Verdict:
    """A difference within a stated bound, where it is as large as that."""
    return verdict(mean_interval(3 + rng.normal(size=3)), "within", 3)


def all_better(rng: np.random.Generator) -> Verdict:
    """Six arms, each beside a noisy one of its own."""
    arms, level = draw(rng, [1.0] * 6 + [NOISY] * 6), claim_level(6)
    parts = {
        str(i): contrast(arms, {str(i): 1, str(i + 6): -1}, level=level)
        for i in range(6)
    }
    return judged("", "", parts).verdict


def best_of_six(rng: np.random.Generator) -> Verdict:
    """The arm with the best mean against a quiet one, at the level for six."""
    arms = draw(rng, [0.1] + [1.0] * 6)
    best = max("123456", key=lambda x: arms[x].mean())
    return verdict(contrast(arms, {best: 1, "0": -1}, level=claim_level(6)), ">")


def little_difference(effect: float, difference: float) -> Rule:
    """Arm 2 beside arm 1, whose gain over arm 0 is the effect."""

    def rule(rng: np.random.Generator) -> Verdict:
        arms = draw(rng, [1.0] * 3)
        arms["1"] += effect
        arms["2"] += effect + difference
        weights = {"1": 1.0, "0": -1.0}
        pair = margins(arms, {"2": 1, "1": -1}, weights, level=claim_level(2))
        parts = dict(zip("-+", pair, strict=True))
        return judged_small("", "", contrast(arms, weights), parts).verdict

    return rule


def slopes(
    curve: Callable[[np.ndarray], np.ndarray], spread: float, lead: float = 0.0
) -> Rule:
    """Depth gains most, where axes follow one curve over log2 of the compute.

    Depth gains `lead` more than the others with each doubling.
    """
    axes = {
        "All": (0.15, 4.3),
        "Depth": (1, 0.52, 1.96, 3.9),
        "Patch": (0.25, 4.2),
        "MLP": (1.5, 2.6),
        "Width": (0.45, 1.6, 2.6),
    }

    def rule(rng: np.random.Generator) -> Verdict:
        rays = Rays(
            {
                axis: [
                    (
                        x,
                        float(curve(np.log2(x)) + spread / 3**0.5 * rng.normal())
                        + lead * (axis == "Depth") * math.log2(x),
                    )
                    for x in places
                ]
                for axis, places in axes.items()
            }
        )
        level = claim_level(3)
        gaps = {
            other: rays.sum({"Depth": 1, other: -1}, level=level)
            for other in ("Patch", "MLP", "Width")
        }
        return judged("", "", gaps).verdict

    return rule


def compute_factor(
    error: Callable[[np.ndarray], np.ndarray], spread: float, need: float = 1.0
) -> Rule:
    """Two families, the one with a model more, at other compute.

    The first needs `need` times the compute of the second.
    """

    def rule(rng: np.random.Generator) -> Verdict:
        rows = []
        for family, places, times in (
            ("ViT", np.array([0.25, 0.3, 0.5, 1, 2]), need),
            ("ResNet", 1.13 * np.array([0.25, 0.5, 1, 2]), 1.0),
        ):
            noise = spread / 3**0.5 * rng.normal(size=len(places))
            values = 1 - error(places / times) - noise
            rows += [(family, *row) for row in zip(places, values, strict=True)]
        return verdict(factor_of(rows, "ViT", "ResNet"), "<", 1)

    return rule


def flat(x: np.ndarray) -> np.ndarray:
    return 0 * x


def bent(x: np.ndarray) -> np.ndarray:
    return 3 * x - 0.6 * x**2


def saturating(x: np.ndarray) -> np.ndarray:
    return 20 * (1 - np.exp(-0.25 * (x + 2)))


@pytest.mark.parametrize(
    ("rule", "rounds", "share"),
    [
        pytest.param(difference(1, 1), 2000, 0.05, id="difference"),
        pytest.param(difference(1, 1, seeds=2), 2000, 0.05, id="two seeds"),
        pytest.param(difference(1, NOISY), 2000, 0.06, id="unlike arms"),
        pytest.param(
            difference(NOISY, NOISY, 1, 1, 1, 1), 2000, 0.05, id="noisy among quiet"
        ),
        pytest.param(gain(1, 1, 1, 1), 2000, 0.05, id="gain"),
        pytest.param(gain(NOISY, 1, 1, 1), 2000, 0.07, id="gain, unlike arms"),
        *(
            pytest.param(
                of_shared_seeds(weights, correlation, noisy),
                2000,
                share,
                id=f"{name}, correlation {correlation}, {noisy:.0f} times the noise",
            )
            for name, weights, unlike in (
                ("difference", [1, -1], 0.06),
                ("gain", [1, -1, -1, 1], 0.06),
            )
            for correlation in (0.5, 0.9)
            for noisy, share in ((1.0, 0.02), (NOISY, unlike))
        ),
        pytest.param(mean_of_others(*[1] * 7), 2000, 0.05, id="mean of others"),
        pytest.param(
            mean_of_others(NOISY, *[1] * 6), 2000, 0.06, id="mean of others, unlike"
        ),
        pytest.param(within_runs, 2000, 0.05, id="steps of a run"),
        pytest.param(of_few_images, 2000, 0.05, id="few images"),
        pytest.param(equivalence, 2000, 0.05, id="within"),
        pytest.param(all_better, 500, 0.05, id="all of six"),
        pytest.param(best_of_six, 1000, 0.05, id="best of six"),
        pytest.param(little_difference(9, 9), 1000, 0.05, id="margin, above"),
        pytest.param(little_difference(9, -9), 1000, 0.05, id="margin, below"),
        pytest.param(little_difference(0, 0), 1000, 0.05, id="margin, no effect"),
        pytest.param(slopes(flat, 1.0), 500, 0.05, id="slopes"),
        pytest.param(slopes(bent, 0.3), 500, 0.05, id="slopes, bent"),
        pytest.param(slopes(saturating, 0.3), 500, 0.05, id="slopes, saturating"),
        pytest.param(
            compute_factor(lambda x: 0.6 * x**-0.2, 0.02), 1000, 0.06, id="factor"
        ),
        pytest.param(
            compute_factor(lambda x: 0.3 + 0.25 * x**-0.5, 0.02),
            500,
            0.05,
            id="factor, curved",
        ),
    ],
)
def test_no_effect_is_rarely_decided(rule, rounds, share):
    assert decided(rule, rounds) <= most(share, rounds)


AMOUNTS = np.array([300, 1000, 3000, 10_000, 30_000])


def overtakes(
    gap: np.ndarray, deviations: np.ndarray
) -> Callable[[np.random.Generator], Interval]:
    """The interval of the crossing of two curves of three seeds."""

    def draw_crossing(rng: np.random.Generator) -> Interval:
        a, b = deviations * rng.normal(size=(2, 3, 5))
        return crossing(AMOUNTS, (a + gap).tolist(), b.tolist()).at

    return draw_crossing


@pytest.mark.parametrize(
    "deviations",
    [np.ones(5), np.array([1, 1, 1, 1, NOISY]), np.array([NOISY] * 3 + [1] * 2)],
)
def test_crossings_are_where_their_intervals_say(deviations):
    rng, rounds = np.random.default_rng(0), 200
    place = overtakes(6 * np.log10(AMOUNTS / 5000), np.array(deviations))
    missed = 0
    for _ in range(rounds):
        at = place(rng)
        missed += not at.low <= 5000 <= at.high
    assert missed <= most(0.05, rounds)


@pytest.mark.parametrize("gap", [np.zeros(5), 6 * np.log10(AMOUNTS / 30_000)])
def test_curves_that_do_not_cross_are_rarely_said_to(gap):
    """Equal curves, and one that reaches the other at the very end."""
    rng, rounds = np.random.default_rng(0), 200
    place = overtakes(gap, np.ones(5))
    found = 0
    for _ in range(rounds):
        at = place(rng)
        found += at.low > 0 and at.high < math.inf
    assert found <= most(0.05, rounds)


@pytest.mark.parametrize(
    "deviations", [[1.0, 1.0], [NOISY, 1.0], [1.0, NOISY]], ids=["like", "1st", "2nd"]
)
@pytest.mark.parametrize(
    "weights", [[1, -1], [1, -1, -1, 1], [0.25, -0.25] * 4], ids=["two", "four", "all"]
)
def test_one_headline_in_many_is_false_as_rarely_as_one_claim(weights, deviations):
    """All headlines of the report at once, each without an effect.

    Of two arms, of the differences of two, and of eight arms of which half have a
    factor; one arm, the first or the last, may be noisy among quiet ones.
    """
    first, last = deviations
    spread = [first, *[1.0] * (len(weights) - 2), last]

    def report(rng: np.random.Generator) -> Verdict:
        for _ in range(HEADLINES):
            arms = draw(rng, spread)
            by_arm = dict(zip(arms, weights, strict=True))
            gap = contrast(arms, by_arm, level=HEADLINE_LEVEL)
            if verdict(gap, ">") != "undecided":
                return verdict(gap, ">")
        return "undecided"

    assert decided(report, 500) <= most(0.05, 500)


def headline_of_two(effect: float) -> Rule:
    """Arm 1 is better than arm 0 by so many standard deviations."""

    def rule(rng: np.random.Generator) -> Verdict:
        arms = draw(rng, [1.0, 1.0])
        arms["1"] += effect
        gap = contrast(arms, against(arms, "0"), level=claim_level(headline=True))
        return judged("", "", gap, headline=True).verdict

    return rule


def of_runs(effect: float) -> Rule:
    """A step of the runs, which differ more than the steps of each, beside another."""

    def rule(rng: np.random.Generator) -> Verdict:
        shared = 100 * rng.normal(size=3)
        steps = {name: shared + rng.normal(size=3) for name in "01"}
        steps["1"] += effect
        return verdict(contrast(steps, {"1": 1, "0": -1}, paired=True), ">")

    return rule


@pytest.mark.parametrize(
    ("true", "false"),
    [
        pytest.param(headline_of_two(40), headline_of_two(-40), id="headline"),
        pytest.param(of_runs(40), of_runs(-40), id="steps of a run"),
        pytest.param(
            little_difference(40, 0), little_difference(40, 80), id="margin, above"
        ),
        pytest.param(
            little_difference(40, 0), little_difference(40, -80), id="margin, below"
        ),
        pytest.param(slopes(bent, 0.3, 9), slopes(bent, 0.3, -9), id="slopes"),
        pytest.param(
            compute_factor(lambda x: 0.6 * x**-0.2, 0.002, 0.5),
            compute_factor(lambda x: 0.6 * x**-0.2, 0.002, 2),
            id="factor",
        ),
    ],
)
def test_rules_decide_where_there_is_an_effect(true, false):
    """A rule that never decides, or always in one way, passes all of the above."""
    rng = np.random.default_rng(0)
    assert [true(rng) for _ in range(100)].count("supported") > 90
    assert [false(rng) for _ in range(100)].count("not supported") > 90
