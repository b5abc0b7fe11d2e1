"""Criteria are written down before the runs, and compared afterwards."""

import json

import pytest

from experiments.lab.frame import Arm
from experiments.lab.registration import Registration, commit, register
from experiments.lab.report_how import criteria
from tests.experiments.test_grid import LAB, experiment


def test_criteria_are_written_once_and_changes_are_told(tmp_path):
    arms = experiment({"a": Arm(LAB)})
    stated = arms._replace(criteria=lambda scale: [f"{scale}: a is above b"])
    first = register("one", stated, "mini", tmp_path)
    assert first and first["commit"] == commit()
    assert first["changed"] == first.get("withdrawn") == []
    path = tmp_path / "mini" / "criteria" / "one.json"
    written = json.loads(path.read_text())
    assert written["criteria"] == ["mini: a is above b"]
    path.write_text(json.dumps(written | {"commit": "0123", "date": "2026-01-01"}))
    later = stated._replace(criteria=lambda _: ["mini: a is above b", "and b below c"])
    again = register("one", later, "mini", tmp_path)
    assert again == {
        "date": "2026-01-01",
        "commit": "0123",
        "changed": ["and b below c"],
        "withdrawn": [],
    }
    assert json.loads(path.read_text())["criteria"] == ["mini: a is above b"]


def test_a_criterion_that_is_no_longer_stated_is_told(tmp_path):
    arms = experiment({"a": Arm(LAB)})
    stated = arms._replace(criteria=lambda _: ["a is above b", "b is above c"])
    register("one", stated, "mini", tmp_path)
    fewer = stated._replace(criteria=lambda _: ["a is above b"])
    found = register("one", fewer, "mini", tmp_path)
    assert found and found["changed"] == []
    assert found.get("withdrawn") == ["b is above c"]


@pytest.mark.parametrize(
    ("changed", "withdrawn", "words"),
    [
        ([], None, "Unchanged since."),
        ([], [], "Unchanged since."),
        (["a", "b"], None, "Changed or added since: a; b."),
        ([], ["c"], "Withdrawn or replaced since: c."),
        (
            ["a"],
            ["c", "d"],
            "Changed or added since: a. Withdrawn or replaced since: c; d.",
        ),
    ],
)
def test_the_report_says_what_became_of_the_criteria(changed, withdrawn, words):
    """Older results do not say what was withdrawn."""
    registered = Registration(date="2026-01-01", commit="0123", changed=changed)
    if withdrawn is not None:
        registered["withdrawn"] = withdrawn
    start = "Written down before the runs, 2026-01-01 at commit 0123. "
    assert criteria(registered) == start + words


def test_an_experiment_without_criteria_writes_nothing(tmp_path):
    assert register("one", experiment({}), "mini", tmp_path) is None
    assert not list(tmp_path.iterdir())
