"""Weights of others: npz, safetensors, torch, adapters, indices and configs."""

import dataclasses
import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
from golden_files import GOLDEN, TOLD, config_of, golden, original
from hypothesis import strategies as st
from torch_archive import write_archive

from fuzz.mutations import any_json, change, edited
from fuzz.reader import Finding, Reader, equal, telling
from fuzz.shards import zip_places
from vit_jax import interop
from vit_jax.interop import files, public
from vit_jax.interop.files import FileError

ARRAYS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(4, 6),
    "b": np.float16([1.5, -2]),
    "step": np.array(3, np.int64),
    "flag": np.array([True, False]),
}


def written(suffix: str, write: Callable[[Path], None]) -> bytes:
    """The bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, f"x{suffix}"))
        return Path(folder, f"x{suffix}").read_bytes()


@functools.cache
def npzs() -> list[bytes]:
    return [
        written(".npz", lambda path: np.savez(path, **ARRAYS)),
        written(".npz", lambda path: np.savez_compressed(path, **ARRAYS)),
    ]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives that are whole, of members that are not."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in ARRAYS.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", draw(edited([member.getvalue()])))
    return file.getvalue()


def check_npz(content: bytes, folder: Path) -> None:
    path = folder / "x.npz"
    path.write_bytes(content)
    with telling(path, errors=FileError):
        tensors, _ = files.read_tensors(path)
        with np.load(path) as archive:
            for name, tensor in tensors.items():
                compare(name, tensor, archive[name])


def compare(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    """Raises Finding unless two arrays are equal, as far as numbers can be."""
    # All of it is touched: a view that leads out of its file ends the process here.
    equal(found.shape, wanted.shape, name)
    if not np.array_equal(np.array(found), files.as_float32(wanted), equal_nan=False):
        same = np.array(found) == files.as_float32(wanted)
        nan = (found != found) & (wanted != wanted)
        if not (same | nan).all():
            raise Finding(f"{name} has other values")


@functools.cache
def safetensors_files() -> list[bytes]:
    config = {"model_type": "vit", "id2label": {"0": "cat"}}
    return [
        written(".safetensors", lambda path: files.write_safetensors(path, ARRAYS, {})),
        written(
            ".safetensors", lambda path: files.write_safetensors(path, ARRAYS, config)
        ),
    ]


@st.composite
def safetensors_of_json(draw: st.DrawFn) -> bytes:
    """Files whose header is changed as JSON, with its right length before it."""
    whole = draw(st.sampled_from(safetensors_files()))
    length = int.from_bytes(whole[:8], "little")
    header = draw(any_json([json.loads(whole[8 : 8 + length])]))
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


def header_places(data: bytes) -> list[int]:
    return list(range(8 + int.from_bytes(data[:8], "little")))


def check_safetensors(content: bytes, folder: Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    with telling(path, errors=FileError):
        tensors, config = files.read_tensors(path)
        for name, wanted in safetensors.numpy.load(content).items():
            if name in tensors:  # others are counters, or were below a prefix
                compare(name, tensors[name], wanted)
        if not isinstance(config, dict):
            raise Finding(f"a config {config!r}")


@functools.cache
def torch_files() -> list[bytes]:
    plain = {name: x for name, x in ARRAYS.items() if name != "flag"}
    nested = {"state_dict": plain, "epoch": 3, "args": {"a": [1, None]}}
    return [
        written(".pth", lambda path: write_archive(path, nested)),
        written(".pth", lambda path: write_archive(path, plain, parameters=True)),
        written(".pth", lambda path: write_archive(path, plain, protocol=4)),
    ]


@st.composite
def torch_pickles(draw: st.DrawFn) -> bytes:
    """Archives that are whole, with a pickle that is not."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(torch_files())))) as whole:
        with zipfile.ZipFile(file, "w") as archive:
            for name in whole.namelist():
                data = whole.read(name)
                changed = name.endswith("data.pkl")
                archive.writestr(name, draw(edited([data])) if changed else data)
    return file.getvalue()


def check_torch(content: bytes, folder: Path) -> None:
    path = folder / "x.pth"
    path.write_bytes(content)
    with telling(path, errors=FileError):
        tensors, _ = files.read_tensors(path)
        for name, tensor in tensors.items():
            if not isinstance(name, str) or tensor.dtype.hasobject:
                raise Finding(f"a tensor {name!r} of {tensor.dtype}")
            if tensor.nbytes > 1 << 20:
                raise Finding(f"{name} has {tensor.nbytes} bytes of {len(content)}")
            np.array(tensor)


def check_index(content: bytes, folder: Path) -> None:
    """An index of shards, in a folder and where downloads are."""
    index = folder / "model.safetensors.index.json"
    index.write_bytes(content)
    files.write_safetensors(folder / "a.safetensors", ARRAYS, {})
    with telling(folder, errors=FileError):
        equal(set(files.read_tensors(folder)[0]), set(ARRAYS), "names")
    with telling(folder, errors=(ValueError, OSError)):
        for name in public.shards(folder):
            equal((folder / name).parent, folder, "folder of a shard")


SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False}
SETTINGS |= {
    "base_model_name_or_path": "base",
    "target_modules": ["query"],
    "bias": "none",
}
MODULE = "vit.encoder.layer.1.attention.attention.query"


def check_adapter(content: bytes, folder: Path) -> None:
    adapter = folder / "adapter"
    adapter.mkdir()
    files.write_folder(folder / "base", usual_tensors("huggingface_vit"), {})
    (adapter / "base").symlink_to(folder / "base")
    names = (f"base_model.model.{MODULE}.lora_{x}.weight" for x in "AB")
    arrays = np.ones((2, 12), np.float32), np.ones((12, 2), np.float32)
    tensors = dict(zip(names, arrays, strict=True))
    files.write_safetensors(adapter / "adapter_model.safetensors", tensors, {})
    (adapter / "adapter_config.json").write_bytes(content)
    # The base that is found may be no checkpoint.
    with telling(adapter, "checkpoint", errors=FileError):
        files.read_tensors(adapter)


CHANGES = ("drop", "rename", "type", "flat", "turn", "more", "few")
MODELS = sorted(path.stem for path in GOLDEN.glob("*.json"))
MODELS = [name for name in MODELS if "tensors" in golden(name)]


usual_tensors = functools.cache(original)


@dataclasses.dataclass(repr=False)
class Model:
    """A folder of a model whose configs or tensors were changed."""

    name: str
    tensors: dict[str, np.ndarray]
    config: bytes
    processor: bytes

    def __repr__(self) -> str:
        usual = usual_tensors(self.name)
        changed = {
            name: f"{x.dtype}{x.shape}"
            for name, x in self.tensors.items()
            if x is not usual.get(name)
        }
        lacking = sorted(usual.keys() - self.tensors.keys())
        return f"{self.name} {changed} without {lacking} {self.config} {self.processor}"


@st.composite
def models(draw: st.DrawFn) -> Model:
    name = draw(st.sampled_from(MODELS))
    tensors, config = dict(usual_tensors(name)), dict(config_of(name))
    processor = config.pop("preprocessor_config", None) or {}
    if draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            change_tensors(draw, tensors)
    if config and draw(st.booleans()):
        config = change(draw, config)
    if processor and draw(st.booleans()):
        processor = change(draw, processor)
    return Model(name, tensors, *(json.dumps(x).encode() for x in (config, processor)))


def change_tensors(draw: st.DrawFn, tensors: dict[str, np.ndarray]) -> None:
    name = draw(st.sampled_from(sorted(tensors)))
    kind = draw(st.sampled_from(CHANGES))
    tensor = tensors[name]
    if kind == "drop" and len(tensors) > 1:
        del tensors[name]
    elif kind == "rename":
        other = draw(st.sampled_from(sorted(tensors)))
        end = draw(st.sampled_from(("", ".x", ".weight", ".bias", "0")))
        tensors[other + end] = tensors.pop(name)
    elif kind == "type":
        kinds = (np.int64, np.bool_, np.float16, np.int8, np.float64)
        tensors[name] = tensor.astype(draw(st.sampled_from(kinds)))
    elif kind == "flat":
        tensors[name] = tensor.reshape(-1)
    elif kind == "turn":
        tensors[name] = np.ascontiguousarray(tensor.T)
    elif kind == "more":
        tensors[name] = np.stack([tensor] * draw(st.integers(0, 3)) or [tensor])
    elif tensor.ndim:
        tensors[name] = tensor[: draw(st.integers(0, 2))]


def check_model(model: Model, folder: Path) -> None:
    safetensors.numpy.save_file(model.tensors, folder / "model.safetensors")
    for name, text in (
        ("config", model.config),
        ("preprocessor_config", model.processor),
    ):
        if text != b"{}":
            (folder / f"{name}.json").write_bytes(text)
    parts = ("config", "the file", "tensor", "shape", "model", "layout")
    with telling(folder, *parts, *model.tensors):
        loaded = interop.load_checkpoint(folder, **TOLD.get(model.name, {}))
        equal(type(loaded.params), dict, "parameters")


INDEX = {
    "metadata": {"total_size": 9},
    "weight_map": dict.fromkeys(ARRAYS, "a.safetensors"),
}
READERS = (
    Reader("npz", lambda: edited(npzs(), zip_places) | archives(), check_npz),
    Reader(
        "safetensors",
        lambda: edited(safetensors_files(), header_places) | safetensors_of_json(),
        check_safetensors,
    ),
    Reader(
        "torch",
        lambda: edited(torch_files(), zip_places) | torch_pickles(),
        check_torch,
    ),
    Reader("index of weights", lambda: any_json([INDEX]), check_index),
    Reader("adapter_config.json", lambda: any_json([SETTINGS]), check_adapter),
    Reader("folders of models", lambda: models(), check_model, 10),
)
