"""What a resumed run compares, and that its metrics are an undisturbed run's."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.exact_resume import differences, final_state
from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.interop.trained import load_trained
from vit_jax.storage.run_files import load_config, read_metrics
from vit_jax.training import loop, resume, run_folder

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


def write_photos(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(24):
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, and a run on it whose last checkpoint is lost."""
    write_photos(tmp_path / "data")
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
    path.unlink()
    with pytest.raises(ConfigError, match=r"begun with .*\n  optim.learning_rate"):
        loop.train(edited, photos / "run")
    assert not path.exists()
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


@pytest.mark.full
def test_a_run_on_a_relative_folder_goes_on_from_anywhere(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_photos(tmp_path / "home" / "data")
    told = photo_config(Path())
    run, step = tmp_path / "run", tmp_path / "run" / "checkpoints" / "4"
    monkeypatch.chdir(tmp_path / "home")
    loop.train(told, run)
    saved = load_config(run / "config.json")
    assert saved.data.name == str(tmp_path / "home" / "data")
    assert told.data.name == "data"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_trained(run).data.num_examples("val") == 4
    shutil.rmtree(step)
    capsys.readouterr()
    loop.train(told, run)
    out = capsys.readouterr().out
    assert step.exists() and "have changed" not in out
    assert f"no data in {tmp_path}/elsewhere: data.name is {saved.data.name}" in out
    # Another folder of this name is not what the run was begun with.
    write_photos(tmp_path / "elsewhere" / "data")
    with pytest.raises(ConfigError, match=r"home/data' there, '.*elsewhere/data' now"):
        loop.train(told, run)
    # It is, if the old one has moved here.
    shutil.rmtree(tmp_path / "home" / "data")
    loop.train(told, run)
    shutil.rmtree(tmp_path / "elsewhere" / "data")
    where = f"no data in {tmp_path}/elsewhere, nor {tmp_path}/elsewhere/data, with"
    with pytest.raises(ConfigError, match=where):
        loop.train(told, run)
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(ValueError, match=f"set 'data'.*no data in {tmp_path}/home"):
        loop.train(told, tmp_path / "another")


def test_a_run_that_was_begun_with_a_relative_path_goes_on(tmp_path, monkeypatch):
    """As those were before paths were saved as absolute ones."""
    write_photos(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    told = photo_config(Path())
    with monkeypatch.context() as patch:
        patch.setattr(loop, "with_absolute_paths", lambda config: config)
        loop.train(told, tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.json").data.name == "data"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    loop.train(told, tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.json").data.name == f"{tmp_path}/data"


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("data", "KNOWN"),
        ("home/data", "home/data"),  # it is here
        ("../data", "KNOWN"),
        ("ata", "ata"),
        ("other/data", "other/data"),
        ("other", "other"),
        ("digits", "digits"),
        (None, None),
    ],
)
def test_only_a_path_with_the_same_end_is_taken(tmp_path, monkeypatch, told, taken):
    monkeypatch.chdir(tmp_path)
    known, run = tmp_path / "home" / "data", tmp_path / "run"
    for folder in (known, run):
        folder.mkdir(parents=True)
    config = tiny_config(f"data.name={known}")
    (run / "config.json").write_text(config.to_json())
    with config.data.ignore_type():
        config.data.name = told
    found = run_folder.with_known_paths(config, run).data.name
    assert found == (str(known) if taken == "KNOWN" else taken)


def test_which_folders_have_moved(tmp_path):
    gone = f"{tmp_path}/gone/data"
    assert run_folder.has_moved(gone, "/x/data")
    assert not run_folder.has_moved(gone, "/x/other")
    assert not run_folder.has_moved("data", "/x/data")
    assert not run_folder.has_moved(str(tmp_path), f"/x/{tmp_path.name}")


@pytest.mark.parametrize(
    ("told", "saved"),
    [
        ("digits", "digits"),
        ("cifar10", "cifar10"),
        ("gs://bucket/shards", "gs://bucket/shards"),
        ("~/photos", "~/photos"),
        ("here", "/work/here"),
        ("./none/", "/work/none"),
        ("../a", "/work/../a"),
        ("/x/y", "/x/y"),
        ("packed", "packed"),
        ("", ""),
    ],
)
def test_which_names_are_paths(tmp_path, monkeypatch, told, saved):
    (tmp_path / "here").mkdir()
    (tmp_path / "digits").mkdir()  # a data set goes before a folder
    (tmp_path / "tfds" / "packed" / "from_images").mkdir(parents=True)
    (tmp_path / "packed").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    config = tiny_config(f"data.name={told}", "data.stage=disk", "knn.data_dir=t")
    found = run_folder.with_absolute_paths(config)
    wanted = saved.replace("/work", str(tmp_path))
    assert found.data.name == (os.path.abspath(wanted) if wanted != saved else saved)
    assert found.data.stage == f"{tmp_path}/disk" and found.data.data_dir == ""
    assert found.knn.data_dir == f"{tmp_path}/t" and found.knn.name == ""
    assert config.data.name == told


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
