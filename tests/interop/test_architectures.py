"""Architectures that configs name: known to be ours, or refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import config_of, load, module_of, original

from vit_jax.interop import files, load_checkpoint
from vit_jax.interop.timm_eva_config import num_heads


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_dlittle_patch16_reg1_gap_256",
        "my_own_vit",
    ],
)
def test_unknown_architectures_of_timm_are_refused(
    architecture: str, tmp_path: Path
) -> None:
    """Although the tensors are those of a plain ViT."""
    config = config_of("timm_token") | {"architecture": architecture}
    with pytest.raises(ValueError, match=f"architecture '{architecture}', which is no"):
        load("timm_token", tmp_path, config=config)


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_base_patch16_224.augreg_in21k",
        "deit_tiny_patch16_224",
        "flexivit_small",
        "beit3_base_patch16_224",
    ],
)
def test_known_architectures_of_timm(architecture: str, tmp_path: Path) -> None:
    config = config_of("timm_token") | {"architecture": architecture}
    assert load("timm_token", tmp_path, config=config).model.num_heads == 3


@pytest.mark.parametrize(
    "width, heads", [(384, 6), (1280, 20), (1408, 16), (1792, 16), (4096, 32)]
)
def test_heads_of_eva_and_dinov3(width: int, heads: int) -> None:
    """No tensor shows them; 1280 is DINOv3's H+, 4096 its 7B."""
    assert num_heads({}, {}, width) == heads
    assert num_heads({}, {"model_args": {"num_heads": 8}}, width) == 8


def test_transformers_with_names_of_timm_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names model_type 'tipsv2_vision_model', wh"):
        load("timm_token", tmp_path, config={"model_type": "tipsv2_vision_model"})


@pytest.mark.parametrize("name", ["timm_token", "eva_dinov3"])
def test_arguments_of_timm_that_are_not_read_are_refused(
    name: str, tmp_path: Path
) -> None:
    config = config_of(name)
    config["model_args"] |= {"rope_mrope_section": "x", "block_fn": "y"}
    with pytest.raises(ValueError, match="model_args block_fn, rope_mrope_section, wh"):
        load(name, tmp_path, config=config)


@pytest.mark.parametrize(
    "architecture", ["vit_srelpos_small_patch16_224", "beitv2_base_patch16_224"]
)
def test_relative_positions_that_no_tensor_has(
    architecture: str, tmp_path: Path
) -> None:
    config = config_of("timm_token") | {"architecture": architecture}
    with pytest.raises(ValueError, match=f"{architecture}, which has relative pos"):
        load("timm_token", tmp_path, config=config)


@pytest.mark.parametrize(
    "name, part",
    [("timm_relative_bias", "pos_embed"), ("eva_beit", "pos_embed")],
)
def test_positions_of_both_kinds_are_refused(
    name: str, part: str, tmp_path: Path
) -> None:
    tensors = original(name)
    tensors[part] = np.zeros((1, 25, tensors["cls_token"].shape[2]), np.float32)
    with pytest.raises(ValueError, match=f"surplus.*{part}|{part}.*surplus"):
        load(name, tmp_path, tensors)


def test_the_sigmoid_of_swin_is_refused(tmp_path: Path) -> None:
    """`rel_pos_type=mlp_swin`: its MLP has no last bias."""
    config, tensors = (
        config_of("timm_relative_shared"),
        original("timm_relative_shared"),
    )
    config["model_args"] |= {"rel_pos_type": "mlp_swin"}
    del tensors["shared_rel_pos.mlp.fc2.bias"]
    with pytest.raises(ValueError, match="missing.*fc2.bias|fc2.bias.*missing"):
        load("timm_relative_shared", tmp_path, tensors, config)


@pytest.mark.parametrize("name", ["eva_beit", "eva_beitv2", "timm_relative_bias"])
def test_bare_files_with_numbers_of_offsets(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables show the heads and, if they are square, the image."""
    tensors = original(name)
    tensors |= {"blocks.0.attn.relative_position_index": np.zeros((25, 25), np.int64)}
    if name.startswith("timm"):
        del tensors["blocks.0.attn.relative_position_index"]
    path = tmp_path / "bare.safetensors"
    files.write_safetensors(path, tensors, {})
    told = load(name, tmp_path / "whole").model
    size = {} if name == "eva_beitv2" else {"image_size": told.image_size}
    model = load_checkpoint(path, **size).model
    assert "num_heads" not in caplog.text and model.num_heads == 3
    assert model.pixel_mean == (0.5, 0.5, 0.5)
    same = ("positions", "positions_at", "image_size", "qkv_bias", "pooling")
    assert [getattr(model, x) for x in same] == [getattr(told, x) for x in same]


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("timm_relative_mlp", {"activation": "relu"}, "activation='relu'"),
        ("timm_relative_bias", {"num_registers": 1}, "num_registers=1"),
        ("timm_relative_bias", {"qkv_bias": "qv"}, "write it as layout timm_eva"),
        ("timm_relative_mlp", {"norm_epsilon": 1e-5}, "norm_epsilon=1e-05"),
        ("eva_beit", {"positions": "relative_mlp"}, "positions='relative_mlp'"),
        ("eva_beit", {"class_token": "auto"}, "BEiT always has one"),
        ("eva_beit", {"qk_norm": "layernorm"}, "qk_norm='layernorm'"),
    ],
)
def test_relative_positions_that_timm_has_no_code_for(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = load(name, tmp_path).model.clone(**change)
    with pytest.raises(ValueError, match=message):
        module_of(name).rules(model)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "vit_mae"}, "names model_type 'vit_mae', which is not known"),
        ({"model_type": "ijepa", "architectures": []}, "model_type 'ijepa'"),
        ({"architectures": ["MyViTModel"]}, "names architectures MyViTModel, which"),
    ],
)
def test_unknown_models_of_transformers_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        config = config_of("huggingface_vit") | change
        load("huggingface_vit", tmp_path, config=config)


def test_timm_models_in_transformers_are_timm_models(tmp_path: Path) -> None:
    """`TimmWrapperForImageClassification` puts a prefix before timm's names."""
    config = config_of("timm_token") | {"model_type": "timm_wrapper"}
    tensors = {f"timm_model.{k}": x for k, x in original("timm_token").items()}
    loaded = load("timm_token", tmp_path, tensors, config)
    assert loaded.model == load("timm_token", tmp_path / "plain").model
