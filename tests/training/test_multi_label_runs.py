"""Runs on images with several labels, and on classes of unequal size, end to end."""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from vit_jax import evaluate as evaluate_command
from vit_jax import predict as predict_command
from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.data.mix import make_mix
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.predictions import predict_images
from vit_jax.fleet.training import train_fleet
from vit_jax.interop.trained import load_trained
from vit_jax.losses import make_loss
from vit_jax.training import loop
from vit_jax.training.labels import make_weights
from vit_jax.training.setup import build
from vit_jax.training.step import classification, named_keys

CLASSES = ("blue", "green", "red")
TINY = """
from configs import folder

def get_config(data):
    config = folder.get_config(data=data, size="16")
    config.model.update(depth=1, width=16, num_heads=2, mlp_dim=32)
    config.model.stochastic_depth_rate = 0.0
    config.data.update(batch_size=16, randaug_layers=0, crop="resize")
    config.train.duration = "8steps"
    config.optim.update(warmup="0steps", learning_rate=0.01)
    config.log.update(every="4steps", tensorboard=False)
    config.eval.update(every="4steps", batch_size=8)
    config.checkpoint.update(every="4steps", keep_best=1)
    return config
"""


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> str:
    """40 images with any of three colours, and a table of them."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = ["image_name,tags"]
    for number in range(40):
        has = rng.random(3) < (0.2, 0.5, 0.4)
        pixels = np.zeros((10, 10, 3), np.uint8)
        pixels[:] = 255 * has[::-1]
        Image.fromarray(pixels).save(folder / "images" / f"im_{number}.png")
        tags = " ".join(
            name for name, is_there in zip(CLASSES, has, strict=True) if is_there
        )
        lines.append(f"im_{number},{tags}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def named(folder: str) -> str:
    """The config of a tiny model on a data set, for `--config`."""
    path = os.path.join(folder, "tiny.py")
    with open(path, "w") as file:
        file.write(TINY)
    return f"{path}:data={folder}"


def config_of(folder: str, *overrides: str):
    return read_config(named(folder), [f"--config.{text}" for text in overrides])


@pytest.fixture(scope="session")
def colours_run(colours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours_run")
    loop.train(config_of(colours), folder)
    return folder


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: x for k, x in row.items() if not k.endswith("/s")} for row in rows]


def test_training_measures_and_says_so(colours, colours_run, capsys):
    config = config_of(colours)
    assert (
        "may have several labels: sigmoid loss, metric map" in capsys.readouterr().out
    )
    assert config.loss.name == "sigmoid" and config.checkpoint.best_metric == "map"
    train, val = rows_of(colours_run)[-2:]
    assert {"loss", "precision_at_1"} < train.keys() and "accuracy" not in train
    assert val.keys() == {"step", "split", "loss", "map", "count"}
    run = load_trained(colours_run)
    source = run.data.source("val")
    assert val["count"] == len(source) == 4 and run.multi_label
    images = [source[i]["image"] for i in range(4)]
    shares, labels = predict_images(run, images), source.labels()
    seen = labels.any(0)
    wanted = average_precision_score(labels[:, seen], shares[:, seen], average="macro")
    assert val["map"] == pytest.approx(wanted)
    losses = -np.where(labels, np.log(shares), np.log1p(-shares)).sum(1)
    assert val["loss"] == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.full
def test_an_interrupted_run_ends_with_the_same_bits(
    colours, colours_run, tmp_path, monkeypatch
):
    add = loop.Meter.add

    def add_and_stop(self, step, metrics):
        add(self, step, metrics)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    config = config_of(colours)
    monkeypatch.setattr(loop.Meter, "add", add_and_stop)
    with pytest.raises(loop.Interrupted):
        loop.train(config, tmp_path)
    monkeypatch.setattr(loop.Meter, "add", add)
    loop.train(config, tmp_path)
    whole, resumed = load_trained(colours_run), load_trained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)
    assert without_times(rows_of(tmp_path)) == without_times(rows_of(colours_run))


def evaluated(run, folder, **changes):
    arguments = vars(
        evaluate_command.make_parser().parse_args(["--checkpoint", str(run)])
    )
    arguments |= {"output": str(folder), "model_options": {}, "image_size": None}
    evaluate_command.main(argparse.Namespace(**{**arguments, **changes}))
    return json.loads((folder / "metrics.json").read_text())


def test_evaluate(colours, colours_run, tmp_path, capsys):
    metrics = evaluated(colours_run, tmp_path / "val")
    row = rows_of(colours_run)[-1]
    assert metrics["map"] == pytest.approx(row["map"])
    assert metrics["loss"] == pytest.approx(row["loss"]) and metrics["count"] == 4
    # All images of the table, which is named.
    table = f"{colours}/labels.csv"
    metrics = evaluated(colours_run, tmp_path / "all", dataset=table)
    text = capsys.readouterr().out
    assert f"mAP     {100 * metrics['map']:.2f} %, the mean of 3 classes" in text
    assert sorted(os.listdir(tmp_path / "all")) == [
        "metrics.json",
        "per_class.csv",
        "predictions.jsonl",
    ]
    run = load_trained(colours_run)
    source = run.data.source("all")
    labels = source.labels()
    shares = predict_images(run, [source[i]["image"] for i in range(40)])
    wanted = average_precision_score(labels, shares, average=None)
    with (tmp_path / "all" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(CLASSES)
    assert [int(row["count"]) for row in rows] == labels.sum(0).tolist()
    found = [float(row["average_precision"]) for row in rows]
    np.testing.assert_allclose(found, wanted)
    assert metrics["map"] == pytest.approx(wanted.mean())
    lines = (tmp_path / "all" / "predictions.jsonl").read_text().splitlines()
    for index, line in enumerate(map(json.loads, lines)):
        assert line["record"] == source.record_name(index)
        assert line["labels"] == [CLASSES[i] for i in np.flatnonzero(labels[index])]
        above = {CLASSES[i] for i in np.flatnonzero(shares[index] >= 0.5)}
        assert {item["label"] for item in line["predictions"]} == above


def test_evaluation_of_other_classes_and_losses(
    colours, colours_run, tmp_path, digits_run
):
    """Fewer classes in another order are found by name; a softmax is refused."""
    folder = tmp_path / "set"
    folder.mkdir()
    images = [f"{colours}/images/im_{i}.png" for i in range(8)]
    lines = [f"{i},1,{i % 2}" for i in range(8)]
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(open(image, "rb").read())
    (folder / "t.csv").write_text("image,red,blue\n" + "\n".join(lines) + "\n")
    metrics = evaluated(colours_run, tmp_path / "out", dataset=str(folder))
    run = load_trained(colours_run)
    source = Data(name=str(folder), split="all", batch_size=1, image_size=(16, 16))
    source = source.source("all")
    shares = predict_images(run, [source[i]["image"] for i in range(8)])
    wanted = average_precision_score(
        source.labels(), shares[:, [2, 0]], average="macro"
    )
    assert metrics["map"] == pytest.approx(wanted) and metrics["count"] == 8
    changed = (folder / "t.csv").read_text().replace("red", "1").replace("blue", "2")
    (folder / "t.csv").write_text(changed)
    with pytest.raises(
        ValueError, match=r"was trained with loss.name='softmax', for on"
    ):
        evaluated(digits_run, tmp_path / "out", dataset=str(folder))
    with pytest.raises(
        ValueError, match="may have several labels, and features are jud"
    ):
        evaluated(colours_run, tmp_path / "out", protocol="knn", neighbours=1)


def predicted(capsys, run, *images, **changes) -> str:
    defaults = {"split": None, "count": None, "top": 5, "json": None, "ema": False}
    defaults |= {"threshold": None, "attention": None, "batch_size": 8, "fsdp": 1}
    defaults |= {"image_size": None, "model_options": {}}
    values = defaults | changes | {"checkpoint": str(run), "images": images}
    predict_command.main(argparse.Namespace(**values))
    return capsys.readouterr().out


@pytest.mark.full
def test_predict(colours, colours_run, digits_run, tmp_path, capsys):
    image, target = f"{colours}/images/im_0.png", tmp_path / "out.json"
    run = load_trained(colours_run)
    (share,) = predict_images(run, [np.asarray(Image.open(image))])
    for threshold in (None, float(np.sort(share)[-2]) - 1e-4, 1.0):
        text = predicted(
            capsys, colours_run, image, json=str(target), threshold=threshold, top=1
        )
        (row,) = json.loads(target.read_text())
        above = np.flatnonzero(share >= (threshold or 0.5))
        wanted = {CLASSES[i]: pytest.approx(share[i], rel=1e-4) for i in above}
        found = {item["label"]: item["probability"] for item in row["predictions"]}
        assert found == wanted and row.keys() == {"file", "predictions"}
        assert ("no class" in text) == (not wanted)
        assert all(f"{name} " in text for name in wanted)
    assert (
        len(
            predicted(
                capsys,
                colours_run,
                split="all",
                count=5,
                json=str(target),
                attention=str(tmp_path / "maps"),
            ).splitlines()
        )
        == 6
    )
    rows = json.loads(target.read_text())
    labels = run.data.source("all").labels()
    assert rows[0]["labels"] == [CLASSES[i] for i in np.flatnonzero(labels[0])]
    with pytest.raises(
        ValueError, match="--threshold is for runs with the sigmoid loss"
    ):
        predicted(capsys, digits_run, image, threshold=0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.name=softmax"], "several labels: set --config.loss.name=sigmoid"),
        (
            ["checkpoint.best_metric=accuracy"],
            "set --config.checkpoint.best_metric=map",
        ),
        (
            ["loss.label_smoothing=0.1"],
            "and loss.label_smoothing is for one: set it to",
        ),
        (["objective.name=distillation"], "objective.name='distillation' learns one"),
        (["data.sampling=balanced"], "set loss.class_weights instead"),
        (["knn.every=1epochs", "knn.test_split=val"], "features are judged by one"),
        (["fewshot.every=1epochs", "fewshot.test_split=val"], "features are judged by"),
        (["eval.splits=val[:1]"], "no image in val[:1] of "),
    ],
)
def test_what_needs_one_label_is_refused_before_anything_starts(
    colours, overrides, message, monkeypatch
):
    source = Data(name=colours, batch_size=1, image_size=(4, 4)).source("val")
    labels = source.labels()
    monkeypatch.setattr(type(source), "labels", lambda _: 0 * labels, raising=True)
    if "eval" not in overrides[0]:
        monkeypatch.undo()
    with pytest.raises(ValueError) as error:
        build(config_of(colours, *overrides))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_needs_several_labels_is_refused(colours, tmp_path):
    config = read_config("configs/digits.py", ["--config.checkpoint.best_metric=map"])
    with pytest.raises(
        ConfigError, match="'map', and an image of digits has one label"
    ):
        build(config)
    with pytest.raises(
        ValueError, match="a fleet learns one label an image, and one of"
    ):
        train_fleet([config_of(colours)], [tmp_path / "run"])
    for key in ("loss.class_weights", "data.sampling"):
        config = read_config("configs/digits.py", [f"--config.{key}=balanced"])
        with pytest.raises(
            ConfigError, match=f"a fleet needs {key}='', and it is 'bal"
        ):
            train_fleet([config], [tmp_path / "run"])
    assert not (tmp_path / "run").exists()


def test_mixed_images_have_the_labels_of_both():
    def apply(variables, images, **_):
        return jnp.broadcast_to(variables["params"], (len(images), 3)), {}

    mix = make_mix(mixup_alpha=1.0, cutmix_alpha=0.0, per_example=False)
    loss = make_loss(name="sigmoid", label_smoothing=0.0)
    model: Any = SimpleNamespace(num_classes=3, apply=apply)
    objective = classification(model, loss, mix, several=True)
    labels = jnp.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]], jnp.uint8)
    images = jnp.zeros((4, 2, 2, 3), jnp.uint8)
    batch, keys = {"image": images, "label": labels}, named_keys(0)
    _, targets = objective.prepare(batch, keys)
    share = float(targets[0, 0])
    assert 0.5 < share < 1
    rolled = jnp.roll(labels, 1, axis=0)
    np.testing.assert_allclose(
        targets, share * labels + (1 - share) * rolled, rtol=1e-5
    )
    # The metric: whether the best class is among the labels, where there are none not.
    logits = jnp.array([0.0, 9.0, 0.0])
    _, hits = objective.loss(logits, images, jnp.float32(labels), keys.dropout)
    assert objective.metric == "precision_at_1" and hits == 0.75


def test_class_weights_change_the_training_and_not_the_evaluation(colours):
    data = Data(name=colours, batch_size=1, image_size=(4, 4))
    labels = data.source("train").labels()
    weights = make_weights(data, "sigmoid", class_weights="balanced")
    share = labels.mean(0)
    np.testing.assert_allclose(weights.present, 1 / (2 * share), rtol=1e-6)
    np.testing.assert_allclose(weights.absent, 1 / (2 * (1 - share)), rtol=1e-6)
    digits = Data(name="digits", batch_size=1, image_size=(8, 8))
    weights = make_weights(digits, "softmax", class_weights="balanced")
    counts = np.bincount(digits.source("train").labels())
    np.testing.assert_allclose(weights.present, counts.sum() / (10 * counts), rtol=1e-6)
    with pytest.raises(ConfigError, match="0 of 20 in train.:20. of digits have '"):
        few = Data(name="digits", batch_size=1, image_size=(8, 8), split="train[:20]")
        make_weights(few, "softmax", class_weights="sqrt")

    setup = build(config_of(colours, "loss.class_weights=balanced"))
    program = setup.program
    state, keys = program.init_state(), program.make_keys()
    with setup.data.train_batches(seed=0) as batches:
        batch = jax.device_put(next(batches))
    sums = program.eval_step(
        state.params, batch | {"mask": np.ones(16, bool), "index": np.arange(16)}
    )
    _, metrics = program.train_step(state, batch, keys)
    # The head begins with zeros, so that each term is log 2, times its weight.
    assert float(sums["loss"]) / 16 == pytest.approx(3 * np.log(2), rel=1e-5)
    terms = np.where(batch["label"], 1 / share, 1 / (1 - share)) / 2
    wanted = np.log(2) * terms.sum() / 16
    assert wanted != pytest.approx(3 * np.log(2), rel=1e-3)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.full
def test_several_devices_measure_the_same(colours, colours_run, tmp_path):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "vit_jax.train", "--workdir", str(tmp_path)]
    command += ["--config", named(colours)]
    subprocess.run(command, check=True, env={**os.environ, "XLA_FLAGS": flags})
    for ours, one in zip(rows_of(tmp_path), rows_of(colours_run), strict=True):
        assert ours.keys() == one.keys()
        for name in {"loss", "map", "precision_at_1", "count"} & one.keys():
            assert ours[name] == pytest.approx(one[name], rel=1e-3)
