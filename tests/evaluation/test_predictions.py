"""Prediction from files and splits: names, probabilities, pictures, errors."""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import predict as predict_command
from vit_jax.analysis.rollout import attention_rollout
from vit_jax.checkpoints.store import CheckpointError
from vit_jax.data.decode import ImageError
from vit_jax.data.files import find_images
from vit_jax.data.sources import make_source
from vit_jax.evaluation.classification import evaluate_run
from vit_jax.evaluation.predictions import forward_step, predict_images
from vit_jax.figures import pictures
from vit_jax.interop.trained import check_finite, load_trained
from vit_jax.models import create_model, init_params
from vit_jax.models.pixels import normalize
from vit_jax.storage import output


@pytest.fixture(scope="module")
def run(digits_run):
    return load_trained(digits_run)


@pytest.fixture(scope="module")
def images():
    """Ten images of two sizes."""
    source = make_source("digits", "test")
    images = [source[index]["image"] for index in range(10)]
    return images[:8] + [
        np.kron(image, np.ones((3, 2, 1), np.uint8)) for image in images[8:]
    ]


@pytest.fixture
def folder(tmp_path, images):
    """Three images, one of them two folders down, and other files."""
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / "folder.png").mkdir()
    for name, image in zip(("a.png", "b.BMP", "deep/er/a.png"), images, strict=False):
        Image.fromarray(image).save(tmp_path / "in" / name)
    Image.fromarray(images[0]).save(tmp_path / "in" / ".hidden" / "x.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def _arguments(checkpoint, *images, **changes):
    defaults = {"split": None, "count": None, "top": 5, "json": None, "ema": False}
    defaults["threshold"] = None
    defaults |= {
        "image_size": None,
        "attention": None,
        "batch_size": 64,
        "fsdp": 1,
        "model_options": {},
    }
    options = {"checkpoint": checkpoint, "images": list(map(str, images))} | defaults
    return argparse.Namespace(**options | changes)


def _apply(model, params, images, **options):
    apply = jax.jit(functools.partial(model.apply, train=False, **options))
    return apply({"params": params}, normalize(jnp.asarray(images)))


def _pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_probabilities_are_the_models_whatever_the_batch_size(run, images):
    prepared = np.stack([run.data.eval_transform(image) for image in images])
    logits, _ = _apply(run.model, run.params, prepared)
    expected = jax.nn.softmax(logits)
    before = forward_step._cache_size()
    for count in (10, 3, 4):  # of batches of 4: two whole and a padded one, ...
        result = predict_images(run, images[:count], batch_size=4)
        np.testing.assert_allclose(result, expected[:count], rtol=1e-4, atol=1e-6)
    assert forward_step._cache_size() == before + 1  # one shape was compiled
    assert predict_images(run, []).shape == (0, 10)


def test_sigmoid_runs_give_sigmoid_probabilities(run, images):
    shares = predict_images(run, images, batch_size=4)
    sigmoid = run._replace(loss={"name": "sigmoid", "label_smoothing": 0.0})
    single = predict_images(sigmoid, images, batch_size=4)
    odds = single / (1 - single)
    np.testing.assert_allclose(
        odds / odds.sum(-1, keepdims=True), shares, rtol=1e-3, atol=1e-6
    )


def test_outputs_that_are_no_numbers_are_told(run, images):
    wrong = jax.tree.map(lambda x: x * jnp.nan, run.params)
    with pytest.raises(CheckpointError, match="class_token in here holds numbers that"):
        check_finite(wrong, "here", jax.tree.leaves(run.params)[0].sharding.mesh)
    run = run._replace(params=wrong)
    with pytest.raises(ArithmeticError, match="step 4 of .* outputs that are NaN"):
        predict_images(run, images)
    with pytest.raises(ArithmeticError, match="for 359 of 359 images"):
        evaluate_run(run, dataclasses.replace(run.data, split="test"), batch_size=100)


def test_images_of_another_type_are_refused(run, images):
    with pytest.raises(ValueError, match=r"must be uint8 of shape .* float32"):
        predict_images(run, [images[0].astype(np.float32)])
    with pytest.raises(ValueError, match=r"of shape \(8, 3\)"):
        predict_images(run, images[0])  # one image where a sequence is wanted


@pytest.mark.parametrize("pooling", ["token", "gap"])
def test_attention_changes_no_probability_and_fits_the_grid(images, pooling):
    model = create_model(
        "ViT-mu/4",
        num_classes=0,  # a new head gives zeros, which would agree with anything
        image_size=(8, 16),
        pooling=pooling,
        num_registers=2,
    )
    params = init_params(model, jax.random.key(0))
    batch = np.stack(images[:3])
    batch = np.concatenate([batch, batch[:, :, ::-1]], axis=2)
    with_heat, heat = forward_step(
        model, params, batch, loss_name="softmax", attention=True
    )
    without, nothing = forward_step(
        model, params, batch, loss_name="softmax", attention=False
    )
    assert nothing is None
    np.testing.assert_allclose(with_heat, without, rtol=1e-5)
    assert heat.shape == (3, 2, 4) and (np.asarray(heat) > 0).all()
    assert (np.asarray(heat).sum((1, 2)) < 1).all()  # the rest is the registers'
    _, out = _apply(model, params, batch, return_attention=True)
    weights = [out["encoder"]["block_00"]["attention_weights"]]
    rollout = np.asarray(attention_rollout(weights))
    rows = rollout[:, 2:3] if pooling == "token" else rollout[:, 2:]
    expected = rows.mean(axis=1)[:, -8:].reshape(3, 2, 4)
    np.testing.assert_allclose(heat, expected, rtol=1e-4)


def test_files_and_folders(run, digits_run, folder, images, tmp_path, capsys):
    output = tmp_path / "made" / "out.json"
    extra = tmp_path / "extra.png"
    Image.fromarray(images[5]).save(extra)
    predict_command.main(_arguments(digits_run, folder, extra, json=str(output), top=3))
    rows = json.loads(output.read_text())
    names = [str(folder / name) for name in ("a.png", "b.BMP", "deep/er/a.png")]
    assert [row["file"] for row in rows] == [*names, str(extra)]
    shares = predict_images(run, [*images[:3], images[5]])
    for row, share in zip(rows, shares, strict=True):
        best = np.argsort(-share)[:3]
        predicted = [choice["label"] for choice in row["predictions"]]
        assert predicted == [run.label_names[label] for label in best]
        values = [choice["probability"] for choice in row["predictions"]]
        np.testing.assert_allclose(values, share[best], rtol=1e-4)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and len({len(line) for line in table}) == 1  # aligned
    for line, row in zip(table, rows, strict=True):
        assert row["file"][-20:] in line
        assert f"{100 * row['predictions'][2]['probability']:.1f} %" in line


def test_a_split_comes_with_its_labels(digits_run, tmp_path, capsys):
    output = tmp_path / "out.json"
    predict_command.main(
        _arguments(digits_run, split="test", count=3, json=str(output), top=1)
    )
    rows = json.loads(output.read_text())
    source = make_source("digits", "test")
    assert [(row["file"], row["label"]) for row in rows] == [
        (f"digits test record {index}", str(source[index]["label"]))
        for index in (0, 179, 358)
    ]
    assert f"is {rows[1]['label']}" in capsys.readouterr().out.splitlines()[1]


def test_pictures_show_the_image_and_where_the_model_looks(digits_run, tmp_path):
    target = tmp_path / "seen"
    predict_command.main(
        _arguments(digits_run, split="test", count=2, attention=str(target))
    )
    files = sorted(path.name for path in target.iterdir())
    assert files == [
        "0000_digits_test_record_0.png",
        "0001_digits_test_record_358.png",
        "overview.png",
    ]
    first, second = (_pixels(target / name) for name in files[:2])
    assert first.shape == second.shape and min(first.shape[:2]) >= 256
    source = make_source("digits", "test")
    for picture, index in ((first, 0), (second, 358)):
        # Each of the 256 pixels of the input is drawn as some 400 of the same grey;
        # the edges of letters have few of each.
        grey = picture[(picture == picture[..., :1]).all(-1)][:, 0]
        image = load_trained(digits_run).data.eval_transform(source[index]["image"])
        drawn = np.bincount(grey, minlength=256)
        assert (drawn[np.unique(image)] > 200).all()
    # The heat is in colour, and is not the same for two images.
    coloured = np.ptp(first, axis=-1) > 30
    assert coloured.mean() > 0.1
    assert (np.abs(first - second).max(-1) > 30)[coloured].mean() > 0.2
    assert np.ptp(_pixels(target / "overview.png")) == 255


def test_the_heat_in_a_picture_is_the_one_given(tmp_path):
    def drawn(heat):
        item = pictures.Prediction(
            "x", np.zeros((8, 8, 3), np.uint8), [("cat", 0.9)], np.array(heat), None
        )
        return _pixels(pictures.prediction(item, tmp_path / "x.png"))

    left, right = drawn([[9.0, 1.0]] * 2), drawn([[1.0, 9.0]] * 2)
    changed = np.abs(left - right).sum(-1) > 60
    columns = np.flatnonzero(changed.any(0))
    half = (columns[0] + columns[-1]) // 2
    bright = slice(columns[0], half - 20), slice(half + 20, columns[-1])
    rows = changed.any(1)
    assert left[rows][:, bright[0]].mean() > 2 * left[rows][:, bright[1]].mean()
    assert right[rows][:, bright[1]].mean() > 2 * right[rows][:, bright[0]].mean()


def test_a_broken_image_among_many(digits_run, folder, tmp_path, capsys):
    (folder / "aa.png").write_bytes(b"no picture")
    (folder / "b.jpg").touch()
    output = tmp_path / "out.json"
    with pytest.raises(ImageError) as caught:
        predict_command.main(
            _arguments(digits_run, folder, json=str(output), batch_size=2)
        )
    assert str(caught.value) == (
        "2 of 5 images could not be read:\n"
        f"  {folder}/aa.png: the image cannot be decoded (not a known image format)\n"
        f"  {folder}/b.jpg: the image cannot be decoded (the file is empty)"
    )
    rows = json.loads(output.read_text())
    assert [row["file"].rpartition("/")[2] for row in rows] == [
        "a.png",
        "b.BMP",
        "a.png",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_only_broken_images_from_the_shell(digits_run, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"no picture")
    command = [sys.executable, "-m", "vit_jax.predict", "--checkpoint", str(digits_run)]
    attention = ["--attention", str(tmp_path / "seen")]
    done = subprocess.run(
        [*command, *attention, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 of 1 images could not be read:")
    assert done.stdout == "" and not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        ((), {}, "give image files and folders, or --split .* found neither"),
        (("x.png",), {"split": "test"}, "found both"),
        (("missing.png",), {}, "missing.png is neither a file nor a folder"),
        (("x.png",), {"count": 3}, "--count goes with --split"),
        ((), {"split": "tset"}, "no split 'tset'"),
    ],
)
def test_errors(digits_run, images, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        predict_command.main(_arguments(digits_run, *images, **changes))


@pytest.mark.parametrize("kind", ["json", "attention"])
def test_outputs_are_never_what_was_read_or_a_run(digits_run, tmp_path, capsys, kind):
    """The place is refused before the first image is predicted."""
    image = tmp_path / "x.png"
    Image.new("L", (8, 8)).save(image)
    before = image.read_bytes()
    read = image if kind == "json" else tmp_path
    inside = digits_run / "config.json" if kind == "json" else digits_run
    for place in (read, inside):
        with pytest.raises(output.OutputError, match="cannot be the output, since"):
            predict_command.main(_arguments(digits_run, image, **{kind: str(place)}))
    assert capsys.readouterr().out == "" and image.read_bytes() == before


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds no images"):
        find_images([str(tmp_path)])


def test_learning_curve_of_any_rows(tmp_path):
    rows = [
        {"step": 1, "split": "train", "loss": 0.0, "grad_norm": 1.0},
        {"step": 2, "split": "train", "loss": float("nan"), "accuracy": 0.5},
        {"step": 2, "split": "odd", "other": 1.0},
    ]
    path = tmp_path / "metrics.jsonl"
    for number in (0, 1, 3):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[:number]))
        assert np.ptp(_pixels(pictures.learning_curve(tmp_path))) == 255


def test_rollout_of_axial_attention():
    """Rows, then columns: together they see the whole grid."""
    options = {"num_classes": 3, "image_size": (8, 12), "dtype": "float32"}
    model = create_model("Axial-ViT-mu/4", **options)
    params = init_params(model, jax.random.key(0))
    images = np.zeros((2, 8, 12, 3), np.uint8)
    _, heat = forward_step(model, params, images, loss_name="softmax", attention=True)
    assert heat.shape == (2, 2, 3) and (np.asarray(heat) > 0).all()
    np.testing.assert_allclose(heat.sum(axis=(1, 2)), 1, rtol=1e-5)
