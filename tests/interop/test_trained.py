"""Checkpoints of others in every command: loaded, used for prediction, evaluated."""

import argparse
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax import evaluate as evaluate_command
from vit_jax import predict as predict_command
from vit_jax.checkpoints.store import CheckpointError
from vit_jax.data.labels import label_names, synsets
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.predictions import predict_images
from vit_jax.interop import Facts, save_checkpoint
from vit_jax.interop.trained import fitted, from_checkpoint, load_trained
from vit_jax.models import create_model, init_params
from vit_jax.models.pixels import normalize

NAMES = ("cat", "dog", "owl")
FACTS = Facts(NAMES, "resize_small_center_crop", 0.8, "bicubic")


def tiny(name="ViT-mu/16", classes=3, **options):
    """A tiny model whose head gives something."""
    model = create_model(
        name, num_classes=classes, image_size=32, dtype="float32", **options
    )
    key = jax.random.key(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(key, x.shape), init_params(model, key)
    )
    return model, params


def saved(path, layout, facts=Facts(), **options):  # noqa: B008 - a tuple
    model, params = tiny(**options)
    save_checkpoint(path, model, params, layout=layout, facts=facts)
    return path


def apply(run, images):
    forward = jax.jit(functools.partial(run.model.apply, train=False))
    return forward({"params": run.params}, normalize(jnp.asarray(images)))[0]


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A Hugging Face folder with label names and preprocessing."""
    path = tmp_path_factory.mktemp("hf") / "animals"
    return saved(path, "huggingface", FACTS, norm_epsilon=1e-12, activation="gelu")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """An .npz, which has no names, of a head with 1000 outputs."""
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    return saved(path, "google", classes=1000)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 90, 3), np.uint8) for _ in range(12)]


def folder_of(root, photos, class_names):
    """A data set root/test/CLASS/NN.png, the classes in turn."""
    for number, photo in enumerate(photos):
        name = class_names[number % len(class_names)]
        path = root / "test" / name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    return str(root)


def predict_arguments(checkpoint, *images, **changes):
    options = {"split": None, "count": None, "top": 5, "json": None, "ema": False}
    options["threshold"] = None
    options |= {"attention": None, "batch_size": 64, "fsdp": 1, "model_options": {}}
    options |= {"checkpoint": str(checkpoint), "image_size": None}
    return argparse.Namespace(images=list(images), **options | changes)


def evaluate_arguments(checkpoint, **changes):
    flags = ["--checkpoint", str(checkpoint), "--batch-size", "8"]
    parsed = evaluate_command.make_parser().parse_args(flags)
    return argparse.Namespace(**vars(parsed) | changes)


# --- Facts of a checkpoint ---------------------------------------------------------


def test_a_folder_with_all_facts(animals, caplog):
    caplog.set_level("INFO", "vit_jax")
    run = load_trained(animals)
    assert run.label_names == NAMES and run.model.norm_epsilon == 1e-12
    assert run.loss == {"name": "softmax", "label_smoothing": 0.0}
    assert run.config is None and run.step == 0 and "3 classes" in run.source
    data = run.data
    assert data.eval_crop == "resize_small_center_crop"
    assert data.eval_resize == 40  # 32 / 0.8
    assert data.eval_interpolation == "bicubic"
    assert data.image_size == (32, 32) and data.name == ""
    assert f"{animals}: huggingface layout" in caplog.text
    assert load_trained(animals, image_size=64).data.eval_resize == 80


def test_heads_of_imagenet_have_names(imagenet, tmp_path):
    run = load_trained(imagenet)
    assert run.label_names == label_names(1000) and run.loss["name"] == "softmax"
    large = load_trained(saved(tmp_path / "21k.npz", "google", classes=21843))
    assert large.label_names == label_names(21843) and large.loss["name"] == "sigmoid"
    other = load_trained(imagenet, num_classes=4)
    assert other.label_names == tuple(f"class {number}" for number in range(4))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(), ("resize_small_center_crop", 0, "bilinear")),  # 0 is 8/7
        (Facts(crop_share=0.9), ("resize_small_center_crop", 35, "bilinear")),
        (Facts((), "resize", 0.0, "bicubic"), ("resize", 0, "bicubic")),
    ],
)
def test_preprocessing(facts, expected):
    data = from_checkpoint(*tiny(), facts, "").data
    assert (data.eval_crop, data.eval_resize, data.eval_interpolation) == expected
    assert data.image_size == (32, 32)


def test_crops_of_a_run_stay_in_proportion():
    data = Data(
        name="x", batch_size=1, image_size=(32, 32), crop_resize=40, eval_resize=36
    )
    larger = fitted(data, (32, 64))
    assert larger.image_size == (32, 64)
    assert larger.crop_resize == 80 and larger.eval_resize == 72
    assert fitted(data, (32, 32)) == data


def test_a_public_name_that_has_been_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path))
    path = saved(tmp_path / "vit_models" / "augreg" / "mine.npz", "google")
    model, params = vit_jax.load("augreg/mine")
    assert model.num_classes == 3 and path.exists()
    with pytest.raises(FileNotFoundError, match="neither a file or folder here nor"):
        vit_jax.load(tmp_path / "none.npz")


def test_a_folder_with_nothing_in_it(tmp_path):
    with pytest.raises(ValueError, match="wanted the folder of a training run"):
        load_trained(tmp_path)


def test_averages_are_for_runs(imagenet):
    with pytest.raises(CheckpointError, match="no averaged parameters"):
        load_trained(imagenet, ema=True)


def test_a_mesh_of_other_axes_is_refused(imagenet, digits_run):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    for path in (imagenet, digits_run):
        with pytest.raises(ValueError, match="the mesh has the axes x: make one by"):
            vit_jax.load(path, mesh=mesh)


# --- load and save -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npz", "folder", "x.safetensors"])
def test_what_is_saved_is_loaded(tmp_path, name):
    options = {"activation": "gelu"} if name != "x.npz" else {}
    model, params = tiny(**options)
    layout = "timm" if name == "x.safetensors" else ""
    vit_jax.save(tmp_path / name, model, params, layout=layout)
    again, same = vit_jax.load(tmp_path / name, dtype="float32", norm_epsilon=1e-6)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, params, same)


def test_label_names_go_with_a_folder(tmp_path):
    model, params = tiny(activation="gelu")
    vit_jax.save(tmp_path / "x", model, params, label_names=NAMES)
    assert load_trained(tmp_path / "x").label_names == NAMES
    with pytest.raises(ValueError, match="label_names has 2 names, and the model 3"):
        vit_jax.save(tmp_path / "y", model, params, label_names=NAMES[:2])
    with pytest.raises(ValueError, match="can be of several layouts: name one"):
        vit_jax.save(tmp_path / "y.safetensors", model, params)


def test_a_run_for_another_task(digits_run, caplog):
    caplog.set_level("INFO", "vit_jax")
    before = load_trained(digits_run)
    after = load_trained(digits_run, num_classes=7, image_size=(24, 32), patch_size=8)
    assert after.model.num_classes == 7 and after.model.image_size == (24, 32)
    assert before.model.patch_size == 4 and after.model.patch_size == 8
    assert after.label_names == tuple(f"class {number}" for number in range(7))
    assert after.data.image_size == (24, 32) and after.step == before.step
    assert not np.any(after.params["head"]["kernel"])
    for words in ("a zero head of 7 classes", "patches resized from 4", "positions re"):
        assert words in caplog.text
    assert apply(after, np.zeros((1, 24, 32, 3), np.uint8)).shape == (1, 7)
    model, params = vit_jax.load(digits_run, dropout_rate=0.5, dtype="bfloat16")
    assert model.dropout_rate == 0.5 and model.dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, params, before.params)


# --- Prediction --------------------------------------------------------------------


def test_prediction_prepares_images_as_the_checkpoint_says(animals, photos):
    run = load_trained(animals)
    crops = []
    for photo in photos[:3]:
        small = Image.fromarray(photo).resize((75, 40), Image.Resampling.BICUBIC)
        crops.append(np.asarray(small)[4:36, 21:53])
    logits = apply(run, np.stack(crops))
    predicted = predict_images(run, photos[:3])
    np.testing.assert_allclose(predicted, jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)


def test_the_command_with_a_file_and_names(imagenet, photos, tmp_path, capsys, caplog):
    path, output = tmp_path / "photo.png", tmp_path / "out.json"
    Image.fromarray(photos[0]).save(path)
    caplog.set_level("INFO", "vit_jax")
    predict_command.main(predict_arguments(imagenet, str(path), json=str(output)))
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 1 and "google layout" in caplog.text
    (row,) = json.loads(output.read_text())
    best = np.argsort(-predict_images(load_trained(imagenet), photos[:1])[0])[:5]
    names = [choice["label"] for choice in row["predictions"]]
    assert names == [label_names(1000)[number] for number in best]


def test_attention_of_any_vision_transformer(tmp_path, photos):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    checkpoint = saved(tmp_path / "x", "huggingface", FACTS, activation="gelu")
    seen = tmp_path / "seen"
    predict_command.main(predict_arguments(checkpoint, str(path), attention=str(seen)))
    assert len(list(seen.iterdir())) == 2


def test_what_a_checkpoint_cannot_do(animals, tmp_path, photos):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    mixer = saved(tmp_path / "m.npz", "google", name="Mixer-S/16", depth=1, width=16)
    with pytest.raises(ValueError, match="a Mixer, has no attention: leave it out"):
        predict_command.main(
            predict_arguments(mixer, str(path), attention=str(tmp_path / "seen"))
        )
    with pytest.raises(ValueError, match="--split is for the data set that a run was"):
        predict_command.main(predict_arguments(animals, split="test"))
    bare = saved(tmp_path / "bare.npz", "google", classes=0)
    with pytest.raises(ValueError, match="bare.npz has no head"):
        predict_command.main(predict_arguments(bare, str(path)))
    data = folder_of(tmp_path / "data", photos, NAMES)
    with pytest.raises(ValueError, match="the checkpoint has no head"):
        evaluate_command.main(evaluate_arguments(bare, dataset=data))
    with pytest.raises(ValueError, match="--dataset is needed: .*animals does not"):
        evaluate_command.main(evaluate_arguments(animals))


# --- Evaluation --------------------------------------------------------------------


def test_a_data_set_is_matched_by_name(animals, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = folder_of(tmp_path / "set", photos, ("owl", "cat", "dog"))
    evaluate_command.main(evaluate_arguments(animals, dataset=dataset))
    assert "set test, huggingface layout" in capsys.readouterr().out
    (folder,) = (tmp_path / "evaluation").glob("*animals")
    metrics = json.loads((folder / "set-test" / "metrics.json").read_text())
    shares = predict_images(load_trained(animals), photos)
    labels = np.tile([2, 0, 1], 4)
    assert metrics["count"] == 12 and metrics["step"] == 0
    assert metrics["accuracy"] == pytest.approx((shares.argmax(-1) == labels).mean())
    loss = -np.log(shares[np.arange(12), labels]).mean()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)


def test_folders_of_imagenet_by_their_ids(imagenet, photos, tmp_path):
    chosen = (999, 0, 285)  # also a part of the classes
    ids = [synsets(1000)[number] for number in chosen]
    dataset = folder_of(tmp_path / "set", photos, ids)
    output = tmp_path / "out"
    evaluate_command.main(
        evaluate_arguments(imagenet, dataset=dataset, output=str(output))
    )
    lines = (output / "predictions.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        number = int(line["record"][-6:-4])
        assert line["label"] == label_names(1000)[chosen[number % 3]]
    metrics = json.loads((output / "metrics.json").read_text())
    shares = predict_images(load_trained(imagenet), photos)
    picked = shares[np.arange(12), np.tile(chosen, 4)]
    assert metrics["loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-4)


def test_other_names_by_index_only(animals, photos, tmp_path):
    dataset = folder_of(tmp_path / "set", photos, ("a", "b", "c"))
    output = str(tmp_path / "out")
    arguments = evaluate_arguments(animals, dataset=dataset, output=output)
    with pytest.raises(ValueError, match="only in the model 'cat'.*--labels-by-index"):
        evaluate_command.main(arguments)
    arguments.labels_by_index = True
    evaluate_command.main(arguments)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    letters = {"a": "cat", "b": "dog", "c": "owl"}
    for line in map(json.loads, lines):
        assert line["label"] == letters[line["record"].split("/")[-2]]


def test_a_head_of_very_many_classes(photos, tmp_path):
    """The confusion matrix is of the classes that occur."""
    path = saved(tmp_path / "21k.npz", "google", classes=21843)
    ids = synsets(21843)[:2]
    dataset = folder_of(tmp_path / "set", photos, ids)
    output = tmp_path / "out"
    evaluate_command.main(evaluate_arguments(path, dataset=dataset, output=str(output)))
    rows = (output / "confusion.csv").read_text().splitlines()
    assert 2 < len(rows) <= 15
    counts = [int(x) for row in rows[1:] for x in row.split(",")[-len(rows) + 1 :]]
    assert sum(counts) == 12
    run = load_trained(path)
    best = predict_images(run, photos).argmax(-1)
    predicted = {run.label_names[number] for number in best}
    shown = {row.split(",")[0].strip('"') for row in rows[1:]}
    assert {name.split(",")[0] for name in predicted} <= shown
