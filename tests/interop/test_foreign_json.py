"""Configs of other projects with fields of other kinds: one sentence with the key."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import GOLDEN, TOLD, config_of, golden, original

from vit_jax import interop
from vit_jax.interop import files
from vit_jax.interop.files import FileError
from vit_jax.models import create_model

VALUES = (None, "text", [], [1], -1, 10**30, float("inf"), float("nan"), {}, {"a": 1})
# Where null, or an empty list, says that there is none.
EMPTY = frozenset(
    "architectures id2label label_names do_normalize do_center_crop do_resize size "
    "crop_size resample crop_mode img_size act_layer init_values ref_feat_shape "
    "image_processor_type image_mean image_std".split()
)
# Whole sections, without which a config is one of defaults.
SECTIONS = ("model_args", "pretrained_cfg", "vision_config")
# Any text is a name of one of these.
NAMES = ("id2label", "label_names")
# What is empty, or null, is not there.
ABSENT = (None, [], {})
CONFIGS = sorted(
    path.stem
    for path in GOLDEN.glob("*.json")
    if "config" in (content := json.loads(path.read_text())) and content["config"]
)


def mutations(config: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path of a field, its other value, the config with it)."""
    for key, old in config.items():
        for value in VALUES:
            changed = copy.copy(config)
            changed[key] = value
            yield (*path, key), value, changed
        if isinstance(old, dict):
            for place, value, inner in mutations(old, *path, key):
                yield place, value, {**config, key: inner}


def model_and_facts(
    folder: Path, tensors: Any, told: Any, usual: Any = None
) -> tuple[Any, Any]:
    """What a loader would make of a folder, without the tensors' numbers.

    Args:
        usual: arguments of a model that is known to be one.
    """
    config = files.read_configs(folder)
    module = interop.find_layout(tensors, config, "auto", folder)
    tensors, arguments = interop.read_architecture(module, tensors, config, folder)
    facts = module.facts(tensors, config)
    if arguments != usual:
        create_model(dtype="float32", **(arguments | told))
    return arguments, facts


@pytest.mark.parametrize("name", CONFIGS)
def test_a_field_of_another_kind_is_told_by_its_key(name: str, tmp_path: Path) -> None:
    tensors, told = original(name), TOLD.get(name, {})
    preprocessor = golden(name)["preprocessor_config"]
    configs = {"config": golden(name)["config"]}
    configs |= {"preprocessor_config": preprocessor} if preprocessor else {}
    for file, config in configs.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(config))
    wanted = model_and_facts(tmp_path, tensors, told)
    for file, config in configs.items():
        for place, value, changed in mutations(config):
            (tmp_path / f"{file}.json").write_text(json.dumps(changed))
            try:
                found = model_and_facts(tmp_path, tensors, told, wanted[0])
            except ValueError as error:
                assert place[-1] in str(error), (place, value, error)
                assert "\n" not in str(error), error
            else:
                may = place[-1] in EMPTY and value in ABSENT
                may |= place[-1] in SECTIONS and isinstance(value, dict)
                may |= place[0] in NAMES and value == "text"
                assert may or found == wanted, (place, value)
        (tmp_path / f"{file}.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"a"', "[" * 10**5, "\xff", "9" * 5000]
)
@pytest.mark.parametrize("file", ["config", "preprocessor_config"])
def test_a_file_that_is_no_object_is_one_sentence(
    tmp_path: Path, file: str, text: str
) -> None:
    (tmp_path / f"{file}.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=f"{file}.json"):
        files.read_configs(tmp_path)


NAMES_OF_FILES = ("../x", "..", "", "x" * 300, "a\nb")


@pytest.mark.parametrize(
    "value", [*VALUES, {"x": None}, *({"x": name} for name in NAMES_OF_FILES)]
)
def test_an_index_of_another_shape_is_one_sentence(tmp_path: Path, value: Any) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for content in (value, {"weight_map": value}):
        index.write_text(json.dumps(content))
        with pytest.raises(FileError, match=r"index.json|no checkpoint") as error:
            files.read_tensors(tmp_path)
        assert str(error.value).isprintable()


def test_the_config_in_a_file_of_weights_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    config = config_of("huggingface_vit") | {"layer_norm_eps": "1e-6"}
    files.write_safetensors(path, original("huggingface_vit"), config)
    with pytest.raises(FileError, match="x.safetensors: layer_norm_eps is '1e-6': wa"):
        files.read_tensors(path)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha", "use_rslora"])
def test_an_adapter_of_another_shape_is_one_sentence(
    tmp_path: Path, key: str, value: Any
) -> None:
    if key == "use_rslora" and value is None:
        return
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, key: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(FileError, match="adapter_config.json: |not LORA"):
        files.read_tensors(tmp_path)
    del settings[key]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(FileError, match="adapter_config.json|its base"):
        files.read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x == x.max(), np.nan, x), "holds 1 number.* NaN or inf"),
        (lambda x: x / np.float32(0), "holds .* NaN or infinite"),
        (lambda x: (100 * x).astype(np.int8), "is int8: wanted floating point"),
        (lambda x: x != 0, "is bool: wanted floating point"),
        (lambda x: x.astype(np.complex64), "is complex64: wanted floating point"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_is_no_weight_is_refused_by_name(
    tmp_path: Path, change: Any, message: str
) -> None:
    tensors = original("timm_gap")
    name = "blocks.1.attn.proj.weight"
    tensors[name] = change(tensors[name])
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        interop.load_checkpoint(tmp_path / "x.npz", num_heads=3)
