"""The dry check: what it opens, what it finds, and how it ends."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from configs import digits
from vit_jax.data import check
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source


def _fill(folder, count=40) -> None:
    for split in ("train", "val"):
        for k in range(count):
            path = folder / split / ("cat", "dog")[k % 2] / f"{k:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (k, 0, 0)).save(path)


def _run(*arguments):
    command = [sys.executable, "-m", "vit_jax.data.check", *map(str, arguments)]
    # A platform that is not there: had it been asked for, the command would fail.
    env = os.environ | {"JAX_PLATFORMS": "tpu"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.full
def test_a_sound_data_set(tmp_path):
    _fill(tmp_path / "pets")
    (tmp_path / "pets" / "val" / "cat" / "notes.txt").touch()
    picture = tmp_path / "first.png"
    result = _run(
        f"--config=configs/folder.py:data={tmp_path / 'pets'},size=16",
        "--seconds=0.1",
        f"--picture={picture}",
    )
    assert result.returncode == 0, result.stderr
    for text in (
        f"train   train of {tmp_path / 'pets'}: 40 images\n",
        f"eval    val of {tmp_path / 'pets'}: 40 images\n",
        "2 classes: cat, dog\n",
        "40 records read: 2 classes, 10 x 12 pixels (median), 0 broken",
        "\n        1 left out (1 .txt)\n",
        "input at 16 x 16",
        "worker processes",
        f"{picture}: the first 32 images",
        "nothing wrong was found",
    ):
        assert text in result.stdout
    assert Image.open(picture).width > 1000
    # The tiles are the images of the run's first batch, with their classes.
    names = picture.with_suffix(".csv").read_text().splitlines()[1:]
    data = Data(name=str(tmp_path / "pets"), batch_size=32, image_size=(16, 16))
    with data.train_batches(seed=0) as batches:
        labels = next(batches)["label"]
    assert names == [f"{i},{('cat', 'dog')[x]}" for i, x in enumerate(labels)]


def test_what_is_wrong_is_told_all_at_once(tmp_path):
    _fill(tmp_path / "pets")
    for k in (3, 4):
        broken = tmp_path / "pets" / "train" / ("cat", "dog")[k % 2] / f"{k:02}.png"
        broken.write_bytes(broken.read_bytes()[:50])
    result = _run(
        f"--config=configs/folder.py:data={tmp_path / 'pets'},size=16",
        "--seconds=0.1",
        "--config.eval.splits=test",
        "--config.data.cache=never",
    )
    assert result.returncode == 1
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert "error: 2 of 40 records are broken, such as " in errors[0]
    assert 'set data.on_error="skip"' in errors[0]
    assert "has no split 'test'; its splits are train, val" in errors[1]
    # The rest was looked at all the same.
    assert "worker processes" in result.stdout


def test_broken_records_that_a_run_would_skip():
    sample = check.Sample(100, ["x.png: broken"], [(8, 8)] * 99, {0})
    options = dict(name="x", batch_size=1, image_size=(8, 8))
    judge = check.judge
    assert judge(Data(**options, on_error="skip", max_errors=10), 1000, sample) == []
    (message,) = judge(Data(**options, on_error="skip", max_errors=9), 1000, sample)
    assert "that is some 10, more than data.max_errors=9" in message
    assert "x.png" in judge(Data(**options), 1000, sample)[0]


def test_splits_of_evaluators_and_sweeps_are_opened_too():
    config = digits.get_config()
    config.eval.splits = ("test", "test")
    config.fewshot.update(every="1epochs", name="pets", test_split="val")
    config.sweep.dev_split = "train[90%:]"
    data = Data(**config.data)
    opened = [(t, own.name, split) for t, own, split in check.splits_of(config, data)]
    assert opened == [
        ("train", "digits", "train"),
        ("eval", "digits", "test"),
        ("sweep", "digits", "train[90%:]"),
        ("fewshot", "pets", "train"),
        ("fewshot", "pets", "val"),
    ]


def test_a_batch_larger_than_the_split_is_found(tmp_path):
    _fill(tmp_path / "pets", count=4)
    parser = check._parser()
    arguments = parser.parse_args(
        ["--config", f"configs/folder.py:data={tmp_path / 'pets'}", "--seconds", "1"]
    )
    arguments.overrides = ["--config.data.batch_size=32"]
    with pytest.raises(ValueError, match="batch_size=32 is larger than the split"):
        check.main(arguments)


@pytest.mark.parametrize("words", ["--seconds=-1", "--seconds=nan", "--sample=0"])
def test_numbers_that_mean_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        check._parser().parse_args(["--config", "digits", words])
    assert "wanted a" in capsys.readouterr().err


def test_a_sample_is_at_most_all(tmp_path):
    _fill(tmp_path / "pets", count=4)
    source = make_source(str(tmp_path / "pets"), "train")
    assert check.read_sample(source, 10**12).count == len(source)
    assert check.read_sample(source, 3).count == 3
