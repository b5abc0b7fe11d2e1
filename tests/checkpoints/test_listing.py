"""The command that lists, verifies and prunes checkpoints."""

import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

from vit_jax.checkpoints.__main__ import main, make_parser
from vit_jax.checkpoints.integrity import MANIFEST, steps
from vit_jax.checkpoints.store import Checkpoints

ACCURACY = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=9)
    for step, accuracy in ACCURACY.items():
        state = {"kernel": jnp.full((50, 50), float(step))}
        checkpoints.save(step, state, {}, {"accuracy": accuracy})
    checkpoints.close()
    config = {"checkpoint": {"keep_last": 2, "keep_best": 1, "keep_every": "3steps"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def command(capsys):
    """Runs the command here; returns what it prints, and its error if there is one."""

    def call(*arguments):
        error = None
        try:
            main(make_parser().parse_args([str(argument) for argument in arguments]))
        except (RuntimeError, ValueError) as raised:
            error = str(raised)
        return capsys.readouterr().out, error

    return call


def states(out):
    return {row["step"]: row["state"] for row in json.loads(out)["steps"]}


def test_list(run, command):
    (run / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
    (run / "damaged" / "0").mkdir(parents=True)
    before = sorted(run.rglob("*"))
    out, error = command(run, "--json", run.parent / "report.json")
    assert error is None
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["step", "1", "2", "3", "4"]
    assert "best" in lines[2] and "accuracy 0.9" in lines[2]
    assert lines[5].startswith("damaged: ") and lines[6].startswith("unfinished: ")
    report = json.loads((run.parent / "report.json").read_text())
    kept = {row["step"]: row["kept"] for row in report["steps"]}
    assert kept == {1: [], 2: ["best"], 3: ["last", "every 3"], 4: ["last"]}
    assert all(row["state"] == "ok" for row in report["steps"])
    assert all(row["bytes"] > 1000 for row in report["steps"])
    (run.parent / "report.json").unlink()
    assert sorted(run.rglob("*")) == before
    # The folder of the checkpoints does as well.
    assert json.loads(command(run / "checkpoints", "--json", "-")[0]) == report


def test_damage(run, command):
    flipped, cut, bare = (run / "checkpoints" / name for name in "123")
    path = max(flipped.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.truncate(cut / "_CHECKPOINT_METADATA", 7)
    (bare / MANIFEST).unlink()
    out, error = command(run, "--json", "-")
    assert states(out) == {1: "ok", 2: "damaged", 3: "unverified", 4: "ok"}
    assert error.startswith("damaged: step 2.")
    out, error = command(run, "--verify", "--json", "-")
    assert states(out) == {1: "damaged", 2: "damaged", 3: "ok", 4: "ok"}
    assert error.startswith("damaged: step 1, 2.")
    problem = json.loads(out)["steps"][0]["problem"]
    assert problem.startswith("the checksum of state/")


def test_prune(run, command):
    directory = run / "checkpoints"
    out, _ = command(run, "--prune", "--dry-run")
    assert "would remove: 1" in out and steps(directory) == [1, 2, 3, 4]
    out, _ = command(run, "--prune")
    assert "removed: 1" in out and steps(directory) == [2, 3, 4]
    command(run, "--prune", "--keep-last", 1, "--keep-best", 0, "--keep-every", 0)
    assert steps(directory) == [4]


def test_prune_keeps_the_newest_whole_step(run, command):
    directory = run / "checkpoints"
    os.truncate(directory / "4" / "_CHECKPOINT_METADATA", 7)
    keep = ("--prune", "--keep-last", 1, "--keep-best", 0, "--keep-every", 0)
    command(run, *keep)
    assert steps(directory) == [3, 4]
    (directory / "3" / MANIFEST).unlink()
    _, error = command(run, *keep)
    assert "no step is known to be whole" in error
    assert steps(directory) == [3, 4]
    command(run, *keep, "--verify")
    assert steps(directory) == [3, 4]


def test_refusals(run, command, tmp_path):
    assert "has no checkpoints: wanted" in command(tmp_path)[1]
    config = {"checkpoint": {"keep_every": "10epochs"}}
    (run / "config.json").write_text(json.dumps(config))
    assert command(run)[1] is None
    assert "give --keep-every in steps" in command(run, "--prune")[1]
    with pytest.raises(SystemExit):
        command(run, "--prune", "--keep-last", 0)
    assert steps(run / "checkpoints") == [1, 2, 3, 4]


def test_the_exit_code_tells_of_damage(run):
    os.truncate(run / "checkpoints" / "1" / "_CHECKPOINT_METADATA", 7)
    command = [sys.executable, "-m", "vit_jax.checkpoints", str(run)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: damaged: step 1.")
