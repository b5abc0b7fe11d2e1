"""An experiment of one's own, in a file outside of the tree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.lab import command
from experiments.lab.results import read_report

ROOT = Path(__file__).parents[2]


def start(folder: Path, *words: str) -> str:
    """The output of a command in a folder, with this repository to be imported."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / "experiments/template.py", tmp_path / "registers.py")
    return tmp_path


def test_a_file_anywhere_is_a_command(folder):
    printed = start(folder, "registers.py", "--help")
    assert printed.startswith("usage: python registers.py [-h]")
    assert "do register tokens help" in printed


@pytest.mark.full
def test_its_result_names_the_command_and_is_in_the_report(folder):
    (folder / "link").symlink_to(folder)
    start(folder, "link/registers.py", "--scale=smoke", "--jobs=2")
    results = folder / "runs/experiments/smoke"
    record = json.loads((results / "registers/result.json").read_text())
    assert record["command"] == "python link/registers.py --scale smoke"
    assert record["runs"]["count"] == 2
    (one,) = read_report([results]).results
    assert one.anchor == "registers-smoke"


@pytest.mark.parametrize(
    ("module", "file", "words"),
    [
        ("experiments.shapes", "/clone/experiments/shapes.py", "-m experiments.shapes"),
        ("experiments.all", "/clone/experiments/all.py", "-m experiments.shapes"),
        ("shapes", "/mine/shapes.py", "-m shapes"),
        (None, "/mine/shapes.py", "mine/shapes.py"),
        (None, None, "-m experiments.shapes"),
    ],
)
def test_words_that_start_an_experiment(monkeypatch, module, file, words):
    main = type(sys)("__main__")
    main.__file__ = file
    main.__spec__ = module and type(sys.__spec__)(module, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["mine/shapes.py", "--scale=mini"])
    assert " ".join(command.words_of("shapes")) == words
