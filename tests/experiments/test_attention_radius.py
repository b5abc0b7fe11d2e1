"""The claims about a limited attention, on images that are classified by hand."""

import csv

import numpy as np
import pytest

from experiments import attention_radius, data_size
from experiments.attention_radius import LAB, REAL, claims_of
from experiments.lab.figures import heat_maps
from experiments.lab.grid import plan_runs
from experiments.lab.radii import WHOLE, all_layers, from_on, one, up_to

IMAGES = 100


def measured(right: dict[str, int]) -> dict[str, np.ndarray]:
    """Hits of two layers, the given number of 100 images right in each condition."""
    names = [WHOLE, all_layers(1)]
    for layer in range(2):
        names += [one(layer, 1), up_to(layer), from_on(layer)]
    return {f"hit/{n}": np.arange(IMAGES) < right.get(n, 90) for n in names}


@pytest.mark.parametrize("name", [LAB, REAL])
def test_late_layers_that_lose_more_support_the_claim(name):
    def seeds_of(right):
        """Three that differ by an image in each condition; the checkpoint is one."""
        rows = [{name: n + i for name, n in right.items()} for i in range(3)]
        return [measured(row) for row in rows[: 1 if name == REAL else 3]]

    seeds = seeds_of({from_on(1): 40, one(1, 1): 50, all_layers(1): 30})
    joint, single, every = claims_of(name, 2, seeds)
    assert [c.verdict for c in (joint, single, every)] == ["supported"] * 3
    assert joint.numbers.startswith("+49" if name == LAB else "+50")
    assert ("over images" in joint.numbers) == (name == REAL)
    reverse = seeds_of({up_to(0): 40, one(0, 1): 50, all_layers(1): 95})
    verdicts = [c.verdict for c in claims_of(name, 2, reverse)]
    assert verdicts == ["not supported"] * 3


def test_arms_are_the_runs_of_data_size(tmp_path):
    arm = data_size.label(data_size.VIT)
    folders = [
        {run.folder for run in plan_runs(e, "mini", tmp_path, {}) if run.label == arm}
        for e in (attention_radius.EXPERIMENT, data_size.EXPERIMENT)
    ]
    assert folders[0] == folders[1] and folders[0]


def test_a_heat_map_has_its_numbers_in_the_csv(tmp_path):
    panels = {"a": np.array([[1.0, 2.0], [3.0, -4.0]]), "b": np.zeros((3, 2))}
    path = heat_maps(
        panels, tmp_path / "map.png", x_label="x", y_label="y", bar_label="lost"
    )
    rows = list(csv.reader(path.with_suffix(".csv").open()))
    assert rows[0] == ["panel", "y", "x", "lost"]
    assert rows[4] == ["a", "1", "1", "-4.0"] and len(rows) == 1 + 4 + 6
