"""Metrics: what is shown, what is recorded, and that nobody waits for them."""

import builtins
import fcntl
import importlib.util
import os
import struct
import subprocess
import sys
import termios
import time

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from vit_jax.figures.pictures import learning_curve
from vit_jax.storage.run_files import read_metrics
from vit_jax.training.metrics import Meter, Writer, check_installed

CONFIG = ml_collections.ConfigDict({"seed": 0})


def accept_all(*_):
    return True


def writer(workdir, start=0, **options):
    options = {"tensorboard": False, "wandb": ""} | options
    return Writer(workdir, CONFIG, 10, start, **options)


def test_the_meter_never_waits_for_the_newest_step(monkeypatch):
    fetched = []
    monkeypatch.setattr(builtins, "float", lambda x: fetched.append(x) or 0.0)
    meter = Meter(4, accept_all, max_in_flight=2)
    for step in range(1, 6):
        meter.add(step, {"loss": step})
        assert all(value <= step - 2 for value in fetched)
    meter.finish()
    assert fetched == [1, 2, 3, 4, 5]


def test_the_meter_averages_since_the_last_flush():
    meter = Meter(4, accept_all)
    assert meter.flush() == {}
    for step, loss in enumerate((1.0, 2.0, 6.0), 1):
        meter.add(step, {"loss": jnp.float32(loss)})
    meter.finish()
    assert meter.flush()["loss"] == 3
    meter.add(4, {"loss": jnp.float32(8)})
    meter.finish()
    assert meter.flush()["loss"] == 8


def test_pauses_do_not_count_as_training_time():
    meter = Meter(10, accept_all)
    for step in range(4):
        meter.add(step, {"loss": jnp.float32(1)})
        time.sleep(0.01)
        if step == 1:
            time.sleep(0.5)
            meter.pause()
    meter.finish()
    assert 300 < meter.flush()["images/s"] < 1100


def test_steps_that_are_not_accepted_do_not_count():
    meter = Meter(1, accept=lambda step, row: row["loss"] < 5 and step != 2)
    for step, loss in enumerate((1.0, 2.0, 3.0, 6.0), 1):
        meter.add(step, {"loss": jnp.float32(loss)})
    meter.finish()
    assert meter.flush()["loss"] == 2


def test_plain_lines_when_not_a_terminal(tmp_path, capsys):
    log = writer(tmp_path)
    log.train(4, {"loss": 0.5, "accuracy": 0.25, "images/s": 80.0, "steps/s": 2.0})
    log.evaluation(4, {"test": {"loss": 0.4, "accuracy": 0.5}})
    log.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 4/10  loss 0.5000  accuracy 25.00 %  80 images/s  ETA 00:03",
        "step 4/10  test: accuracy 50.00 %  loss 0.4000",
    ]


def test_a_resumed_run_forgets_the_rows_after_its_checkpoint(tmp_path):
    log = writer(tmp_path)
    for step in (1, 2, 3):
        log.train(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "los')  # cut by a kill
    log = writer(tmp_path, start=2)
    log.train(3, {"loss": 9.0})
    log.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 9)]


def test_skipped_records_are_listed_once(tmp_path, capsys):
    log = writer(tmp_path)
    log.skipped(["a.jpg"])
    log.skipped(["a.jpg", "b.jpg"])
    log.close()
    assert (tmp_path / "skipped.txt").read_text() == "a.jpg\nb.jpg\n"
    assert capsys.readouterr().out.count("a.jpg") == 1


def test_tensorboard_files_without_tensorflow(tmp_path):
    log = writer(tmp_path, tensorboard=True)
    log.train(1, {"loss": 0.5})
    log.close()
    (events,) = (tmp_path / "tensorboard").glob("events*")
    assert b"train/loss" in events.read_bytes()


def test_wandb_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"log.wandb='p' needs: pip install"):
        check_installed(tensorboard=False, wandb="p")
    with pytest.raises(ImportError, match="needs: pip install tensorboardX"):
        check_installed(tensorboard=True, wandb="")


def test_the_learning_curve_is_drawn(tmp_path):
    log = writer(tmp_path)
    log.train(1, {"loss": 0.5, "accuracy": 0.5})
    log.close()
    assert learning_curve(tmp_path).stat().st_size > 5_000


def test_jax_arrays_come_in(tmp_path):
    meter = Meter(1, accept_all)
    meter.add(1, jax.jit(lambda: {"loss": jnp.float32(2)})())
    meter.finish()
    log = writer(tmp_path)
    log.train(1, meter.flush())
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == 2


def test_compilation_is_in_no_interval():
    meter = Meter(10, accept_all)
    time.sleep(0.5)  # the first step compiles when it is called
    for step in range(4):
        meter.add(step, {"loss": jnp.float32(1)})
        time.sleep(0.01)
    meter.finish()
    assert meter.flush()["images/s"] > 300


@pytest.mark.parametrize("columns", [0, 40, 80, 200])
def test_the_bar_moves_every_step_at_any_width(columns):
    """In a terminal of that width; 0 is one that does not tell."""
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    program = (
        "import pathlib, sys, tempfile, time, ml_collections\n"
        "from vit_jax.training.metrics import Writer\n"
        "log = Writer(pathlib.Path(tempfile.mkdtemp()), ml_collections.ConfigDict(),"
        " 10, 0, tensorboard=False, wandb='')\n"
        "for step in range(1, 6):\n"
        "    time.sleep(0.15)\n"
        "    log.progress(step)\n"
        "log.close()\n"
    )
    subprocess.run([sys.executable, "-c", program], stderr=child, check=True)
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    os.close(parent)
    for step in range(6):
        assert f"step {step}/10 {10 * step:3}%|" in shown
    assert max(map(len, shown.split("\r"))) <= (columns or 80) + 2
