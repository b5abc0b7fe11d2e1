"""LoRA adapters of PEFT (arXiv 2106.09685), merged into the model that they change."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

import numpy as np

from vit_jax.interop.formats import FileError, Tensors, read_json
from vit_jax.storage.output import printable
from vit_jax.values import Range

Read = Callable[[Path], tuple[Tensors, dict[str, Any]]]

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
BEFORE = "base_model.model."  # all names of the model itself
PAIR = re.compile(r"(.*)\.lora_(A|B)\.weight")
# Keys that the sum of the weights does not depend on, or that are read here; another
# one that is set is refused, since it changes what an adapter computes.
KNOWN = frozenset(
    "peft_type task_type auto_mapping base_model_name_or_path revision inference_mode "
    "r lora_alpha use_rslora lora_dropout target_modules exclude_modules bias "
    "modules_to_save layers_to_transform layers_pattern init_lora_weights peft_version "
    "megatron_core qalora_group_size ensure_weight_tying".split()
)
# From the names of modules in transformers 5, which PEFT takes, to those in its files.
SPELLINGS = (
    (r"(?<!encoder\.)\blayers\.(\d+)", r"encoder.layer.\1"),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
SHOWN = 200  # characters of settings that are not read
SIMPLE_INITS = (True, False, "gaussian", None)  # others change the base weights too
HELP = (
    "; merge it in PEFT by model.merge_and_unload(), save that by save_pretrained, and "
    "load what it wrote"
)


class Fields(TypedDict, total=False):
    """adapter_config.json, as far as it is read here."""

    peft_type: Required[str]
    r: Annotated[int, Range(1, 2**16)]
    lora_alpha: Annotated[float, Range(0, 1e6, left_open=True)]
    use_rslora: bool | None
    base_model_name_or_path: str | None


def is_adapter(path: Path, whole: tuple[str, ...]) -> bool:
    """Whether a file or folder is an adapter.

    Args:
        whole: names of files with a whole model.

    Raises:
        FileError: a folder holds both.
    """
    if not path.is_dir():
        return path.name in FILES and (path.parent / CONFIG).exists()
    models = [name for name in whole if (path / name).exists()]
    weights = [name for name in FILES if (path / name).exists()]
    if models and weights:
        raise FileError(
            f"{path} holds a whole model and an adapter: name the one that is meant, "
            f"{path / models[0]} or {path / weights[0]}"
        )
    return bool(weights) or ((path / CONFIG).exists() and not models)


def merge(path: Path, read: Read) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of the changed model, W + (alpha / r) B A, and its base's config.

    Args:
        path: an adapter's file or folder.
        read: reads the float32 tensors and the config of a file or folder.

    Raises:
        FileError: an adapter of another kind, or its base is not on disk or another.
    """
    folder = path if path.is_dir() else path.parent
    settings = read_json(folder / CONFIG, Fields)
    check(path, settings)
    base = find_base(path, folder, settings.get("base_model_name_or_path") or "")
    tensors, config = read(base)
    files = [path] if path.is_file() else [folder / name for name in FILES]
    file = next((file for file in files if file.exists()), files[0])
    changes = {
        name.removeprefix(BEFORE).replace(".base_layer.", "."): x
        for name, x in read(file)[0].items()
    }
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    merged = dict(tensors)
    for name, change in changes.items():
        pair = PAIR.fullmatch(name)
        if pair is None:
            # A bias, or one of modules_to_save.
            merged[stored_name(name, tensors)] = change
        elif pair[2] == "A":
            weight = stored_name(f"{pair[1]}.weight", tensors)
            up, old = changes.get(f"{pair[1]}.lora_B.weight"), tensors.get(weight)
            if up is None or old is None or old.shape != (len(up), change.shape[-1]):
                raise FileError(
                    f"{path} changes {weight}, and {base} has no matrix of that name "
                    f"that fits: wanted the model that it was trained on{HELP}"
                )
            if len(change) != rank:
                raise FileError(
                    f"{CONFIG} of {path} has r = {rank}, and {name} has {len(change)}"
                )
            merged[weight] = old + np.float32(scale) * (up @ change)
    return merged, config


def stored_name(name: str, tensors: Tensors) -> str:
    """The name of a tensor in the base's file, the name itself if it is not there."""
    spelt = name
    for pattern, other in SPELLINGS:
        if spelt in tensors:
            return spelt
        spelt = re.sub(pattern, other, spelt)
    return spelt if spelt in tensors else name


def check(path: Path, settings: dict[str, Any]) -> None:
    """Raises FileError for adapters whose sum is not W + (alpha / r) B A."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise FileError(f"{path} is an adapter of PEFT's kind {kind}, not LORA{HELP}")
    if missing := [key for key in ("r", "lora_alpha") if key not in settings]:
        raise FileError(f"{CONFIG} of {path} lacks {' and '.join(missing)}")
    others = [key for key, x in settings.items() if x and key not in KNOWN]
    if settings.get("init_lora_weights", True) not in SIMPLE_INITS:
        others.append("init_lora_weights")
    if others:
        values = ", ".join(f"{key}={settings[key]!r}" for key in others)
        values = printable(values)[:SHOWN]
        raise FileError(f"{path} is a LoRA adapter with {values}, not read{HELP}")


def find_base(path: Path, folder: Path, name: str) -> Path:
    """The model that an adapter changes, beside it or where its config says."""
    places = [folder / name, Path(name)] if name else []
    for place in places:
        if os.path.exists(place) and place.resolve() != folder.resolve():
            return place
    raise FileError(
        f"{path} is a LoRA adapter, and its base {name!r} is not on this disk: put the "
        f"path of its folder as base_model_name_or_path into {folder / CONFIG}{HELP}"
    )
