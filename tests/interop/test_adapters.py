"""LoRA adapters of PEFT: merged into their base, or refused by name."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden_files import config_of, original

from vit_jax.interop import files, load_checkpoint
from vit_jax.interop.trained import is_run_folder

RANK = 2
USUAL = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "use_dora": False}
MODULE = "vit.encoder.layer.1.attention.attention.query"
RNG = np.random.default_rng(0)


def folders(tmp_path: Path, changes: dict[str, Any], **settings: Any) -> Path:
    """A base of transformers, and beside it an adapter with these tensors."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tensors = original("huggingface_vit")
    files.write_folder(base, tensors, config_of("huggingface_vit"))
    adapter.mkdir()
    named = {f"base_model.model.{name}": x for name, x in changes.items()}
    files.write_safetensors(adapter / "adapter_model.safetensors", named, {})
    config = USUAL | {"base_model_name_or_path": str(base)} | settings
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def pair(module: str = MODULE, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    down, up = RNG.normal(size=(RANK, 12)), RNG.normal(size=(12, RANK))
    names = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
    return {n: x.astype(dtype) for n, x in zip(names, (down, up), strict=True)}


def test_a_product_is_added_to_a_matrix(tmp_path: Path) -> None:
    changes = pair()
    adapter = folders(tmp_path, changes, modules_to_save=["classifier"], lora_dropout=1)
    down, up = changes.values()
    for path in (adapter, adapter / "adapter_model.safetensors"):
        tensors, config = files.read_tensors(path)
        before = original("huggingface_vit")
        wanted = before[f"{MODULE}.weight"] + 3.0 * up @ down
        np.testing.assert_allclose(
            tensors[f"{MODULE}.weight"], wanted, rtol=1e-4, atol=1e-6
        )
        assert tensors.keys() == before.keys() and config["model_type"] == "vit"
        for name in before.keys() - {f"{MODULE}.weight"}:
            np.testing.assert_array_equal(tensors[name], before[name])
    assert not is_run_folder(adapter)
    assert load_checkpoint(adapter).model == load_checkpoint(tmp_path / "base").model


def test_the_scale_of_rank_stabilised_adapters(tmp_path: Path) -> None:
    changes = pair(dtype=ml_dtypes.bfloat16)
    adapter = folders(tmp_path, changes, use_rslora=True)
    down, up = (x.astype(np.float32) for x in changes.values())
    tensors, _ = files.read_tensors(adapter)
    wanted = original("huggingface_vit")[f"{MODULE}.weight"] + 6 / 2**0.5 * up @ down
    np.testing.assert_allclose(
        tensors[f"{MODULE}.weight"], wanted, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("module", "stored"),
    [
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
    ],
)
def test_names_of_modules_in_transformers_5(
    module: str, stored: str, tmp_path: Path
) -> None:
    changes = pair(f"vit.layers.1.{module}")
    bias = f"vit.layers.1.{module}.base_layer.bias"
    changes[bias] = np.full(12, 7.0, np.float32)
    down, up, _ = changes.values()
    tensors, _ = files.read_tensors(folders(tmp_path, changes, bias="lora_only"))
    name = f"vit.encoder.layer.1.{stored}"
    wanted = original("huggingface_vit")[f"{name}.weight"] + 3.0 * up @ down
    close(tensors[f"{name}.weight"], wanted)
    assert (tensors[f"{name}.bias"] == 7).all()


@pytest.mark.parametrize(
    ("module", "stored"),
    [("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")],
)
def test_names_of_the_mlp_in_transformers_5(
    module: str, stored: str, tmp_path: Path
) -> None:
    bias = np.full(20 if module.endswith("1") else 12, 7.0, np.float32)
    changes = {f"vit.layers.0.{module}.bias": bias}
    tensors, _ = files.read_tensors(folders(tmp_path, changes, bias="all"))
    found = tensors[f"vit.encoder.layer.0.{stored}.bias"]
    np.testing.assert_array_equal(found, bias)
    assert tensors.keys() == original("huggingface_vit").keys()


def test_a_head_of_its_own_takes_the_place_of_the_bases(tmp_path: Path) -> None:
    head = RNG.normal(size=(5, 12)).astype(np.float32)
    changes = {"classifier.weight": head}
    adapter = folders(tmp_path, changes, modules_to_save=["classifier"])
    params = load_checkpoint(adapter).params
    np.testing.assert_array_equal(params["head"]["kernel"], head.T)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"peft_type": "IA3"},
            "PEFT's kind IA3, not LORA; merge it in PEFT by m",
        ),
        ({"use_dora": True}, "LoRA adapter with use_dora=True, not read; merge it"),
        ({"rank_pattern": {"query": 4}}, "rank_pattern={'query': 4}, not read"),
        ({"alpha_pattern": {"query": 4}}, "alpha_pattern="),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        (
            {"base_model_name_or_path": "google/x"},
            "base 'google/x' is not on this d",
        ),
        (
            {"base_model_name_or_path": None},
            "base '' is not on this disk: put the",
        ),
    ],
)
def test_other_adapters_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    adapter = folders(tmp_path, pair(), **settings)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(adapter)


def test_settings_that_are_not_read_are_one_line(tmp_path: Path) -> None:
    adapter = folders(tmp_path, pair(), **{"a\nb\x1b": "x" * 999})
    with pytest.raises(ValueError, match=r"with a.nb.x1b='xxx.*, not read") as error:
        files.read_tensors(adapter)
    assert str(error.value).isprintable() and len(str(error.value)) < 700


@pytest.mark.parametrize(
    "changes",
    [
        pair("vit.encoder.layer.7.attention.attention.query"),
        pair("vit.encoder.layer.0.intermediate.dense"),
        {k: x for k, x in pair().items() if "lora_A" in k},
    ],
)
def test_another_base_is_refused(
    changes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    adapter = folders(tmp_path, changes)
    with pytest.raises(ValueError, match="wanted the model that it was trained on; me"):
        load_checkpoint(adapter)


def test_vectors_of_other_methods_are_surplus(tmp_path: Path) -> None:
    vector = {f"{MODULE}.lora_magnitude_vector.weight": np.ones(12, np.float32)}
    with pytest.raises(ValueError, match="lora_magnitude_vector"):
        load_checkpoint(folders(tmp_path, pair() | vector))


def test_a_folder_with_both_has_to_be_told_apart(tmp_path: Path) -> None:
    adapter = folders(tmp_path, pair(), base_model_name_or_path="../base")
    merged, _ = files.read_tensors(adapter)
    files.write_folder(adapter, original("huggingface_vit"), {})
    with pytest.raises(ValueError, match="a whole model and an adapter: name the one"):
        files.read_tensors(adapter)
    whole, _ = files.read_tensors(adapter / "model.safetensors")
    again, _ = files.read_tensors(adapter / "adapter_model.safetensors")
    weight = f"{MODULE}.weight"
    plain = original("huggingface_vit")[weight]
    np.testing.assert_array_equal(whole[weight], plain)
    np.testing.assert_array_equal(again[weight], merged[weight])
    assert np.abs(again[weight] - plain).max() > 0.1
