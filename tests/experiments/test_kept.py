"""Small files of runs that were trained elsewhere stand for them."""

import json

from experiments.lab.frame import Arm
from experiments.lab.grid import RECORD, collect, is_finished, plan_runs
from experiments.lab.kept import keep, place, with_kept
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
