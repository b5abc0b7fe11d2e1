"""Programs with the weights inside: the same outputs, any batch, in a bare JAX."""

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

from vit_jax import export as export_command
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source
from vit_jax.evaluation.predictions import predict_images, prepared
from vit_jax.interop import program_export as exporting
from vit_jax.interop.program_export import ExportError, export
from vit_jax.interop.trained import TrainedModel, load_trained
from vit_jax.models import create_model, init_params
from vit_jax.models.pixels import normalize

# The loader of the module's head, and of the README.
LOADER = """
import pathlib, jax.export, numpy as np
content = pathlib.Path({path!r}).read_bytes()
program = jax.export.deserialize(bytearray(content))
images = np.load({images!r})
np.save({output!r}, program.call(images))
import sys; assert not any(name.startswith(("flax", "vit_jax")) for name in sys.modules)
"""


def tiny(name, classes=3, **options):
    """A run of a tiny model whose head gives something."""
    size = options.pop("image_size", 32)
    model = create_model(name, num_classes=classes, image_size=size, **options)
    key = jax.random.key(0)
    params = jax.tree.map(
        lambda x: x + 0.05 * jax.random.normal(key, x.shape), init_params(model, key)
    )
    data = Data(name="", batch_size=1, image_size=model.image_size)
    loss = {"name": "softmax", "label_smoothing": 0.0}
    names = tuple(f"class {number}" for number in range(classes))
    return TrainedModel(model, params, names, data, loss, 0, name, None)


def loaded(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def test_from_the_command_to_a_bare_jax(digits_run, tmp_path, capsys):
    path = tmp_path / "made" / "digits.stablehlo"
    arguments = argparse.Namespace(
        checkpoint=str(digits_run),
        output=str(path),
        logits=False,
        ema=False,
        dtype="float32",
        platforms="cpu,cuda,tpu",
        model_options={},
    )
    export_command.main(arguments)
    assert "takes uint8 images (batch, 16, 16, 3)" in capsys.readouterr().out
    run, source = load_trained(digits_run), make_source("digits", "test")
    images = [source[index]["image"] for index in range(7)]
    np.save(tmp_path / "images.npy", np.stack([prepared(run, x) for x in images]))
    names = {"path": path, "images": tmp_path / "images.npy", "output": tmp_path / "y"}
    code = LOADER.format(**{key: str(value) for key, value in names.items()})
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = predict_images(run, images)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)
    assert loaded(path).platforms == ("cpu", "cuda", "tpu")
    usage = json.loads((tmp_path / "made" / "digits.stablehlo.json").read_text())
    assert usage["label_names"] == [str(number) for number in range(10)]
    assert usage["output"] == "float32 probabilities, a row an image"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "digits.stablehlo",
        "digits.stablehlo.json",
    ]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT-mu/16", {"pooling": "map", "num_registers": 2}),
        ("ViT-mu/16", {"pooling": "gap", "positions": "relative2d"}),
        ("Mixer-S/32", {"depth": 1, "width": 16}),
    ],
)
def test_logits_of_all_families(tmp_path, name, options):
    run = tiny(name, image_size=(32, 64), **options)
    path = tmp_path / "x.stablehlo"
    assert export(run, path, logits=True) < 1e-5
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 64, 3), np.uint8)
    forward = jax.jit(functools.partial(run.model.apply, train=False))
    expected, _ = forward({"params": run.params}, normalize(jnp.asarray(images)))
    np.testing.assert_allclose(loaded(path).call(images), expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_without_a_head_it_gives_features(tmp_path):
    run = tiny("ViT-mu/16", classes=0)
    export(run, tmp_path / "x")
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert loaded(tmp_path / "x").call(images).shape == (2, 32)
    usage = json.loads((tmp_path / "x.json").read_text())
    assert usage["output"] == "float32 logits, a row an image"


def test_the_preparation_is_told():
    run = tiny("ViT-mu/16", image_size=(32, 64))
    crop = Data(name="", batch_size=1, image_size=(32, 64), eval_resize=72)
    whole = Data(
        name="",
        batch_size=1,
        image_size=(32, 64),
        eval_crop="resize",
        eval_interpolation="bicubic",
    )
    usage = exporting.usage(run._replace(data=crop), "logits")
    assert usage["keep_aspect"] and usage["resize_to"] == (36, 72)
    assert usage["center_crop_to"] == (32, 64) and usage["interpolation"] == "bilinear"
    usage = exporting.usage(run._replace(data=whole), "logits")
    assert not usage["keep_aspect"] and usage["resize_to"] == (32, 64)
    assert usage["interpolation"] == "bicubic"


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    run = tiny("ViT-mu/16")
    make = exporting.stablehlo_program

    def other(compute, *rest):
        return make(lambda images: compute(images) + 0.01, *rest)

    monkeypatch.setattr(exporting, "stablehlo_program", other)
    with pytest.raises(ExportError, match="differ from the model's by 0.01, "):
        export(run, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_errors(tmp_path, monkeypatch):
    run = tiny("ViT-mu/16")
    with pytest.raises(ValueError, match="cpu must be among them"):
        export(run, tmp_path / "x", platforms=["tpu"])
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install \"vit_jax\[onnx\]\""):
        export(run, tmp_path / "x.onnx")
    monkeypatch.setattr(exporting, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the weights have 0\.00 GiB"):
        export(run, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options"), [("ViT-mu/16", {}), ("Mixer-S/32", {"depth": 1, "width": 16})]
)
def test_onnx(tmp_path, name, options):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    run = tiny(name, **options)
    path = tmp_path / "x.onnx"
    assert export(run, path) < 1e-5
    session = onnxruntime.InferenceSession(str(path))
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    (outputs,) = session.run(["probabilities"], {"images": images})
    data = dataclasses.replace(run.data, eval_crop="resize")
    expected = predict_images(run._replace(data=data), images)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3
