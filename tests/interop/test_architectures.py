"""Architectures that configs name: known to be ours, or refused by name."""

from pathlib import Path
from typing import Any

import pytest
from golden_files import config_of, load, original

from vit_jax.interop import files, load_checkpoint
from vit_jax.interop.timm_eva_config import num_heads


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_relpos_base_patch16_224",
        "vit_dlittle_patch16_reg1_gap_256",
        "beit_base_patch16_224",
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
    ["vit_base_patch16_224.augreg_in21k", "deit_tiny_patch16_224", "flexivit_small"],
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


def test_arguments_of_timm_that_are_not_read_are_refused(tmp_path: Path) -> None:
    config = config_of("timm_token")
    config["model_args"] |= {"mlp_layer": "x", "block_fn": "y"}
    with pytest.raises(ValueError, match="model_args block_fn, mlp_layer, wh"):
        load("timm_token", tmp_path, config=config)


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


def test_adapters_are_refused_by_name(tmp_path: Path) -> None:
    tensors = {f"base_model.model.{k}": x for k, x in original("timm_token").items()}
    files.write_safetensors(tmp_path / "adapter_model.safetensors", tensors, {})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(ValueError, match="an adapter of PEFT .*merge_and_unload"):
            load_checkpoint(path)
