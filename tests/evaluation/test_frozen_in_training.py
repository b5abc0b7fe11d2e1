"""Evaluators of frozen features on runs: in training, and by the command."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from vit_jax import evaluate as evaluate_command
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source
from vit_jax.evaluation import fewshot as fewshot_module
from vit_jax.evaluation.features import Extractor, make_feature_fn
from vit_jax.evaluation.fewshot import FewShot, choose_shots, fewshot_accuracy
from vit_jax.evaluation.knn import Knn, knn_accuracy
from vit_jax.interop import Facts, save_checkpoint
from vit_jax.interop.trained import load_trained
from vit_jax.models.pixels import normalize
from vit_jax.parallel.sharding import make_mesh
from vit_jax.storage.run_files import read_metrics
from vit_jax.training.loop import train
from vit_jax.training.setup import build

SPLITS = {"train": 1438, "test": 359}
RAGGED = 100  # divides neither
HELD_OUT = ("7", "2", "5")
FROZEN = {
    "name": "",
    "train_split": "train",
    "test_split": "test",
    "classes": (),
    "data_dir": "",
    "crop": "",
    "batch_size": RAGGED,
}
FEWSHOT = FROZEN | {"shots": (1, 5), "seeds": 2, "l2": 64.0}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=-1, fsdp=1, tensor=1)


@pytest.fixture(scope="module")
def run(digits_run):
    return load_trained(digits_run)


@pytest.fixture(scope="module")
def expected(run):
    """Features and labels of both splits, all at once, without the pipeline."""
    splits = {}
    for split in SPLITS:
        source = make_source("digits", split)
        records = [source[index] for index in range(len(source))]
        images = np.stack([run.data.eval_transform(r["image"]) for r in records])
        apply = jax.jit(functools.partial(run.model.apply, train=False))
        _, out = apply({"params": run.params}, normalize(jnp.asarray(images)))
        labels = np.array([record["label"] for record in records])
        splits[split] = np.asarray(out["pre_logits"]), labels
    return splits


def test_features_are_those_of_every_example_once(run, expected, mesh):
    extract = Extractor(run.model, run.data, mesh, batch_size=RAGGED)
    features, labels, index = extract(run.params, "test")
    np.testing.assert_array_equal(index, np.arange(SPLITS["test"]))
    np.testing.assert_array_equal(labels, expected["test"][1])
    np.testing.assert_allclose(features, expected["test"][0], atol=1e-5)
    some = np.array([300, 7, 41])
    part = extract(run.params, "test", some)
    np.testing.assert_allclose(part.features, features[some], atol=1e-5)
    np.testing.assert_array_equal(part.labels, labels[some])


def test_the_feature_function_can_be_vmapped_over_parameters(run):
    batch = next(iter(run.data.eval_batches("test", 8)))["image"]
    feature_fn = make_feature_fn(run.model)
    one = feature_fn(run.params, jnp.asarray(batch))
    two = jax.tree.map(lambda x: jnp.stack([x, 0 * x]), run.params)
    both = jax.jit(jax.vmap(feature_fn, in_axes=(0, None)))(two, batch)
    np.testing.assert_allclose(both[0], one, atol=1e-5)
    assert both.shape == (2, 8, 32) and (both[1] == 0).all()


def relabelled(features, labels):
    kept = np.isin(labels, [int(name) for name in HELD_OUT])
    names = [str(label) for label in labels[kept]]
    return features[kept], np.array([HELD_OUT.index(name) for name in names])


@pytest.mark.parametrize("classes", [(), HELD_OUT])
def test_fewshot_of_a_run(run, expected, mesh, classes):
    options = FEWSHOT | {"classes": classes}
    measured = FewShot(run.model, run.data, mesh, **options)(run.params)
    sets = [expected[split] for split in SPLITS]
    if classes:
        sets = [relabelled(*part) for part in sets]
    (x, labels), (x_test, test_labels) = sets
    count = len(classes) or 10
    solve = functools.partial(fewshot_accuracy, num_classes=count, l2=64.0)
    for shots in (1, 5):
        accuracies = []
        for seed in range(2):
            rows = choose_shots(labels, 5, count, seed)[:, :shots].reshape(-1)
            accuracies.append(solve(x[rows], labels[rows], x_test, test_labels))
        # Features computed in other batches may turn a close decision.
        assert measured[f"{shots}shot"] == pytest.approx(np.mean(accuracies), abs=0.01)
        spread = np.std(accuracies, ddof=1)
        assert measured[f"{shots}shot_std"] == pytest.approx(spread, abs=0.01)
    assert measured["5shot"] > 1.5 / count


def test_knn_of_a_run(run, expected, mesh):
    knn = Knn(run.model, run.data, mesh, **FROZEN, neighbours=20, temperature=0.07)
    exact = knn_accuracy(*expected["train"], *expected["test"], num_classes=10)
    assert knn(run.params)["accuracy"] == pytest.approx(float(exact), abs=0.01)
    assert exact > 0.3


def test_the_same_data_set_is_not_opened_twice(run, mesh):
    assert FewShot(run.model, run.data, mesh, **FEWSHOT).data is run.data
    other = FewShot(run.model, run.data, mesh, **FEWSHOT | {"classes": HELD_OUT})
    assert other.data is not run.data and other.label_names == HELD_OUT
    # Another set has its own classes, not those of the training.
    part = dataclasses.replace(run.data, classes=("1", "2"))
    named = FewShot(run.model, part, mesh, **FEWSHOT | {"name": "digits"})
    assert len(named.label_names) == 10
    assert FewShot(run.model, part, mesh, **FEWSHOT).label_names == ("1", "2")


def test_unreadable_images_are_left_out_and_named(
    run, mesh, tmp_path, capsys, monkeypatch
):
    for split, count in (("train", 4), ("test", 6)):
        for label in "ab":
            for number in range(count):
                path = tmp_path / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shade = (60 if label == "a" else 200) + number
                Image.new("RGB", (8, 8), (shade,) * 3).save(path)
    (tmp_path / "test" / "a" / "3.png").write_bytes(b"not an image")
    data = dataclasses.replace(run.data, on_error="skip")
    options = FEWSHOT | {"name": str(tmp_path), "shots": (3,), "seeds": 0}
    fewshot = FewShot(run.model, data, mesh, **options)
    metrics = fewshot(run.params)
    assert set(metrics) == {"3shot"}
    fewshot(run.params)
    assert capsys.readouterr().out.count("cannot be read") == 1
    # One of the chosen examples is missing: the other two are used.
    source = fewshot.data.source("train")
    chosen = source.record_name(int(fewshot.chosen[0, 0, 0]))
    open(chosen, "wb").close()
    learned = []

    def spy(features, labels, *rest, **options):
        learned.append(np.bincount(labels).tolist())
        return fewshot_accuracy(features, labels, *rest, **options)

    monkeypatch.setattr(fewshot_module, "fewshot_accuracy", spy)
    FewShot(run.model, data, mesh, **options)(run.params)
    assert learned == [[2, 3]]


def tiny_config(*, every):
    config = digits.get_config()
    config.model.update(depth=1, width=16, mlp_dim=32, num_heads=2)
    config.data.batch_size = 256
    config.optim.update(learning_rate=1e-2, warmup="0steps")
    config.train.update(duration="4steps", ema_decay=0.5)
    config.eval.update(every="100%", batch_size=100)
    config.checkpoint.every = "100%"
    config.log.tensorboard = False
    config.fewshot.update(every=every, classes=HELD_OUT, shots=(1, 5), seeds=2)
    return config


@pytest.mark.full
def test_evaluators_run_at_intervals_of_the_training(tmp_path, capsys):
    config = tiny_config(every="2steps")
    config.knn.update(every="100%", neighbours=5)
    results = train(config, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    steps = {}
    for row in rows:
        steps.setdefault(row["split"], []).append(row["step"])
    assert steps["fewshot"] == steps["fewshot_ema"] == [2, 4]
    assert steps["knn"] == steps["knn_ema"] == steps["test"] == [4]
    names = {"test", "fewshot", "knn"}
    assert set(results) == names | {f"{name}_ema" for name in names}
    last = next(r for r in rows if r["split"] == "fewshot" and r["step"] == 4)
    assert last["5shot"] == results["fewshot"]["5shot"] > 0.3
    assert "step 2/4  fewshot: 1shot " in capsys.readouterr().out
    # A run that is over gives the same results again.
    assert train(config, tmp_path)["fewshot"] == pytest.approx(results["fewshot"])


def test_evaluators_are_off_by_default():
    experiment = build(tiny_config(every=""))
    assert experiment.evaluators == {} and experiment.lengths.evaluators == {}


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        (
            "fewshot",
            {"shots": (1, 500)},
            "class '2' has 142 images in digits train, fe",
        ),
        ("fewshot", {"l2": 0.0}, "fewshot.l2 is 0.0: wanted a number above 0"),
        ("fewshot", {"classes": ("x",)}, "has 'x', which is no class of digits"),
        ("fewshot", {"test_split": "val"}, "digits has no split 'val'"),
        ("fewshot", {"crop": "centre"}, "fewshot.crop is 'centre': wanted one of"),
        ("knn", {"every": "100%", "neighbours": 1439}, "wanted at most 1438"),
    ],
)
def test_mistakes_show_before_training(section, change, message):
    config = tiny_config(every="100%")
    config[section].update(change)
    with pytest.raises(ValueError, match=message):
        build(config)


@pytest.mark.parametrize("protocol", ["fewshot", "knn", "probe"])
def test_protocols_of_the_command(digits_run, protocol, capsys):
    flags = ["--checkpoint", str(digits_run), "--protocol", protocol]
    own = {
        "fewshot": ["--shots", "1,25", "--seeds", "2", "--classes", ",".join(HELD_OUT)],
        "knn": ["--neighbours", "3", "--temperature", "0.1", "--ema"],
        "probe": ["--train-split", "train[:50%]"],
    }
    evaluate_command.main(
        evaluate_command.make_parser().parse_args([*flags, *own[protocol]])
    )
    ema = "-ema" if protocol == "knn" else ""
    folder = digits_run / "evaluation" / f"digits-test{ema}-{protocol}"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["protocol"], metrics["step"]) == (protocol, 4)
    text = capsys.readouterr().out
    if protocol == "fewshot":
        assert metrics["shots"] == [1, 25] and metrics["classes"] == list(HELD_OUT)
        assert 1 / 3 < metrics["1shot"] < metrics["25shot"] <= 1
        shown = f"{100 * metrics['25shot']:.2f} % ± {100 * metrics['25shot_std']:.2f}"
        assert f"25shot  {shown}" in text
    else:
        assert 0.3 < metrics["accuracy"] <= 1
        assert f"{100 * metrics['accuracy']:.2f} %" in text
    if protocol == "knn":
        assert (metrics["neighbours"], metrics["temperature"]) == (3, 0.1)
        assert metrics["ema"]
    if protocol == "probe":
        assert metrics["train_split"] == "train[:50%]" and metrics["l2"] > 0


def test_a_checkpoint_of_others_without_a_head(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = run.model.clone(num_classes=0)
    params = {name: tree for name, tree in run.params.items() if name != "head"}
    save_checkpoint("bare.npz", model, params, layout="google", facts=Facts())
    flags = ["--checkpoint", "bare.npz", "--dataset", "digits", "--protocol", "knn"]
    evaluate_command.main(evaluate_command.make_parser().parse_args(flags))
    path = tmp_path / "evaluation" / "bare.npz" / "digits-test-knn" / "metrics.json"
    assert json.loads(path.read_text())["accuracy"] > 0.3


def test_the_crop_of_big_vision_ignores_the_aspect():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 64:] = 255
    data = Data(
        name="", batch_size=1, image_size=(28, 28), eval_crop="resize_center_crop"
    )
    kept = dataclasses.replace(data, eval_crop="resize_small_center_crop")
    whole = dataclasses.replace(data, eval_crop="resize", image_size=(32, 32))
    expected = whole.eval_transform(image)[2:-2, 2:-2]
    np.testing.assert_array_equal(data.eval_transform(image), expected)
    image[:, :20] = 255  # at the left edge, where only a wide crop looks
    assert data.eval_transform(image)[:, 0].mean() > 100
    assert kept.eval_transform(image)[:, 0].mean() < 100
