"""Evaluation of a run: every example once, and files that agree with each other."""

import argparse
import csv
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import evaluate as evaluate_command
from vit_jax.data.pipeline import prefetch_to_device
from vit_jax.data.sources import make_source
from vit_jax.evaluation import classification as evaluation
from vit_jax.evaluation.classification import evaluate_run
from vit_jax.evaluation.means import evaluate, label_rank, make_eval_step
from vit_jax.evaluation.outcomes import (
    Outcomes,
    class_counts,
    confusion,
    probabilities,
    shown_classes,
    summary,
)
from vit_jax.figures import pictures
from vit_jax.interop.trained import load_trained
from vit_jax.losses import make_loss
from vit_jax.models.pixels import normalize

TEST_IMAGES = 359
RAGGED = 100  # does not divide them


@pytest.fixture(scope="module")
def run(digits_run):
    return load_trained(digits_run)


@pytest.fixture(scope="module")
def expected(run):
    """Logits and labels of all test images at once, without the pipeline."""
    source = make_source("digits", "test")
    records = [source[index] for index in range(len(source))]
    images = np.stack([run.data.eval_transform(r["image"]) for r in records])
    apply = jax.jit(functools.partial(run.model.apply, train=False))
    logits, _ = apply({"params": run.params}, normalize(jnp.asarray(images)))
    return np.asarray(logits), np.array([record["label"] for record in records])


@pytest.fixture(scope="module")
def outcomes(run):
    data = dataclasses.replace(run.data, split="test")
    result, skipped, speed = evaluate_run(run, data, batch_size=RAGGED)
    assert skipped == [] and speed > 0
    return result


@pytest.fixture(scope="module")
def folder(digits_run):
    """The folder that the command writes by default."""
    evaluate_command.main(_arguments(digits_run))
    return digits_run / "evaluation" / "digits-test"


def _arguments(checkpoint, **changes):
    flags = ["--checkpoint", str(checkpoint), "--batch-size", str(RAGGED)]
    parsed = evaluate_command.make_parser().parse_args(flags)
    return argparse.Namespace(**vars(parsed) | changes)


def _plain_metrics(logits, labels):
    shifted = logits - logits.max(-1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    rows = np.arange(len(labels))
    best = np.argsort(-logits, axis=-1)
    return {
        "count": len(labels),
        "loss": -log_shares[rows, labels].mean(),
        "accuracy": (best[:, 0] == labels).mean(),
        "top5": (best[:, :5] == labels[:, None]).any(-1).mean(),
    }


def test_outcomes_are_those_of_every_example_once(outcomes, expected):
    logits, labels = expected
    np.testing.assert_array_equal(outcomes.index, np.arange(TEST_IMAGES))
    np.testing.assert_array_equal(outcomes.label, labels)
    np.testing.assert_array_equal(outcomes.top[:, 0], logits.argmax(-1))
    shares = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(
        outcomes.probability, np.take_along_axis(shares, outcomes.top, -1), rtol=1e-4
    )
    metrics = summary(outcomes, 10)
    assert metrics.pop("ties") == 0
    assert metrics == pytest.approx(_plain_metrics(logits, labels), rel=1e-5)


@pytest.mark.parametrize("batch_size", [RAGGED, 512])
def test_sums_of_training_count_every_example_once(run, expected, batch_size):
    step = make_eval_step(run.model, make_loss(name="softmax", label_smoothing=0.0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with prefetch_to_device(run.data.eval_batches("test", batch_size), device) as host:
        metrics = evaluate(step, run.params, host)
    assert metrics == pytest.approx(_plain_metrics(*expected), rel=1e-5)


def test_a_constant_or_broken_output_is_no_hit():
    labels = jnp.array([0, 1, 2])
    for logits in (jnp.zeros((3, 3)), jnp.full((3, 3), jnp.nan)):
        np.testing.assert_array_equal(label_rank(logits, labels), [2, 2, 2])
    logits = jnp.array([[1.0, 2.0, 0.0], [1.0, 2.0, 2.0], [1.0, jnp.nan, 2.0]])
    np.testing.assert_array_equal(label_rank(logits, labels), [1, 1, 1])


def test_a_constant_model_scores_nothing_and_says_why(run):
    zeros = jax.tree.map(jnp.zeros_like, run.params)
    data = dataclasses.replace(run.data, split="test")
    result, _, _ = evaluate_run(run._replace(params=zeros), data, batch_size=RAGGED)
    metrics = summary(result, 10)
    assert metrics["accuracy"] == metrics["top5"] == 0
    assert metrics["loss"] == pytest.approx(np.log(10))
    # It predicts class 0, so the images of class 0 are the ties.
    assert metrics["ties"] == (result.label == 0).sum() > 0
    assert "counted as wrong" in evaluation.report(result, run.label_names, 1.0)


def test_files_agree_with_each_other(folder, run, outcomes):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["record"] for row in rows] == [
        f"digits test record {index}" for index in range(TEST_IMAGES)
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["count"] == TEST_IMAGES and metrics["skipped"] == []
    assert metrics["dataset"] == "digits" and metrics["split"] == "test"
    assert metrics["step"] == 4
    hits = [row["label"] == row["prediction"] for row in rows]
    assert metrics["accuracy"] == pytest.approx(np.mean(hits))
    in_top5 = [row["label"] in [c["label"] for c in row["top5"]] for row in rows]
    assert metrics["top5"] == pytest.approx(np.mean(in_top5))
    for row, share in zip(rows, outcomes.probability, strict=True):
        best = row["top5"][0]
        assert (row["prediction"], row["probability"]) == (
            best["label"],
            best["probability"],
        )
        shares = [choice["probability"] for choice in row["top5"]]
        np.testing.assert_allclose(shares, share, rtol=1e-4)

    with (folder / "per_class.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    assert [row["label"] for row in classes] == list(run.label_names)
    for line in classes:
        own = [
            h for h, r in zip(hits, rows, strict=True) if r["label"] == line["label"]
        ]
        assert int(line["count"]) == len(own)
        assert int(line["correct"]) == sum(own)
        assert float(line["accuracy"]) == pytest.approx(np.mean(own))

    with (folder / "confusion.csv").open(newline="") as file:
        header, *matrix = csv.reader(file)
    assert header[1:] == [row[0] for row in matrix] == list(run.label_names)
    for label, *counts in matrix:
        for prediction, count in zip(header[1:], counts, strict=True):
            pair = (label, prediction)
            pairs = [(row["label"], row["prediction"]) for row in rows]
            assert int(count) == pairs.count(pair)


def test_confusion_picture(folder, tmp_path):
    picture = np.asarray(Image.open(folder / "confusion.png").convert("RGB"))
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    counts = np.eye(40, dtype=int)
    path = pictures.confusion_matrix(counts, ["name"] * 40, "many", tmp_path / "x.png")
    many = np.asarray(Image.open(path).convert("RGB"))
    dark = (many.sum(-1) < 300) & (many[..., 2] > 60)  # the diagonal's blue
    assert 0 < dark.mean() < 0.1


def test_counts_of_made_up_outcomes():
    result = Outcomes(
        index=np.arange(4),
        label=np.array([0, 0, 2, 2]),
        rank=np.array([0, 1, 2, 0]),
        loss=np.ones(4, np.float32),
        top=np.array([[0, 1], [2, 0], [1, 0], [2, 1]]),
        probability=np.full((4, 2), 0.5, np.float32),
    )
    counts, hits = class_counts(result, 3)
    np.testing.assert_array_equal(counts, [2, 0, 2])
    np.testing.assert_array_equal(hits, [1, 0, 1])
    np.testing.assert_array_equal(
        confusion(result, np.arange(3)), [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
    )
    np.testing.assert_array_equal(shown_classes(result, 4), np.arange(4))
    np.testing.assert_array_equal(shown_classes(result, 5000), np.arange(3))
    assert "top5" not in summary(result, 3)
    report = evaluation.report(result, ("cat", "dog", "owl"), 12.0)
    assert "50.00 %  cat (2 images)" in report and "dog (" not in report
    assert "1    cat taken for owl" in report


def test_averaged_parameters_go_to_their_own_folder(digits_run, folder):
    evaluate_command.main(_arguments(digits_run, ema=True))
    averaged = json.loads(
        (folder.with_name("digits-test-ema") / "metrics.json").read_text()
    )
    raw = json.loads((folder / "metrics.json").read_text())
    assert averaged["ema"] and averaged["loss"] != raw["loss"]


def test_another_image_size_is_what_is_measured(digits_run, tmp_path):
    output = str(tmp_path / "out")
    changes = {"image_size": (24, 24), "output": output}
    evaluate_command.main(_arguments(digits_run, **changes))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["image_size"] == [24, 24]


def test_a_data_set_with_the_same_names_in_another_order(run, outcomes):
    turned = {
        "kernel": run.params["head"]["kernel"][:, ::-1],
        "bias": run.params["head"]["bias"][::-1],
    }
    other = run._replace(
        params={**run.params, "head": turned}, label_names=run.label_names[::-1]
    )
    data = dataclasses.replace(run.data, split="test")
    result, _, _ = evaluate_run(other, data, batch_size=RAGGED)
    np.testing.assert_array_equal(result.label, 9 - outcomes.label)
    assert summary(result, 10) == pytest.approx(summary(outcomes, 10))


def test_probabilities_of_both_losses():
    logits = jnp.array([[0.0, jnp.log(3.0)]])
    np.testing.assert_allclose(probabilities(logits, "softmax"), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(logits, "sigmoid"), [[0.5, 0.75]])


def test_a_folder_is_evaluated_by_file_name(digits_run, tmp_path):
    source = make_source("digits", "test")
    for index in range(40):
        record = source[index]
        path = tmp_path / "set" / "test" / str(record["label"]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(record["image"]).save(path)
    data_folder = str(tmp_path / "set")
    output = str(tmp_path / "out")
    evaluate_command.main(_arguments(digits_run, dataset=data_folder, output=output))
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    names = {str(path) for path in (tmp_path / "set").rglob("*.png")}
    assert len(rows) == 40 and {row["record"] for row in rows} == names
    assert all(f"/test/{row['label']}/" in row["record"] for row in rows)


def test_errors_of_the_command(digits_run, tmp_path, capsys):
    with pytest.raises(ValueError, match="wanted the folder of a training run"):
        evaluate_command.main(_arguments(tmp_path))
    with pytest.raises(SystemExit):
        evaluate_command.make_parser().parse_args(["--batch-size", "0"])
    assert "--batch-size: '0': wanted a whole number in [1," in capsys.readouterr().err
    with pytest.raises(ValueError, match="no split 'tset'"):
        evaluate_command.main(_arguments(digits_run, split="tset"))
    image = tmp_path / "image.png"
    image.touch()
    with pytest.raises(ValueError, match="image.png is a file: give a folder"):
        evaluate_command.main(_arguments(digits_run, dataset=str(image)))
