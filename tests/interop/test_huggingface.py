"""DINOv3, CLIP, SigLIP and DeiT of transformers: spellings, refusals, processors."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden_files import config_of, load, original

from vit_jax.interop import (
    files,
    huggingface,
    huggingface_config,
    load_checkpoint,
    save_checkpoint,
)
from vit_jax.interop.formats import FileError
from vit_jax.interop.pytorch import NUMERICS, PIXELS

TOWERS = ("huggingface_clip", "huggingface_siglip", "huggingface_siglip_classes")


def prefixed(name: str) -> dict[str, np.ndarray]:
    """The tensors of a whole model of images and texts."""
    tensors = {
        tensor
        if tensor.startswith(("vision", "visual", "class"))
        else f"vision_model.{tensor}": x
        for tensor, x in original(name).items()
    }
    extra = {"text_model.embeddings.token_embedding.weight": np.zeros((5, 4))}
    extra |= {"logit_scale": np.zeros(()), "logit_bias": np.zeros(1)}
    extra |= {"text_projection.weight": np.zeros((4, 4))}
    return tensors | extra | {"vision_model.embeddings.position_ids": np.arange(17)}


@pytest.mark.parametrize("name", TOWERS)
def test_a_whole_model_is_read_as_its_image_tower(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vit_jax")
    config = config_of(name)
    if "vision_config" not in config:
        kind = config.pop("model_type").removesuffix("_vision_model")
        config = {"vision_config": config, "model_type": kind}
    whole = load(name, tmp_path / "whole", prefixed(name), config)
    assert "text_projection.weight" in caplog.text and "position_ids" in caplog.text
    tower = load(name, tmp_path / "tower")
    same = {field: getattr(tower.model, field) for field in ("pixel_mean", "pixel_std")}
    assert dataclasses.replace(whole.model, **same) == tower.model
    jax.tree.map(np.testing.assert_array_equal, whole.params, tower.params)


def test_dinov3_by_its_names_in_memory(tmp_path: Path) -> None:
    tensors = {
        f"model.{name}" if name.startswith("layer.") else name: x
        for name, x in original("huggingface_dinov3").items()
    }
    loaded = load("huggingface_dinov3", tmp_path / "a", tensors)
    before = load("huggingface_dinov3", tmp_path / "b")
    assert loaded.model == before.model
    jax.tree.map(np.testing.assert_array_equal, loaded.params, before.params)


@pytest.mark.parametrize(
    "name, leave_out, add, message",
    [
        ("huggingface_deit", "classifier", "", "without a classifier of its own"),
        ("huggingface_clip", "", "classifier.weight", "CLIPForImageClassification av"),
        ("huggingface_siglip", "head.", "", "vision_use_head is false"),
        ("huggingface_vit", "", "vit.embeddings.detection_tokens", "YOLOS"),
    ],
)
def test_what_is_not_ours_is_refused_without_a_config(
    name: str, leave_out: str, add: str, message: str, tmp_path: Path
) -> None:
    tensors = {
        tensor: x
        for tensor, x in original(name).items()
        if not leave_out or leave_out not in tensor
    }
    if add:
        tensors[add] = np.zeros((5, 12), np.float32)
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path, tensors, {})


def test_patches_that_do_not_fill_the_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So400m/14 at 384 pixels: 27 whole patches a side, and 6 pixels left over."""
    config = config_of("huggingface_siglip") | {"image_size": 37}
    loaded = load("huggingface_siglip", tmp_path, config=config)
    assert loaded.model.image_size == (32, 32)
    assert "37x37 pixels, of which the original reads the first 32x32" in caplog.text
    assert load("huggingface_siglip", tmp_path / "same").model == loaded.model


def test_towers_of_any_aspect_are_refused(tmp_path: Path) -> None:
    tensors = original("huggingface_siglip")
    kernel = tensors["embeddings.patch_embedding.weight"]
    tensors["embeddings.patch_embedding.weight"] = kernel.reshape(len(kernel), -1)
    with pytest.raises(ValueError, match="any aspect .NaFlex"):
        load("huggingface_siglip", tmp_path, tensors, {})


@pytest.mark.parametrize(
    "name, change, message",
    [
        (
            "dinov3",
            {"architectures": ["DINOv3ViTBackbone"]},
            "DINOv3ViTBackbone, which",
        ),
        ("dinov3_gated", {"hidden_act": "gelu"}, "'gelu' for gated MLPs"),
        ("deit", {"architectures": ["DeiTModel"]}, "names architectures DeiTModel"),
        ("clip", {"model_type": "metaclip_2"}, "model_type 'metaclip_2'"),
        ("siglip", {"model_type": "dinov2"}, "model_type 'dinov2'"),
        ("vit", {"model_type": "clip"}, "model_type 'clip'"),
    ],
)
def test_classes_that_are_not_ours_are_refused(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    name = f"huggingface_{name}"
    config = config_of(name)
    config.pop("architectures")
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path, config=config | change)


def test_a_gate_without_a_name_of_its_activation(tmp_path: Path) -> None:
    """transformers takes GELU where a config says nothing; a bare file is DINOv3's."""
    config = config_of("huggingface_dinov3_gated")
    del config["hidden_act"]
    with pytest.raises(ValueError, match="'gelu' for gated MLPs"):
        load("huggingface_dinov3_gated", tmp_path, config=config)
    bare = load("huggingface_dinov3_gated", tmp_path / "bare", config={})
    assert (bare.model.mlp, bare.model.rope_base) == ("swiglu", 100.0)
    assert bare.facts.untold == (*NUMERICS, "rope_base", *PIXELS)


@pytest.mark.parametrize(
    "name, usual",
    [
        ("huggingface_clip", ("quick_gelu", 1e-5, 0.48145466)),
        ("huggingface_siglip", ("gelu_tanh", 1e-6, 0.5)),
        ("huggingface_deit", ("gelu", 1e-12, 0.5)),
        ("huggingface_dinov3", ("gelu", 1e-5, 0.485)),
    ],
)
def test_what_configs_leave_out(
    name: str, usual: tuple[Any, ...], tmp_path: Path
) -> None:
    """As `to_diff_dict` does, with which old configs were written."""
    config = {"num_attention_heads": 3, "model_type": config_of(name)["model_type"]}
    model = load(name, tmp_path, config=config).model
    found = (model.activation, model.norm_epsilon, model.pixel_mean[0])
    assert found == usual


@pytest.mark.parametrize(
    "name", ["huggingface_vit", "huggingface_clip", "huggingface_dinov3"]
)
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers"])
def test_the_config_of_another_model_is_refused(
    name: str, key: str, tmp_path: Path
) -> None:
    config = config_of(name)
    tower = config.get("vision_config", config)
    for value, message in ((tower[key] * 2, "not the config of"), (-1, "wanted a who")):
        tower[key] = value
        with pytest.raises(FileError, match=f"config.json.*{key}.*{message}"):
            load(name, tmp_path, config=config)


def test_biases_of_dinov3_that_are_left_out_are_zeros(tmp_path: Path) -> None:
    left_out = ("o_proj.bias", "up_proj.bias", "down_proj.bias")
    tensors = {
        name: x
        for name, x in original("huggingface_dinov3").items()
        if not name.endswith(left_out)
    }
    block = load("huggingface_dinov3", tmp_path, tensors).params["encoder"]["block_00"]
    for part in (
        block["attention"]["out"],
        block["mlp"]["hidden"],
        block["mlp"]["out"],
    ):
        assert not part["bias"].any()


def test_a_projection_has_no_bias(tmp_path: Path) -> None:
    loaded = load("huggingface_clip", tmp_path / "a")
    loaded.params["head"]["bias"] = np.ones(5, np.float32)
    with pytest.raises(ValueError, match="head has a bias: its code has a projection"):
        save_checkpoint(
            tmp_path / "b", loaded.model, loaded.params, layout="huggingface"
        )


def test_towers_are_written_for_squares_only(tmp_path: Path) -> None:
    loaded = load("huggingface_siglip", tmp_path / "a")
    model = dataclasses.replace(loaded.model, image_size=(16, 64))
    with pytest.raises(
        ValueError, match=r"image_size=\(16, 64\): its code has \(16, 16"
    ):
        save_checkpoint(tmp_path / "b", model, loaded.params, layout="huggingface")


def test_positions_are_resampled_as_its_code_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "vit_jax")
    load("huggingface_clip", tmp_path)
    load_checkpoint(tmp_path, image_size=48)
    assert "positions resampled from 4x4 to 6x6 (bicubic_plain)" in caplog.messages


@pytest.mark.parametrize(
    "processor, crop",
    [
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 40}, 0.8),
        ({"image_processor_type": "CLIPImageProcessor", "size": 40}, 0.8),
        # Resized to a square first, which is none of our ways.
        ({"feature_extractor_type": "DeiTFeatureExtractor", "size": 40}, 0.0),
        ({"size": {"height": 40, "width": 40}}, 0.0),
        ({"size": {"shortest_edge": 64}}, 0.5),
    ],
)
def test_crops_of_old_processors(processor: dict[str, Any], crop: float) -> None:
    usual = {"do_resize": True, "do_center_crop": True, "crop_size": 32, "resample": 3}
    config = {"preprocessor_config": usual | processor}
    facts = huggingface_config.facts({}, config, ())
    assert (facts.crop_share, facts.interpolation) == (crop, "bicubic")
    assert facts.eval_crop == ("resize_small_center_crop" if crop else "")


def test_layouts_of_other_projects_do_not_recognise_them() -> None:
    for name in ("dinov3", "clip", "siglip", "siglip_classes", "deit"):
        tensors = original(f"huggingface_{name}")
        assert huggingface.recognises(tensors, {}), name
        found = [kind for kind in huggingface.KINDS if kind.recognises(tensors)]
        assert len(found) == 1, name


def test_a_hub_folder_of_shards_is_read(tmp_path: Path) -> None:
    """DINOv3's 7B is published in several files."""
    tensors = original("huggingface_dinov3")
    parts = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for part, name in zip(parts, names, strict=True):
        files.write_safetensors(tmp_path / name, part, {})
    index = {
        name: file for part, file in zip(parts, names, strict=True) for name in part
    }
    files.write_folder(tmp_path / "x", {}, config_of("huggingface_dinov3"))
    (tmp_path / "x" / "config.json").rename(tmp_path / "config.json")
    text = str({"weight_map": index}).replace("'", '"')
    (tmp_path / "model.safetensors.index.json").write_text(text)
    whole = load("huggingface_dinov3", tmp_path / "whole")
    assert load_checkpoint(tmp_path).model == whole.model
