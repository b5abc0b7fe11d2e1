"""What a resumed run compares, and that its metrics are an undisturbed run's."""

import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from benchmarks.exact_resume import differences, final_state
from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.storage.run_files import read_metrics
from vit_jax.training import loop, resume

TINY = (
    "model.depth=1",
    "model.width=32",
    "model.mlp_dim=64",
    "data.batch_size=32",
    "train.duration=6steps",
    "eval.every=3steps",
    "log.tensorboard=false",
)


def tiny_config(*overrides):
    texts = [f"--config.{text}" for text in (*TINY, *overrides)]
    return read_config("configs/digits.py", texts)


TIMES = ("steps/s", "images/s")


def rows_of(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def test_metrics_after_a_stop_are_those_of_a_run_left_alone(tmp_path, monkeypatch):
    """Stopped between checkpoints, one step before a row is due."""
    config = tiny_config(
        *("train.duration=9steps", "log.every=4steps", "checkpoint.every=5steps"),
        "model.dropout_rate=0.1",
    )
    loop.train(config, tmp_path / "alone")
    add = loop.Meter.add

    def add_and_interrupt(self, step, metrics):
        add(self, step, metrics)
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Meter, "add", add_and_interrupt)
    stops = {3, 7}
    for _ in range(2):
        with pytest.raises(loop.Interrupted):
            loop.train(config, tmp_path / "stopped")
    loop.train(config, tmp_path / "stopped")
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "alone")


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, and a run on it whose last checkpoint is lost."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(24):
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    loop.train(photo_config(tmp_path), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    return tmp_path


def photo_config(folder, *more):
    return tiny_config(
        *(f"data.name={folder / 'data'}", "eval.splits=val", "data.batch_size=8"),
        *("eval.every=2steps", "train.duration=4steps", "optim.warmup=0steps"),
        *("checkpoint.keep_last=2", "checkpoint.every=2steps", *more),
    )


def test_a_resumed_run_compares_classes_records_and_config(photos, capsys):
    data, config = photos / "data", photo_config(photos)
    (data / "cat").rename(data / "zebra")
    with pytest.raises(ConfigError, match=r"cat is gone, zebra is new; undo that"):
        loop.train(config, photos / "run")
    (data / "zebra").rename(data / "cat")
    # Another config: config.json stays as it is, and where it is lost a step has it.
    edited = photo_config(photos, "optim.learning_rate=0.5")
    path = photos / "run" / "config.json"
    for text in (path.read_text(), "["):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"begun with .*\n  optim.learning_rate"):
            loop.train(edited, photos / "run")
        assert path.read_text() == text
    # An edited config.json, and a command that agrees with it.
    path.write_text(edited.to_json())
    with pytest.raises(ConfigError, match=r"checkpoint was .*\n  optim.learning_rate"):
        loop.train(edited, photos / "run")
    path.write_text("[")  # as good as lost
    for number in range(30, 40):
        shutil.copy(data / "cat" / "0.png", data / "cat" / f"{number}.png")
    capsys.readouterr()
    loop.train(config, photos / "run")
    out = capsys.readouterr().out
    assert "the data have changed since step 2: train had 4" in out
    assert path.read_text() == config.to_json(indent=2) + "\n"


def test_renamed_classes_are_gone_on_with_if_asked(photos, capsys):
    (photos / "data" / "cat").rename(photos / "data" / "bobcat")
    capsys.readouterr()
    loop.train(photo_config(photos), photos / "run", allow_config_change=True)
    out = capsys.readouterr().out
    assert "cat is gone, bobcat is new; going on all the same, as was asked" in out


def test_classes_in_another_order_are_never_trained_with(photos):
    """In the old order, by `data.classes`, the run ends as it would have."""
    loop.train(photo_config(photos), photos / "alone")
    swapped = photo_config(photos, "data.classes=dog,cat")
    old_order = photo_config(photos, "data.classes=cat,dog")
    with pytest.raises(ConfigError, match="order .*: cat, dog there, dog, cat now; na"):
        loop.train(swapped, photos / "run", allow_config_change=True)
    loop.train(old_order, photos / "run", allow_config_change=True)
    arrays, others = (final_state(photos / name) for name in ("alone", "run"))
    assert differences(arrays, others) == []


def test_other_records_of_the_same_number_are_said(capsys):
    old = {"images": 4000, "names": "a", "bytes": 7}
    for changes in ({"names": "b"}, {"bytes": 8}):
        now = {"train": old | changes}
        resume.say_other_records({"train": old, "gone": old}, now, step=2)
        out = capsys.readouterr().out
        assert "train had 4,000 images and has 4,000, but others; what fol" in out
    resume.say_other_records({"train": old}, {"train": old, "new": old}, step=2)
    assert capsys.readouterr().out == ""


def test_scanned_dropout_is_said(capsys):
    resume.say_scan(tiny_config())
    assert "numbers of model.stochastic_depth_rate: the run" in capsys.readouterr().out
    resume.say_scan(tiny_config("model.stochastic_depth_rate=0"))
    assert capsys.readouterr().out == ""


@pytest.mark.full
def test_another_scan_in_mid_run_is_said(tmp_path, capsys):
    config = tiny_config("train.duration=4steps", "model.dropout_rate=0.1")
    config.checkpoint.update(every="2steps", keep_last=2)
    loop.train(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    config.model.scan = True
    capsys.readouterr()
    loop.train(config, tmp_path)
    out = capsys.readouterr().out
    assert "model.scan has changed" in out and "Going on from step 2 of 4" in out
