"""Criteria are written down before the runs, and compared afterwards."""

import json

from experiments.lab.frame import Arm
from experiments.lab.registration import commit, register
from tests.experiments.test_grid import LAB, experiment


def test_criteria_are_written_once_and_changes_are_told(tmp_path):
    arms = experiment({"a": Arm(LAB)})
    stated = arms._replace(criteria=lambda scale: [f"{scale}: a is above b"])
    first = register("one", stated, "mini", tmp_path)
    assert first and first["changed"] == [] and first["commit"] == commit()
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
    }
    assert json.loads(path.read_text())["criteria"] == ["mini: a is above b"]


def test_an_experiment_without_criteria_writes_nothing(tmp_path):
    assert register("one", experiment({}), "mini", tmp_path) is None
    assert not list(tmp_path.iterdir())
