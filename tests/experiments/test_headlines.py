"""Headlines are as few as they are corrected for, and claims know their level."""

import ast
import json
from pathlib import Path

import pytest

from experiments.lab.contrasts import contrast
from experiments.lab.records import (
    HEADLINE_LEVEL,
    HEADLINES,
    Claim,
    expected_false,
    judged,
    judged_small,
)
from experiments.lab.statistics import Interval


def test_a_headline_needs_its_level():
    gap = contrast({"a": [1.0, 2.0, 3.0], "b": [0.0, 0.1, 0.3]}, {"a": 1, "b": -1})
    with pytest.raises(ValueError, match="one of 1 parts of a headline needs 0.99"):
        judged("It helps", "", gap, headline=True)
    with pytest.raises(ValueError, match="'It helps' b: .* one of 2 parts needs 0.975"):
        judged("It helps", "", {"b": gap, "c": gap})


def test_expected_false_verdicts_are_of_claims_that_intervals_judged():
    """What is out of reach is not judged; a record without a level is an older one."""
    claim = {"verdict": "supported", "headline": False}
    headline = claim | {"headline": True}
    older = [claim, claim | {"verdict": "undecided"}, headline]
    older.append(claim | {"verdict": "out of reach here"})
    assert expected_false(older) == pytest.approx(2 * 0.05 + 0.05 / HEADLINES)
    newer = [claim | {"level": 0.95}, headline | {"level": HEADLINE_LEVEL}]
    newer.append(claim | {"level": None})
    assert expected_false(newer) == pytest.approx(0.05 + 0.05 / HEADLINES)


def test_claims_know_the_level_that_they_are_judged_at():
    """That of all parts together; what is counted or measured exactly has none."""
    parts = {name: Interval(2, 1, 3, 0.999, "given") for name in "ab"}
    assert judged("", "", parts).level == 0.95
    assert judged("", "", parts, headline=True).level == HEADLINE_LEVEL
    effect = Interval(2, 1, 3, 0.95, "given")
    assert judged_small("", "", effect, parts).level == 0.95
    assert Claim("", "exact", "supported", "").level is None


# By experiment: in how many places its code makes a claim a headline, and how many
# claims of a scale these are. They have to be as many as `HEADLINES` at most.
DECLARED = {
    "bias_by_initialisation": (1, 2),
    "bias_profile": (7, 7),
    "class_token": (1, 1),
    "data_size": (2, 2),
    "distillation": (1, 1),
    "learned_bias": (1, 1),
    "masked_patch": (1, 1),
    "position_embedding": (1, 1),
    "positions_beyond": (1, 1),
    "protocol_locality": (1, 1),
    "scrambled_plane": (2, 2),
    "shapes": (2, 1),
    "transfer": (1, 1),
}


def headline_places(path: Path) -> int:
    """The places of a file that declare a headline, not those that pass it on."""
    found = 0
    for node in ast.walk(ast.parse(path.read_text())):
        values = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) != "claim_level":
            values = [word.value for word in node.keywords if word.arg == "headline"]
        elif isinstance(node, ast.Assign) and "headline" in map(
            ast.unparse, node.targets
        ):
            values = [node.value]
        found += sum(not isinstance(x, ast.Name | ast.Attribute) for x in values)
    return found


def test_the_experiments_have_no_more_headlines_than_they_are_corrected_for():
    places = {
        path.stem: headline_places(path) for path in Path("experiments").glob("*.py")
    }
    declared = {name: number for name, (number, _) in DECLARED.items()}
    assert {name: number for name, number in places.items() if number} == declared
    assert sum(claims for _, claims in DECLARED.values()) <= HEADLINES


def test_the_results_have_no_more_headlines_than_their_experiments_declare():
    for path in Path("docs/results").glob("*/result.json"):
        result = json.loads(path.read_text())
        headlines = sum(claim.get("headline", False) for claim in result["claims"])
        _, most_of_it = DECLARED.get(result["name"], (0, 0))
        assert headlines <= most_of_it, path
