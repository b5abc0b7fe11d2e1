"""Grids: names of runs, what starts from what, and runs shared by processes."""

import pytest

from experiments.lab import grid
from experiments.lab.frame import Arm, Experiment
from experiments.lab.grid import RECORD, claimed, collect, plan_runs, run_grid
from experiments.lab.records import Conclusion
from vit_jax.training.loop import Interrupted

LAB = "configs/lab.py:family=vit,scale=smoke"


def experiment(arms: dict[str, Arm]) -> Experiment:
    return Experiment(
        item="",
        title="",
        question="",
        conclude=lambda _: Conclusion(),
        arms=lambda _: arms,
    )


def test_equal_runs_are_one_and_others_are_not(tmp_path):
    arms = {
        "a": Arm(LAB),
        "same": Arm(LAB, {"optim.learning_rate": 2e-3}),
        "other": Arm(LAB, {"optim.learning_rate": 1e-3}),
    }
    a, same, other = plan_runs(experiment(arms), "smoke", tmp_path, {})
    assert a.folder == same.folder != other.folder
    there = plan_runs(experiment(arms), "smoke", tmp_path, {"digits": "/folder"})[0]
    assert there.folder == a.folder
    assert there.config.data.name == there.config.fewshot.name == "/folder"


def test_a_run_follows_the_one_that_it_starts_from(tmp_path):
    arms = {"tuned": Arm(LAB, init="first"), "first": Arm(LAB)}
    runs = plan_runs(experiment(arms), "smoke", tmp_path, {}, seeds=2)
    assert [(run.label, run.seed) for run in runs] == [
        ("first", 0),
        ("tuned", 0),
        ("first", 1),
        ("tuned", 1),
    ]
    assert [run.config.init for run in runs] == ["", str(runs[0].folder)] + [
        "",
        str(runs[2].folder),
    ]


@pytest.mark.parametrize("init", ["tuned", "absent"])
def test_a_start_that_cannot_be(tmp_path, init):
    with pytest.raises(ValueError, match=f"starts from '{init}'"):
        plan_runs(experiment({"tuned": Arm(LAB, init=init)}), "smoke", tmp_path, {})


def test_a_run_belongs_to_one_process(tmp_path):
    runs = plan_runs(experiment({"a": Arm(LAB)}), "smoke", tmp_path, {}, seeds=2)
    with claimed(runs[:1]) as mine:
        assert mine == runs[:1]
        with claimed(runs) as others:
            assert others == runs[1:]
    runs[1].folder.mkdir()
    (runs[1].folder / RECORD).write_text("{}")
    with claimed(runs) as mine:
        assert mine == runs[:1]


def test_an_interrupted_grid_goes_on_and_failed_runs_do_not_count(
    tmp_path, monkeypatch
):
    runs = plan_runs(experiment({"a": Arm(LAB)}), "smoke", tmp_path, {}, seeds=3)
    trained = []

    def train_fleet(configs, folders):
        seeds = [config.seed for config in configs]
        if seeds == [1] and 1 not in trained:
            trained.extend(seeds)
            raise Interrupted("SIGTERM")
        trained.extend(seeds)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return [{} if seed == 2 else {"test": {"accuracy": 0.5}} for seed in seeds]

    monkeypatch.setattr(grid, "train_fleet", train_fleet)
    with pytest.raises(Interrupted):
        run_grid(runs)
    assert trained == [0, 1]
    run_grid(runs)
    assert trained == [0, 1, 1, 2]
    results = collect(runs, "smoke", tmp_path, {})
    assert results.runs["a"] == [runs[0].folder, runs[1].folder]
