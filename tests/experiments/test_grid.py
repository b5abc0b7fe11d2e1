"""Grids: names of runs, what starts from what, and runs shared by processes."""

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.lab import command, grid
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


def finish(run: grid.GridRun) -> None:
    record = {"seconds": 60, "failed": False, "hardware": "a machine"}
    (run.folder / RECORD).write_text(json.dumps(record))


def folder_of(path: Path, classes: str) -> str:
    """A folder with an image in each class."""
    for name in classes:
        (path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path / "train" / name / "0.png")
    return str(path)


def test_equal_runs_are_one_and_others_are_not(tmp_path):
    arms = {
        "a": Arm(LAB),
        "same": Arm(LAB, {"optim.learning_rate": 2e-3}),
        "other": Arm(LAB, {"optim.learning_rate": 1e-3}),
    }
    a, same, other = plan_runs(experiment(arms), "smoke", tmp_path, {})
    assert a.folder == same.folder != other.folder
    digits = folder_of(tmp_path / "digits", "0123456789")
    there = plan_runs(experiment(arms), "smoke", tmp_path, {"digits": digits})[0]
    assert there.folder == a.folder
    assert there.config.data.name == there.config.fewshot.name == digits


def test_a_folder_has_classes_of_its_own(tmp_path, capsys):
    arms = {"a": Arm(LAB)}
    (theirs,) = plan_runs(experiment(arms), "smoke", tmp_path, {}, seeds=1)
    data = {"digits": folder_of(tmp_path / "beasts", "abcdefg")}
    (run,) = plan_runs(experiment(arms), "smoke", tmp_path, data, seeds=1)
    assert run.config.data.classes == ("a", "b", "c", "d", "e")
    assert run.config.fewshot.classes == ("f", "g")
    assert run.folder != theirs.folder
    assert "a, b, c, d, e" in capsys.readouterr().out
    few = {"digits": folder_of(tmp_path / "three", "abc")}
    with pytest.raises(ValueError, match="3 classes are too few .* wanted four"):
        plan_runs(experiment(arms), "smoke", tmp_path, few)


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


def test_a_run_follows_its_teacher(tmp_path):
    taught = {"objective.name": "distillation"}
    arms = {
        "taught": Arm(LAB, taught, init="first", teacher="other"),
        "first": Arm(LAB),
        "other": Arm(LAB, {"model.width": 32}),
        "by itself": Arm(LAB, taught, init="first", teacher="first"),
    }
    runs = plan_runs(experiment(arms), "smoke", tmp_path, {}, seeds=1)
    by_label = {run.label: run for run in runs}
    assert list(by_label) == ["first", "other", "taught", "by itself"]
    first, other, run, own = runs
    assert run.after == (first.folder, other.folder)
    assert run.config.init == str(first.folder)
    assert run.config.objective.teacher == str(other.folder)
    assert own.after == (first.folder, first.folder) and own.folder != run.folder


@pytest.mark.parametrize("init", ["tuned", "absent"])
def test_a_start_that_cannot_be(tmp_path, init):
    with pytest.raises(ValueError, match=f"the arm 'tuned' needs '{init}'"):
        plan_runs(experiment({"tuned": Arm(LAB, init=init)}), "smoke", tmp_path, {})


def test_a_run_belongs_to_one_process(tmp_path):
    runs = plan_runs(experiment({"a": Arm(LAB)}), "smoke", tmp_path, {}, seeds=2)
    with claimed(runs[:1]) as mine:
        assert mine == runs[:1]
        with claimed(runs) as others:
            assert others == runs[1:]
    runs[1].folder.mkdir()
    (runs[1].folder / RECORD).write_text(
        '{"seconds": 1, "failed": false, "hardware": "a machine"}'
    )
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


def test_a_check_counts_the_forward_passes_of_a_teacher(tmp_path, monkeypatch):
    taught = {"objective.name": "distillation"}
    small = {"model.width": 8, "model.num_heads": 1}
    arms = {
        "alone": Arm(LAB),
        "taught": Arm(LAB, taught, teacher="small"),
        "small": Arm(LAB, small),
    }
    found = {}
    monkeypatch.setattr(
        command,
        "needs_table",
        lambda rows, *_: found.update({r.label: r for r in rows}),
    )
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(["--scale=smoke", f"--root={tmp_path}"])
    command.check("an experiment", experiment(arms), arguments)
    images = 4 * 16  # steps and batch of the laboratory's smoke scale
    teachers = 2 * found["small"].macs * images
    assert found["taught"].flops == found["alone"].flops + teachers
    assert found["small"].flops == 3 * teachers
