"""Every experiment: its arms at all scales, and all of it at smoke scale."""

import argparse
import json
import os
from pathlib import Path
from typing import get_args

import pytest

from experiments.lab.check import needs
from experiments.lab.command import add_arguments, run_experiment
from experiments.lab.frame import EXPERIMENTS, SCALES, load_experiment, resolve
from experiments.lab.grid import plan_runs
from experiments.lab.statistics import Verdict
from vit_jax.config import check_config, resolve_lengths
from vit_jax.training.sections import config_sections

# `make test` runs these, pre-training and fine-tuning; `make test-all` every one.
FEW = ("attention", "class_token")
NAMES = [name for name in EXPERIMENTS if Path(f"experiments/{name}.py").exists()]
SOME_IN_FULL = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.full)
    for name in NAMES
]


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """One for all processes of the tests: experiments share runs."""
    base = tmp_path_factory.getbasetemp()
    # Several processes have folders of their own in the session's; a single process has
    # none, and the parent of its folder outlives the session.
    several = "PYTEST_XDIST_WORKER" in os.environ
    return (base.parent if several else base) / "experiments"


@pytest.mark.parametrize("name", SOME_IN_FULL)
def test_smoke(name, root):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["--scale=smoke", f"--root={root}"])
    run_experiment(name, load_experiment(name), arguments)
    folder = root / "smoke" / name
    result = json.loads((folder / "result.json").read_text())
    assert result["tables"]
    for table in result["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    for figure in result["figures"]:
        for drawn in filter(None, (figure["ours"], figure["paper"])):
            for suffix in (".png", ".svg", ".csv"):
                assert (folder / drawn).with_suffix(suffix).stat().st_size
    for claim in result["claims"]:
        assert claim["verdict"] in get_args(Verdict)
        assert claim["criterion"] and claim["numbers"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_arms_resolve(name, scale, root):
    experiment = load_experiment(name)
    if scale not in experiment.seeds:
        with pytest.raises(ValueError, match=f"no scale '{scale}', only smoke, mini"):
            plan_runs(experiment, scale, root, {})
        return
    for run in plan_runs(experiment, scale, root, {}):
        config = run.config
        check_config(config, config_sections())
        assert resolve_lengths(config, 10_000).total > 0


@pytest.mark.parametrize("name", SOME_IN_FULL)
def test_the_papers_own_setting_is_traced(name, root):
    """The smallest of its arms; `--scale full --check` traces all."""
    experiment = load_experiment(name)
    if "full" not in experiment.seeds:
        pytest.skip("an experiment without a setting of the paper's")
    arms = experiment.arms("full")
    runs = [r for r in plan_runs(experiment, "full", root, {}) if not r.after]
    small = [r for r in runs if r.config.model.name.endswith(("B/32", "R50x1"))]
    for run in (small or runs)[:1]:
        row = needs(run, arms[run.label])
        assert row.parameters > 1e6 and row.steps >= 1


def test_shared_runs_have_one_folder(root):
    """Transfer and compute start from the very runs of the data-size study."""
    folders = {
        name: {r.folder for r in plan_runs(load_experiment(name), "mini", root, {})}
        for name in ("data_size", "transfer", "compute", "optimizers")
    }
    shared = {name: len(x & folders["data_size"]) for name, x in folders.items()}
    # Pairs of arm and seed.
    assert shared == {"data_size": 60, "transfer": 18, "compute": 12, "optimizers": 3}


def test_every_vtab_task_runs_if_its_data_is_here(monkeypatch, root):
    from configs.vtab import TASKS
    from experiments import vtab

    monkeypatch.setattr(vtab, "data_is_here", lambda name, _: name == "kitti")
    arms = vtab.arms("mini")
    assert list(arms)[1:] == ["kitti_distance"]
    runs = plan_runs(vtab.EXPERIMENT, "mini", root, {})
    assert [run.after for run in runs] == [(), (runs[0].folder,)]
    for task, row in TASKS.items():
        config = resolve(vtab.task_arm("mini", task))
        assert config.data.name == row.data and config.model.width == 64
