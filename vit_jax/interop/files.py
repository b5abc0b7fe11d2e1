"""Files that hold tensors by name: .npz, .safetensors, and torch's .pth, .pt, .bin.

Nothing is ever unpickled: arrays of objects are refused, and torch files are read by
torch's own weights-only loader, if torch is installed.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

Tensors = dict[str, np.ndarray]
SUFFIXES = (".npz", ".safetensors", ".pth", ".pt", ".bin")
# In the order of preference: the names that hubs give.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
)
# What training code wraps a state dict in.
WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "teacher")


SAFETENSORS_TYPES = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(bool),
}


class FileError(ValueError):
    """A file that cannot be read as a checkpoint; the message says why."""


def read_tensors(path: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """Reads all tensors of a checkpoint and the config beside them.

    Args:
        path: a file, a folder with `model.safetensors` (or its index) and
            `config.json`, or a file and a subtree of its names: `two_towers.npz:img`.

    Returns:
        Arrays by name, floating-point ones in float32 whatever the file has; and the
        config, {} if there is none, with `preprocessor_config.json` under that key.

    Raises:
        FileError: there is no such file, or it is none of the kinds above.
    """
    path, subtree = split_path(path)
    if path.is_dir():
        tensors, config = read_folder(path)
    else:
        tensors, config = read_file(path)
        if path.name in FOLDER_FILES:
            config = config | read_configs(path.parent)
    if subtree:
        tensors = select(tensors, subtree, path)
    if not tensors:
        raise FileError(f"{path} holds no tensors")
    return {name: as_float32(tensor) for name, tensor in tensors.items()}, config


def split_path(path: str | Path) -> tuple[Path, str]:
    """Splits `file.npz:img` into the file and the subtree of its names."""
    before, _, subtree = str(path).rpartition(":")
    if Path(path).exists():
        return Path(path), ""
    if before and Path(before).exists():
        return Path(before), subtree
    raise FileError(f"there is no file or folder {path}")


def select(tensors: Tensors, subtree: str, path: Path) -> Tensors:
    """The tensors below a name such as `img`, itself below `params` perhaps."""
    for prefix in (f"{subtree}/", f"params/{subtree}/", f"{subtree}."):
        found = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if found:
            return found
    names = sorted({name.removeprefix("params/").split("/")[0] for name in tensors})
    raise FileError(
        f"{path} has no tensors below {subtree!r}: wanted one of {', '.join(names[:8])}"
    )


def read_file(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Reads one file, by its suffix, after a look at how it begins."""
    if path.suffix not in SUFFIXES:
        raise FileError(
            f"{path} is no checkpoint: wanted {', '.join(SUFFIXES)}, or a folder with "
            "model.safetensors"
        )
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise FileError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` "
            "where it was cloned, or download it from the web page"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise FileError(
            f"{path} is a web page, not a checkpoint: the download link led to a page "
            "about the file; take the link to its raw content"
        )
    if not start:
        raise FileError(f"{path} is empty: download or copy it again")
    if path.suffix == ".npz":
        return read_npz(path), {}
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_torch(path), {}


def read_npz(path: Path) -> Tensors:
    """Reads a numpy archive; arrays of Python objects are refused."""
    try:
        # numpy leaves a file that it opened itself open when it is damaged.
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start.startswith(b"\x80"):
                raise pickled(path)
            if start != b"PK":
                raise zipfile.BadZipFile("it does not begin as an archive")
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise broken(path, error) from error
    except ValueError as error:
        if "Object arrays" in str(error):
            raise pickled(path) from error
        raise broken(path, error) from error


def pickled(path: Path) -> FileError:
    return FileError(
        f"{path} holds pickled Python objects, which can run any code and are never "
        "loaded: save arrays with numpy.savez(path, **arrays)"
    )


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Maps a safetensors file, and reads the config in its metadata if there is one.

    Of the tensors, which are views of the file, what is not looked at is not read.
    """
    try:
        # Checks the header, and that the file has all that it tells of.
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            first, last = (start + offset for offset in entry["data_offsets"])
            dtype = SAFETENSORS_TYPES[entry["dtype"]]
            tensors[name] = content[first:last].view(dtype).reshape(entry["shape"])
        return tensors, json.loads(metadata.get("config", "{}"))
    except KeyError as error:
        raise broken(path, f"tensors of type {error}") from error
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise broken(path, error) from error


def read_torch(path: Path) -> Tensors:
    """Reads a torch state dict by torch's weights-only loader."""
    if importlib.util.find_spec("torch") is None:
        raise FileError(
            f"{path} is a torch file, and torch is not installed: pip install torch, "
            "or convert it to .safetensors where it is"
        )
    import torch

    # Options of the training script, which many files hold beside the weights.
    options = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with options:
            content = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),  # files of old torch cannot be mapped
            )
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} holds Python objects beside tensors, which can run any code and "
            "are never loaded: save the state dict alone, as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise broken(path, error) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {
        name: tensor
        for name, tensor in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(tensor, torch.Tensor)
    }
    if not tensors:
        raise FileError(f"{path} holds no state dict: wanted tensors by name")
    halves = (torch.bfloat16, torch.float16)
    return {
        name: (tensor.float() if tensor.dtype in halves else tensor).numpy()
        for name, tensor in tensors.items()
    }


def read_folder(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Reads the weights and the configs of a folder as hubs have it."""
    there = [name for name in FOLDER_FILES if (folder / name).exists()]
    if not there:
        others = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
        if len(others) != 1:
            raise FileError(
                f"{folder} holds no checkpoint: wanted model.safetensors in it, "
                + ("or the path of one of its files" if others else "or another folder")
            )
        there = [others[0].name]
    path = folder / there[0]
    if path.suffix != ".json":
        tensors, config = read_file(path)
        return tensors, config | read_configs(folder)
    shards = sorted(set(read_json(path)["weight_map"].values()))
    tensors = {}
    for shard in shards:
        # A name with a way out of the folder is not one that a hub writes.
        if Path(shard).name != shard or not (folder / shard).exists():
            raise FileError(f"{path} names {shard}, which is not in {folder}")
        tensors |= read_file(folder / shard)[0]
    return tensors, read_configs(folder)


def read_configs(folder: Path) -> dict[str, Any]:
    """config.json, and preprocessor_config.json as a key of it."""
    config = {}
    if (folder / "config.json").exists():
        config |= read_json(folder / "config.json")
    if (path := folder / "preprocessor_config.json").exists():
        config["preprocessor_config"] = read_json(path)
    return config


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise FileError(f"{path} is not readable as JSON: {error}") from error
    if isinstance(content, dict):
        return content
    raise FileError(f"{path} holds a {type(content).__name__}: wanted an object")


def as_float32(tensor: np.ndarray) -> np.ndarray:
    """Half-precision and double numbers as float32; others as they are."""
    if tensor.dtype.kind == "V" and tensor.dtype.itemsize == 2:
        # numpy has no bfloat16 and writes it as two bytes without a type.
        tensor = tensor.view(ml_dtypes.bfloat16)
    if tensor.dtype == ml_dtypes.bfloat16 or tensor.dtype.kind == "f":
        return tensor.astype(np.float32, copy=False)
    return tensor


def broken(path: Path, error: Exception | str) -> FileError:
    reason = (str(error).strip() or "no data").splitlines()[0]
    return FileError(
        f"{path} is damaged or cut short ({reason}): download or copy it again"
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives another path to write to; it takes the place of `path` once it is whole."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(path: Path, tensors: Tensors) -> None:
    """Writes a numpy archive; the old file stays until the new one is whole."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **tensors)


def write_safetensors(path: Path, tensors: Tensors, config: dict[str, Any]) -> None:
    """Writes a safetensors file, whole or not at all, with a config in its metadata."""
    # `format` is what transformers asks for before it reads a file.
    metadata = {"format": "pt"} | ({"config": json.dumps(config)} if config else {})
    with replacing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary, metadata)


def write_folder(folder: Path, tensors: Tensors, config: dict[str, Any]) -> None:
    """Writes model.safetensors, config.json and preprocessor_config.json, each whole.

    The weights come last: a folder without them is seen to be unfinished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(config)
    preprocessor = config.pop("preprocessor_config", None)
    for name, content in (("config", config), ("preprocessor_config", preprocessor)):
        if content:
            text = json.dumps(content, indent=2, ensure_ascii=False)
            with replacing(folder / f"{name}.json") as temporary:
                temporary.write_text(text + "\n")
    write_safetensors(folder / "model.safetensors", tensors, {})
