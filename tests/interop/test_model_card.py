"""Model cards of written folders: the header, what they say, and their code."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml
from golden_files import load

import vit_jax
from vit_jax.interop import conversion, model_card
from vit_jax.interop.load_save import save
from vit_jax.interop.trained import load_trained
from vit_jax.models import init_params


def parts(folder: Path) -> tuple[dict[str, Any], str]:
    """The header of a card, and its text."""
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def code_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@pytest.fixture(params=[False, True])
def converted(request, tmp_path, digits_run):
    """A folder that a run was written to, of its averaged weights or not."""
    folder = tmp_path / "digits: mine"
    options = {"ema": request.param, "license": "mit"}
    conversion.convert(digits_run, folder, "timm", **options)
    return folder, request.param


def test_a_run_with_its_accuracy_and_config(converted, digits_run):
    folder, averaged = converted
    header, text = parts(folder)
    split = "test_ema" if averaged else "test"
    rows = [json.loads(x) for x in (digits_run / "metrics.jsonl").open()]
    (row,) = (x for x in rows if x["split"] == split and x["step"] == 4)
    (model,) = header.pop("model-index")
    assert header == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "vit_jax"],
        "license": "mit",
    }
    assert model["name"] == "digits: mine"
    (result,) = model["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": row["accuracy"]}]
    assert result["dataset"] == {"type": "digits", "name": "digits", "split": "test"}
    percent = f"{100 * row['accuracy']:.2f} % of the {row['count']:.0f} images of test"
    assert f"Accuracy: {percent} (digits)." in text
    ending = ", its averaged weights." if averaged else "."
    assert f"\nFrom step 4 of the vit_jax run {digits_run.name}{ending}\n" in text
    assert "outputs: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in text
    assert "mean (0.5, 0.5, 0.5), over the deviation (0.5, 0.5, 0.5)" in text
    (config,) = re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)
    assert json.loads(config)["data"]["name"] == "digits"


def test_no_accuracy_of_other_weights(tmp_path, digits_run):
    conversion.convert(digits_run, tmp_path / "x", "huggingface", num_classes=3)
    header, text = parts(tmp_path / "x")
    assert "model-index" not in header and "license" not in header
    assert header["library_name"] == "transformers"
    assert "Accuracy" not in text and "; changed since: num_classes=3." in text


def test_the_code_loads_the_model(converted, monkeypatch):
    folder, _ = converted
    monkeypatch.chdir(folder)
    ours, theirs = code_of(parts(folder)[1])
    found: dict[str, Any] = {}
    exec(ours, found)
    expected = load_trained(folder)
    assert found["model"] == expected.model and "head" in found["params"]
    assert 'timm.create_model("local-dir:.", pretrained=True)' in theirs


@pytest.mark.parametrize(
    ("name", "layout", "library", "line"),
    [
        ("timm_token", "huggingface", "transformers", "AutoModelForImageClassif"),
        ("timm_no_head", "timm", "timm", "local-dir:."),
        ("huggingface_dinov2_no_head", "huggingface", "transformers", "AutoModel."),
        ("eva_beit", "timm_eva", "timm", "local-dir:."),
        ("torchvision_vit", "torchvision", "vit_jax", 'vit_jax.load(".")'),
    ],
)
def test_of_python_in_every_layout(name, layout, library, line, tmp_path):
    loaded = load(name, tmp_path / "in")
    folder = tmp_path / "out"
    options: dict[str, Any] = {"license": "apache-2.0", "source": "our attic"}
    if name == "timm_token":
        options["label_names"] = [f"kind {i}, *" for i in range(5)]
    save(folder, loaded.model, loaded.params, layout=layout, **options)
    header, text = parts(folder)
    head = bool(loaded.model.num_classes)
    task = "image-classification" if head else "image-feature-extraction"
    assert header == {
        "library_name": library,
        "pipeline_tag": task,
        "tags": [task, "vit_jax"],
        "license": "apache-2.0",
    }
    assert "\nFrom our attic.\n" in text and line in "".join(code_of(text))
    kind = "kind 0, *, kind 1" if "label_names" in options else "5, without names"
    assert (kind if head else "No head: the outputs") in text
    assert (folder / "model.safetensors").exists()


def test_the_code_gives_what_the_layout_does_not_hold(tmp_path, monkeypatch):
    loaded = load("torchvision_vit", tmp_path / "in")
    model = loaded.model.clone(norm_epsilon=1e-3, pixel_mean=(0.1, 0.2, 0.3))
    save(tmp_path / "out", model, loaded.params, layout="torchvision")
    text = parts(tmp_path / "out")[1]
    assert (
        "\nOther code than vit_jax's computes without norm_epsilon=0.001, pixel_me"
        in text
    )
    monkeypatch.chdir(tmp_path / "out")
    found: dict[str, Any] = {}
    exec(code_of(text)[0], found)
    assert found["model"] == model


def test_transformers_puts_no_random_layer_behind_a_vit(tmp_path):
    model = load("timm_token", tmp_path / "in", None).model.clone(num_classes=0)
    assert "add_pooling_layer=False" in model_card.snippets(model, "huggingface", "")[1]
    for option in ({"pre_logits": True}, {"layer_scale_init": 1.0}):
        other = model_card.snippets(model.clone(**option), "huggingface", "")[1]
        assert 'AutoModel.from_pretrained(".").eval()' in other


@pytest.mark.parametrize(
    "name, task, loader, outputs",
    [
        (
            "huggingface_clip",
            "image-feature-extraction",
            'CLIPVisionModelWithProjection.from_pretrained(".")',
            "CLIP's projection, 5 features.",
        ),
        (
            "huggingface_siglip",
            "image-feature-extraction",
            'AutoModel.from_pretrained(".")',
            "the outputs are the representation.",
        ),
        (
            "huggingface_siglip_classes",
            "image-classification",
            'AutoModelForImageClassification.from_pretrained(".")',
            "Classes: 5, without names.",
        ),
    ],
)
def test_towers_are_loaded_by_their_classes(name, task, loader, outputs, tmp_path):
    loaded = load(name, tmp_path / "theirs")
    save(tmp_path / "x", loaded.model, loaded.params, layout="huggingface")
    header, text = parts(tmp_path / "x")
    assert header["pipeline_tag"] == task
    assert loader in code_of(text)[1] and outputs in text


def test_a_checkpoint_of_others_is_named(tmp_path):
    load("timm_token", tmp_path / "theirs")
    conversion.convert(tmp_path / "theirs", tmp_path / "ours", "timm")
    _, text = parts(tmp_path / "ours")
    assert "\nFrom the checkpoint theirs (timm layout: ViT-Ti/8 at 32x32" in text
    assert str(tmp_path) not in text and "Config" not in text


def test_many_classes_are_counted(tmp_path):
    model = vit_jax.create_model("ViT-mu/16", num_classes=1000, image_size=32)
    params = init_params(model, jax.random.key(0))
    names = [f"class {i}" for i in range(1000)]
    save(tmp_path / "x", model, params, layout="timm", label_names=names)
    assert "class 99 and 900 more." in parts(tmp_path / "x")[1]


def test_a_card_that_is_there_stays_and_is_said(tmp_path, caplog):
    loaded = load("timm_token", tmp_path / "in")
    arguments = (loaded.model, loaded.params)
    save(tmp_path / "out", *arguments, layout="timm")
    save(tmp_path / "out", *arguments, layout="timm")
    assert not caplog.records  # the same card again
    (tmp_path / "out/README.md").write_text("mine")
    save(tmp_path / "out", *arguments, layout="timm")
    assert (tmp_path / "out/README.md").read_text() == "mine"
    assert "README.md was there already and is kept" in caplog.text


def test_files_have_no_card(tmp_path):
    loaded = load("timm_token", tmp_path / "in")
    save(tmp_path / "x.safetensors", loaded.model, loaded.params, layout="timm")
    assert not list(tmp_path.glob("*.md"))


def test_accuracies_of_other_steps_are_left_out(tmp_path, digits_run):
    run = load_trained(digits_run)
    counted = {"split": "test", "count": 10}
    rows = [{"step": 2, "accuracy": 0.9} | counted, {"step": 4, "accuracy": 0.5}]
    rows[1] |= counted
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (result,) = conversion.measured(run, tmp_path, {})
    assert result == ("digits", "test", 0.5, 10)
