"""The comparison of killed runs notices what it is there for."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.exact_resume import Ending, table
from benchmarks.killed_training import MARK, Kill, Training, left_behind
from vit_jax.checkpoints.integrity import MANIFEST
from vit_jax.storage.lock import LOCK

ENDING = Ending({"a": np.float32([0.0])}, [{"step": 3, "loss": 0.5}], {"next_index": 9})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"arrays": {"a": np.float32([-0.0])}}, ["1 arrays, a the first"]),
        ({"arrays": {}}, ["1 arrays, a the first"]),
        ({"metrics": []}, ["1 rows of metrics, first {'step': 3, 'loss': 0.5} and No"]),
        ({"metrics": [{"step": 3, "loss": 0.7}]}, ["1 rows of metrics, first {'step"]),
        ({"position": {"next_index": 8}}, ["{'next_index': 9} and {'next_index': 8}"]),
    ],
)
def test_endings_that_differ(changes, said):
    found = ENDING.differs(ENDING._replace(**changes))
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_what_is_left_behind_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.killed_training.FAREWELL", 0.2)
    run = tmp_path / "run"
    (tmp_path / "tmp").mkdir()
    (run / "checkpoints").mkdir(parents=True)
    assert left_behind(str(run), tmp_path) == []
    (run / "config.json.tmp").touch()
    (run / LOCK).touch()
    (run / "damaged").mkdir()
    (run / "checkpoints" / "7.removing").mkdir()
    (tmp_path / "tmp" / "pictures").mkdir()
    command = [sys.executable, "-c", "input()"]
    environment = os.environ | {MARK: str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        process_line, *rest = left_behind(str(run), tmp_path)
        process.kill()
    assert process_line.startswith(f"process {process.pid} ")
    names = [text.rpartition("/")[2] for text in rest]
    assert names == ["config.json.tmp", "7.removing", "pictures", LOCK, "damaged"]


BEGUN = "run folder  x\ncompiling ...\ncompiled in 1 s\n"


@pytest.mark.parametrize(
    ("text", "steps", "phase"),
    [
        ("", {}, "import and set-up"),
        ("run folder  x\n", {}, "restore"),
        ("run folder  x\ncompiling ...\n", {20: True}, "compile"),
        (f"{BEGUN}step 3/60  loss 2\n", {}, "before the first save"),
        (f"{BEGUN}step 24/60  loss 2\n", {20: True}, "step"),
        (f"{BEGUN}step 42/60  loss 2\n", {20: True, 40: False}, "save"),
        (f"{BEGUN}step 30/60  loss 2\n", {20: False}, "evaluate"),
        (f"{BEGUN}step 30/60  loss 2\nstep 30/60  test: x\n", {20: True}, "step"),
        (f"{BEGUN}step 60/60  loss 2\nstep 60/60  test: x\n", {60: True}, "end"),
    ],
)
def test_the_phase_of_a_kill(tmp_path, monkeypatch, text, steps, phase):
    """By the log, and by the steps, which are whole or still without a manifest."""
    code = f"import time; print({text!r}, end='', flush=True); time.sleep(99)"
    monkeypatch.setattr(
        "benchmarks.killed_training.COMMAND", (sys.executable, "-c", code)
    )
    for step, whole in steps.items():
        folder = tmp_path / "run" / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        if whole:
            (folder / MANIFEST).touch()
    training = Training(str(tmp_path / "run"), tmp_path / "log", [])
    while training.text() != text:
        time.sleep(0.01)
    assert training.saved == max(steps, default=0)
    assert training.kill() == phase


def test_the_table_counts_kills_by_phase():
    kills = [(Kill("save", False), True), (Kill("save", True), False)]
    lines = table(kills).splitlines()
    assert (
        "| save | 2 | 1 | 1 of 2 |" in lines and lines[-1] == "| all | 2 | 1 | 1 of 2 |"
    )
