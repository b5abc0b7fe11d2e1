"""Hostile files of weights, and hostile JSON beside them."""

import functools
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from interop import torch_archive

import vit_jax
from attack.damages import as_bytes
from attack.harm import DAMAGES, flip
from attack.outcomes import Attack, Outcome, call, judge
from vit_jax.interop.trained import load_trained
from vit_jax.models import create_model, init_params

REFUSED, TOLD, SAME = Outcome.REFUSED, Outcome.TOLD, Outcome.SAME
LAYOUTS = {"w.npz": "google", "w.safetensors": "timm", "hf": "huggingface"}
ODD_JSON = (
    *(None, "text", "", [], [1], [None], -1, 0, 1.5, 10**30, 1e308, True, {}),
    *({"a": 1}, float("nan"), float("inf"), "\x1b[31m", "../../x", 2**63),
)
Tensors = dict[str, np.ndarray]


class Known(NamedTuple):
    """Files of one small model in several layouts, and what each loads as."""

    folder: Path
    params: dict[str, bytes]
    models: dict[str, Any]


@functools.cache
def whole() -> Known:
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    options = dict(depth=1, width=16, mlp_dim=32, num_heads=2, pooling="token")
    model = create_model("ViT-Ti/16", num_classes=3, image_size=(32, 32), **options)
    params = init_params(model, jax.random.key(0))
    for name, layout in LAYOUTS.items():
        vit_jax.save(folder / name, model, params, layout=layout)
    tensors = safetensors.numpy.load_file(folder / "w.safetensors")
    torch_archive.write_archive(folder / "w.pth", dict(tensors))
    loaded = {
        name: load_trained(folder / name, **TOLD_BY_HAND)
        for name in (*LAYOUTS, "w.pth")
    }
    return Known(
        folder,
        {name: as_bytes(found) for name, found in loaded.items()},
        {name: found.model for name, found in loaded.items()},
    )


# What a timm file without a config does not tell.
TOLD_BY_HAND: dict[str, Any] = {}


def load(path: Path, name: str) -> tuple[Outcome, str]:
    """Loads weights, and compares with those without the attack."""
    found: list[Any] = []
    ending = call(lambda: found.append(load_trained(path, **TOLD_BY_HAND)))
    known = whole()
    same = bool(found) and (
        as_bytes(found[0]) == known.params[name]
        and found[0].model == known.models[name]
    )
    return judge(
        ending, names=(str(path), path.name), same=same, told="WARNING|positions=none"
    )


def copied(folder: Path, name: str) -> Path:
    source = whole().folder / name
    if source.is_dir():
        return Path(shutil.copytree(source, folder / name))
    return Path(shutil.copy(source, folder / name))


def attack(kind: str, name: str, what: str, do: Callable[[Path], object], *good: Any):
    """Something done to a copy of a file or folder, then loaded."""

    def act(folder: Path) -> tuple[Outcome, str]:
        path = copied(folder, name)
        do(path)
        outcome, text = load(path, name)
        if (folder / "ran").exists():
            return Outcome.SILENT, "code in the file was run"
        return outcome, text

    return Attack(kind, f"{name}: {what}", act, good or (REFUSED,))


def damages() -> Iterator[Attack]:
    """Each kind of file cut, flipped, replaced."""
    for name in ("w.npz", "w.safetensors", "w.pth"):
        for damage in DAMAGES:
            if has_no_checksum(name) and damage.do is flip:
                continue

            def do(path: Path, damage: Any = damage) -> None:
                damage.do(path, random.Random(7))

            good = (REFUSED, SAME) if damage.name == "longer" else (REFUSED,)
            yield attack("weights, damaged", name, damage.name, do, *good)
    for name in ("config.json", "model.safetensors", "README.md"):
        for damage in DAMAGES:
            if has_no_checksum(name) and damage.do is flip:
                continue

            def do(path: Path, name: str = name, damage: Any = damage) -> None:
                damage.do(path / name, random.Random(7))

            good = (REFUSED, TOLD, SAME)
            yield attack("weights, damaged", "hf", f"{name}, {damage.name}", do, *good)


def has_no_checksum(name: str) -> bool:
    """Whether a bit of a number in a file makes only another number of it."""
    return name.endswith(".safetensors")


# --- tensors ---


def written(change: Callable[[Tensors], object]) -> dict[str, Callable[[Path], None]]:
    """Writers of each kind of file, of changed tensors."""

    def npz(path: Path) -> None:
        with np.load(path) as file:
            tensors = dict(file)
        change(tensors)
        np.savez(path, **tensors)

    def safe(path: Path) -> None:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path, metadata)

    def torch(path: Path) -> None:
        source = whole().folder / "w.safetensors"
        tensors = safetensors.numpy.load_file(source)
        change(tensors)
        torch_archive.write_archive(path, dict(tensors))

    return {"w.npz": npz, "w.safetensors": safe, "w.pth": torch}


def all_to(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name, value in tensors.items():
            tensors[name] = function(value)

    return change


def last_to(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        name = sorted(tensors)[-1]
        tensors[name] = np.ascontiguousarray(function(tensors[name]))

    return change


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def function(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return function


def tensors() -> Iterator[Attack]:
    """Values, types and shapes that no model has."""
    changes = {
        "one NaN": last_to(put(np.nan)),
        "one infinity": last_to(put(np.inf)),
        "all NaN": all_to(lambda x: np.full_like(x, np.nan)),
        "int8": all_to(lambda x: x.astype(np.int8)),
        "int64": all_to(lambda x: x.astype(np.int64)),
        "one is int32": last_to(lambda x: x.astype(np.int32)),
        "one is uint8": last_to(lambda x: x.astype(np.uint8)),
        "one is bool": last_to(lambda x: x.astype(bool)),
        "one more axis": last_to(lambda x: x[None]),
        "one axis less": last_to(lambda x: x.reshape(-1)[: x.shape[-1]]),
        "one is empty": last_to(lambda x: x[:0]),
        "one is a number": last_to(lambda x: x.reshape(-1)[:1].reshape(())),
        "one is longer": last_to(lambda x: np.concatenate([x, x])),
        "one is missing": lambda x: x.pop(sorted(x)[-1]),
        "the first is missing": lambda x: x.pop(sorted(x)[0]),
        "all are missing": lambda x: x.clear(),
        "only another": lambda x: (x.clear(), x.update(a=np.zeros(3, np.float32))),
        "one of an empty name": lambda x: x.update({"": np.zeros(3, np.float32)}),
        "one of a name with escapes": lambda x: x.update(
            {"\x1b[31m": np.zeros(3, "f")}
        ),
        "transposed": all_to(lambda x: np.ascontiguousarray(x.T)),
    }
    for what, change in changes.items():
        for name, write in written(change).items():
            if name == "w.pth" and "int" in what or "bool" in what:
                continue  # the writer by hand has no such types
            yield attack("weights, tensors", name, what, write, REFUSED, TOLD)


# --- JSON ---


def configs() -> Iterator[Attack]:
    """Each field of a config.json of Hugging Face with each odd value."""
    path = whole().folder / "hf" / "config.json"
    for key in json.loads(path.read_text()):
        for value in ODD_JSON:

            def do(folder: Path, key: str = key, value: Any = value) -> None:
                config = json.loads((folder / "config.json").read_text())
                (folder / "config.json").write_text(json.dumps(config | {key: value}))

            what = f"{key}={value!r}"
            yield attack("JSON beside weights", "hf", what, do, REFUSED, TOLD, SAME)
