"""Claims stated as data: their criteria before the runs, and their verdicts after."""

import pytest

from experiments.lab.comparisons import (
    Comparison,
    claims,
    criteria,
    difference,
    measured,
)
from experiments.lab.records import HEADLINE_LEVEL

BETTER = Comparison("b is better", "accuracy: b minus a", "accuracy", {"b": 1, "a": -1})
VALUES = {"accuracy": {"a": [0.1, 0.11, 0.12], "b": [0.5, 0.51, 0.52]}}


@pytest.mark.parametrize(
    ("changes", "rule", "verdict", "numbers"),
    [
        ({}, "95 % interval is above 0", "supported", "+40.0 points, 95 %"),
        (
            {"direction": "<", "bound": 0.3},
            "95 % interval is below 30 points",
            "not supported",
            "+40.0 points, 95 %",
        ),
        (
            {"direction": "within", "bound": 0.5, "unit": "", "factor": 1},
            "95 % interval is within 0.5 of 0",
            "supported",
            "+0.400, 95 %",
        ),
        ({"headline": True}, "99.8 % interval is above 0", "supported", "99.8 %"),
        (
            {"weights": {"a": 1}, "bound": 0.105, "paper": "9 %"},
            "95 % interval is above 10.5 points",
            "undecided",
            "; the paper: 9 %",
        ),
    ],
)
def test_criteria_before_the_runs_are_those_of_the_claims(
    changes, rule, verdict, numbers
):
    one = BETTER._replace(**changes)
    (claim,) = claims([one], VALUES)
    assert claim.criterion == f"accuracy: b minus a: the whole {rule}"
    assert criteria([one]) == [f"b is better. {claim.criterion}"]
    assert claim.verdict == verdict
    assert numbers in claim.numbers
    assert claim.headline == one.headline
    assert claim.level == (HEADLINE_LEVEL if one.headline else 0.95)


def test_paired_arms_are_compared_within_their_runs():
    values = {"accuracy": {"a": [0.1, 0.5, 0.9], "b": [0.2, 0.61, 1.0]}}
    paired = BETTER._replace(paired=True, comment="One run each.")
    alone, within = claims([BETTER, paired], values)
    assert (alone.verdict, within.verdict) == ("undecided", "supported")
    assert (alone.comment, within.comment) == ("", "One run each.")


def test_names_are_filled_in():
    of_scale = BETTER._replace(
        claim="With {all} % the {vit} is better",
        quantity="{vit} minus a",
        weights={"{vit}, {all} %": 1, "a": -1},
    )
    found = of_scale.filled({"vit": "ViT-Ti", "all": 100})
    assert found.claim == "With 100 % the ViT-Ti is better"
    assert found.quantity == "ViT-Ti minus a"
    assert found.weights == {"ViT-Ti, 100 %": 1, "a": -1}
    with pytest.raises(KeyError, match="all"):
        of_scale.filled({"vit": "ViT-Ti"})


def test_a_difference_of_means_weighs_the_arms_of_each_side_equally():
    weights = {"a": 0.5, "b": 0.5, "c": -1}
    assert difference(["a", "b"], ["c"]) == weights


def test_what_a_scale_does_not_measure_is_left_out_on_request_only():
    absent = BETTER._replace(weights={"b": 1, "c": -1})
    speed = BETTER._replace(measure="speed")
    assert measured([absent, BETTER, speed], VALUES) == [BETTER]
    with pytest.raises(ValueError, match="no values of c"):
        claims([absent], VALUES)
    with pytest.raises(KeyError, match="speed"):
        claims([speed], VALUES)
