"""Small files of runs that were trained elsewhere stand for them."""

import argparse
import ast
import inspect
import json
import sys

import numpy as np
import pytest

from experiments.lab import command
from experiments.lab.frame import EXPERIMENTS, Arm, Experiment, load_experiment
from experiments.lab.grid import RECORD, collect, is_finished, plan_runs
from experiments.lab.kept import keep, place, with_kept
from experiments.lab.measures import MissingMeasure, array_of_run, of_run
from tests.experiments.test_grid import LAB, experiment, finish


def finished_run(run):
    run.folder.mkdir(parents=True)
    rows = [
        {"step": 2, "split": "train", "loss": 1.0},
        {"step": 4, "split": "test", "accuracy": 0.5},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder / "metrics.jsonl").write_text(lines)
    (run.folder / "config.json").write_text("{}")
    (run.folder / "bias_end.json").write_text('{"field": 0.25}')
    finish(run)


def test_a_kept_run_counts_and_has_its_results(tmp_path):
    kept = tmp_path / "kept"
    grid = experiment({"a": Arm(LAB)})
    (here,) = plan_runs(grid, "smoke", tmp_path / "here", {}, seeds=1)
    finished_run(here)
    keep(here, kept)
    (there,) = plan_runs(grid, "smoke", tmp_path / "there", {}, seeds=1)
    assert not is_finished(there.folder)
    runs = with_kept([there], kept)
    assert runs[0].folder == place(there, kept) and is_finished(runs[0].folder)
    results = collect(runs, "smoke", tmp_path, {})
    assert results.final("a", "accuracy") == [0.5]
    names = {path.name for path in runs[0].folder.iterdir()}
    assert names == {RECORD, "metrics.jsonl", "bias_end.json"}
    assert "train" not in (runs[0].folder / "metrics.jsonl").read_text()
    # Where the run itself is, it is taken.
    assert with_kept([here], kept) == [here]


def test_a_run_that_others_start_from_is_trained_here(tmp_path):
    kept = tmp_path / "kept"
    grid = experiment({"first": Arm(LAB), "tuned": Arm(LAB, init="first")})
    for run in plan_runs(grid, "smoke", tmp_path / "here", {}, seeds=1)[:1]:
        finished_run(run)
        keep(run, kept)
    there = plan_runs(grid, "smoke", tmp_path / "there", {}, seeds=1)
    assert with_kept(there, kept) == there
    for run in plan_runs(grid, "smoke", tmp_path / "here", {}, seeds=1)[1:]:
        finished_run(run)
        keep(run, kept)
    assert all(is_finished(run.folder) for run in with_kept(there, kept))


def test_a_run_whose_measure_was_not_kept_is_trained_here(tmp_path, capsys):
    kept = tmp_path / "kept"
    # Two arms with one config share a run; the measure is of the first.
    grid = experiment({"a": Arm(LAB), "b": Arm(LAB)})
    here, _ = plan_runs(grid, "smoke", tmp_path / "here", {}, seeds=1)
    finished_run(here)
    keep(here, kept)
    there = plan_runs(grid, "smoke", tmp_path / "there", {}, seeds=1)

    def measure_of(name):
        def measure(run):
            if run.label == "a":
                of_run(run.folder / name, dict)

        return measure

    assert all(is_finished(x.folder) for x in with_kept(there, kept))
    runs = with_kept(there, kept, measure_of("bias_end.json"))
    assert all(is_finished(run.folder) for run in runs)
    assert with_kept(there, kept, measure_of("other.json")) == there
    folder = place(here, kept)
    told = f"the first as {folder} has no other.json, and no checkpoint to make it from"
    assert f"1 kept runs are trained again here, {told}" in capsys.readouterr().out
    # A run without a result has nothing to measure.
    record = json.loads((here.folder / RECORD).read_text())
    (here.folder / RECORD).write_text(json.dumps(record | {"failed": True}))
    keep(here, kept)
    runs = with_kept(there, kept, measure_of("other.json"))
    assert all(is_finished(run.folder) for run in runs)


def test_measures_of_another_training_are_not_mixed_with_new_ones(tmp_path):
    kept = tmp_path / "kept"
    grid = experiment({"a": Arm(LAB)})
    for name in ("here", "there"):
        (run,) = plan_runs(grid, "smoke", tmp_path / name, {}, seeds=1)
        finished_run(run)
        (run.folder / f"{name}.json").write_text("{}")
        record = json.loads((run.folder / RECORD).read_text())
        (run.folder / RECORD).write_text(json.dumps(record | {"hardware": name}))
        keep(run, kept)
        # The same training again adds what was measured since.
        (run.folder / "later.json").write_text("{}")
        keep(run, kept)
        names = {path.name for path in place(run, kept).glob("*.json")}
        assert names == {RECORD, "bias_end.json", "later.json", f"{name}.json"}


def test_a_measure_is_made_of_a_checkpoint_and_read_without_one(tmp_path):
    path = tmp_path / "array.json"
    with pytest.raises(MissingMeasure, match=r"has no array.json, and no checkpoint"):
        array_of_run(path, lambda: np.eye(2))
    (tmp_path / "checkpoints").mkdir()
    np.testing.assert_array_equal(array_of_run(path, lambda: np.eye(2)), np.eye(2))
    (tmp_path / "checkpoints").rmdir()
    np.testing.assert_array_equal(array_of_run(path, lambda: np.ones(2)), np.eye(2))


# What reads a checkpoint, or a file that was made of one.
READERS = {"load_trained", "largest_change", "array_of_run", "of_run"}
READERS |= {"trained_profile", "initial_profile", "moved_profile", "start_of"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_reads_checkpoints_says_what_to_measure(name):
    subject = load_experiment(name)
    tree = ast.parse(inspect.getsource(sys.modules[f"experiments.{name}"]))
    used = {x.name for x in ast.walk(tree) if isinstance(x, ast.alias)}
    defaults = Experiment._field_defaults
    fields = ("measure", "measure_arm")
    measures = any(getattr(subject, x) is not defaults[x] for x in fields)
    assert measures == bool(used & READERS)


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    ["scrambled_plane", "protocol_locality", "border_equivariance", "bias_profile"],
)
def test_small_files_are_all_that_a_conclusion_needs(name, tmp_path):
    """What is kept right after the training, without what concluding measures."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    subject = load_experiment(name)

    def run(root, *more):
        texts = ["--scale=smoke", f"--root={tmp_path / root}", *more]
        texts.append(f"--kept={tmp_path / 'kept'}")
        command.run_experiment(name, subject, parser.parse_args(texts))

    run("here", "--keep", "--train-only")
    run("there")
    assert not (tmp_path / "there" / "smoke" / "runs").exists()
    run("here")
    found, wanted = (
        json.loads((tmp_path / root / "smoke" / name / "result.json").read_text())
        for root in ("there", "here")
    )
    assert found["tables"] and found["tables"] == wanted["tables"]
    assert found["claims"] == wanted["claims"]
