"""Conversion between layouts: there and back bit for bit, checked, and refused."""

import argparse
import json
import subprocess
import sys

import jax
import numpy as np
import published_layouts as published
import pytest

from vit_jax import convert as convert_command
from vit_jax import interop
from vit_jax.interop import conversion, load_checkpoint
from vit_jax.interop.trained import load_trained

TINY = dict(depth=2, width=24, mlp_dim=48, num_heads=3, patch=4, classes=5)


@pytest.fixture
def google_file(tmp_path):
    """A tiny ViT as google-research/vision_transformer has it, and its tensors."""
    tensors = published.random_tensors(published.google_vit(**TINY, num_patches=9))
    np.savez(tmp_path / "vit.npz", **tensors)
    return tmp_path / "vit.npz", tensors


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_around_all_layouts_and_back(tmp_path, google_file, capsys):
    path, tensors = google_file
    for i, layout in enumerate(("timm", "big_vision", "huggingface", "google")):
        suffix = {"timm": ".safetensors", "huggingface": ""}.get(layout, ".npz")
        destination = tmp_path / f"{i}{suffix}"
        conversion.convert(path, destination, layout)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith(f"{destination}, 0.")
        assert f" MB: {layout} layout: ViT-Ti/4 at 12x12 px, 5 cl" in printed[0]
        assert printed[1:] == ["read back: outputs differ by at most 0.0e+00"]
        path = destination
    with np.load(path) as archive:
        assert set(archive.files) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(archive[name], tensor, err_msg=name)


def test_a_run_with_its_labels_and_preprocessing(tmp_path, digits_run, capsys, caplog):
    destination = tmp_path / "hf"
    arguments = dict(checkpoint=digits_run, destination=destination)
    changes = dict(num_classes=None, image_size=None, patch_size=None)
    options = dict(layout="huggingface", resample="auto", ema=True)
    options |= {"model_options": {}, "license": ""}
    convert_command.main(argparse.Namespace(**arguments, **changes, **options))
    out = capsys.readouterr().out
    assert out.startswith(f"step 4 of {digits_run}: ViT-") and not caplog.text
    written, run = load_checkpoint(destination), load_trained(digits_run, ema=True)
    equal(written.params, run.params)
    assert written.facts == conversion.facts_of(run)
    config = json.loads((destination / "config.json").read_text())
    assert config["id2label"]["3"] == run.label_names[3]


def test_for_another_task_on_the_way(tmp_path, google_file):
    path, _ = google_file
    changes = dict(num_classes=2, image_size=(16, 24), patch_size=8)
    conversion.convert(path, tmp_path / "x", "timm", resample="bicubic", **changes)
    expected = load_checkpoint(path, resample="bicubic", **changes)
    written = load_checkpoint(tmp_path / "x")
    assert written.model == expected.model
    equal(written.params, expected.params)


def test_numerics_that_get_lost_are_measured(tmp_path, google_file, capsys, caplog):
    path, _ = google_file
    conversion.convert(path, tmp_path / "x.npz", "google", activation="gelu")
    assert "the google layout cannot store activation='gelu'" in caplog.text
    *_, back, other = capsys.readouterr().out.splitlines()
    assert back == "read back: outputs differ by at most 0.0e+00"
    assert other.startswith("with the google code's own numerics they differ by ")
    assert 1e-5 < float(other.split()[-1]) < 1e-2


def test_a_file_that_computes_something_else(tmp_path, google_file, monkeypatch):
    write = interop.files.write_npz

    def write_wrongly(path, tensors):
        write(path, tensors | {"cls": tensors["cls"] * np.float32(1.1)})

    monkeypatch.setattr(interop.files, "write_npz", write_wrongly)
    with pytest.raises(
        conversion.ConversionError, match=r"differ by .*e-0\d.*do not use"
    ):
        conversion.convert(google_file[0], tmp_path / "x.npz", "google")


def test_the_destination_is_looked_at_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="google layout is written to .npz"):
        conversion.convert(tmp_path / "absent", tmp_path / "x.safetensors", "google")


def test_the_command(tmp_path, google_file):
    command = [sys.executable, "-m", "vit_jax.convert", "--checkpoint"]
    command.append(str(google_file[0]))
    arguments = [str(tmp_path / "new/x.safetensors"), "--layout", "timm"]
    done = subprocess.run(
        [*command, *arguments, "--image-size", "16x8"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    changed, read = done.stderr.splitlines()[:2]
    assert changed == "INFO: positions resampled from 3x3 to 4x2 (bilinear)"
    assert read.startswith(f"INFO: {google_file[0]}: google layout: ViT-Ti/4 at 12x12")
    assert load_checkpoint(arguments[0]).model.image_size == (16, 8)
