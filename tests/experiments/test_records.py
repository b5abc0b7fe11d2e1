"""The words of a criterion say what decides the verdict."""

import pytest

from experiments import bias_profile
from experiments.lab.records import claim_level, criterion, judged, judged_small
from experiments.lab.statistics import Interval


def interval(low: float, high: float, level: float = 0.95) -> Interval:
    return Interval((low + high) / 2, low, high, level, "given")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "the whole 95 % interval is above 0"),
        ({"level": claim_level(headline=True)}, "the whole 99.8 % interval is above 0"),
        ({"direction": "<"}, "the whole 95 % interval is below 0"),
        (
            {"direction": "within", "bound": 0.02},
            "the whole 95 % interval is within 2 points of 0",
        ),
        (
            {"direction": "within", "bound": 0.0},
            "the whole 95 % interval is within 0 points of 0",
        ),
        ({"bound": 0.125}, "the whole 95 % interval is above 12.5 points"),
        (
            {"direction": "<", "bound": 1, "unit": "times the compute", "factor": 1},
            "the whole 95 % interval is below 1 times the compute",
        ),
        (
            {"direction": "within", "bound": 1e-3, "unit": "", "factor": 1},
            "the whole 95 % interval is within 0.001 of 0",
        ),
        (
            {"level": claim_level(3), "parts": 3},
            "the whole 98.3 % interval of each part is above 0",
        ),
    ],
)
def test_words_of_each_rule(rule, words):
    found = criterion("accuracy: a minus b", **{"level": 0.95} | rule)
    assert found == f"accuracy: a minus b: {words}"


def test_a_claim_has_the_words_of_its_own_rule():
    claim = judged("a is slower", "time: a minus b", interval(2, 3), "<", 1, unit="s")
    assert claim.criterion == "time: a minus b: the whole 95 % interval is below 100 s"
    assert claim.verdict == "not supported"
    level = claim_level(2, headline=True)
    parts = {name: interval(0.01, 0.02, level) for name in "bc"}
    claim = judged("a is best", "a minus each", parts, headline=True)
    words = "the whole 99.9 % interval of each part is above 0"
    assert claim.criterion == f"a minus each: {words}"
    assert claim.verdict == "supported"


@pytest.mark.parametrize(("low", "verdict"), [(0.1, "supported"), (-1, "undecided")])
def test_a_small_difference_needs_an_effect(low, verdict):
    parts = {sign: interval(0.1, 0.2, claim_level(2)) for sign in "-+"}
    claim = judged_small("b is as good", "effect, and so on", interval(low, 2), parts)
    assert claim.criterion == (
        "effect, and so on: the whole 97.5 % interval of each part is above 0, and so "
        "is that of the effect at 95 %"
    )
    assert claim.verdict == verdict


@pytest.mark.parametrize("scale", ["mini", "medium"])
def test_criteria_before_the_runs_are_those_of_the_claims(scale):
    values = {one.measure: {} for one in bias_profile.COMPARISONS}
    for rule in bias_profile.rules(scale):
        for arm in rule.weights:
            values[rule.comparison.measure][arm] = [0.1, 0.2, 0.4]
    claims = bias_profile.claims(scale, values)
    written = [f"{claim.claim}. {claim.criterion}" for claim in claims]
    assert written == bias_profile.criteria(scale)
    assert len(written) == len(bias_profile.COMPARISONS)
