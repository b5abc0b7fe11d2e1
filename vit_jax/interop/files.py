"""Checkpoint files and folders of other projects, read and written."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

import ml_dtypes
import numpy as np
import safetensors.numpy

from vit_jax.interop import adapters, huggingface_config, timm_config
from vit_jax.interop.formats import (
    FileError,
    Tensors,
    read_json,
    read_npz,
    read_safetensors,
)
from vit_jax.interop.state_dicts import find_state_dict, select, without_prefix
from vit_jax.interop.torch_file import read_pickle
from vit_jax.storage import output
from vit_jax.storage.foreign import open_regular
from vit_jax.storage.json_files import parse
from vit_jax.values import Condition

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
SUFFIXES = (".npz", ".safetensors", *TORCH_SUFFIXES)
# The names that hubs give, in the order of preference.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDICES = tuple(name for name in FOLDER_FILES if name.endswith(".index.json"))


class Index(TypedDict):
    """The files that hold a model's tensors together."""

    weight_map: Annotated[
        dict[str, str], Condition("names of files by those of tensors", bool)
    ]


class Fields(huggingface_config.Fields, timm_config.Fields, total=False):
    """config.json: it says itself whose it is, in fields that one project alone has.

    Both files are in the metadata of a file without a folder.
    """

    preprocessor_config: huggingface_config.Processor


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
    if adapters.is_adapter(path, FOLDER_FILES):
        tensors, config = adapters.merge(path, read_whole)
    else:
        tensors, config = read_whole(path, subtree)
    tensors = without_prefix(tensors, path)
    if not tensors:
        raise FileError(f"{path} holds no tensors")
    return tensors, config


def read_whole(path: Path, subtree: str = "") -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a file or folder, by the names in it, and its config."""
    if path.is_dir():
        tensors, config = read_folder(path)
    elif path.name in INDICES:
        tensors, config = read_shards(path), read_configs(path.parent)
    else:
        tensors, config = read_file(path, subtree)
        if path.name in FOLDER_FILES:
            config = config | read_configs(path.parent)
    if subtree and not is_torch(path):
        tensors = select(tensors, subtree, path)
    return {name: as_float32(tensor) for name, tensor in tensors.items()}, config


def split_path(path: str | Path) -> tuple[Path, str]:
    """Splits `file.npz:img` into the file and the subtree of its names."""
    before, _, subtree = str(path).rpartition(":")
    # Unlike Path.exists, it does not raise for names that are too long.
    if os.path.exists(path):
        return Path(path), ""
    if before and os.path.exists(before):
        return Path(before), subtree
    raise FileError(f"there is no file or folder {path}")


def read_file(path: Path, part: str = "") -> tuple[Tensors, dict[str, Any]]:
    """Reads one file by its suffix, unless its first bytes show that it is none.

    Args:
        part: of a torch file, which may hold several state dicts.
    """
    if not path.name.endswith(SUFFIXES):
        raise FileError(
            f"{path} is no checkpoint: wanted {', '.join(SUFFIXES)}, or a folder with "
            "model.safetensors"
        )
    with open_regular(path) as file:
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
        tensors, config = read_safetensors(path)
        try:
            return tensors, parse(config, Fields, path)
        except ValueError as error:
            raise FileError(str(error)) from error
    return find_state_dict(read_pickle(path), part, path), {}


def is_torch(path: Path) -> bool:
    """Whether a path is a file of torch, whose parts `find_state_dict` chooses."""
    return path.is_file() and path.name.endswith(TORCH_SUFFIXES)


def read_folder(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Reads the weights and the configs of a folder in the form of hubs."""
    present = [name for name in FOLDER_FILES if (folder / name).exists()]
    if not present:
        others = [path for path in folder.iterdir() if path.name.endswith(SUFFIXES)]
        if len(others) != 1:
            raise FileError(
                f"{folder} holds no checkpoint: wanted model.safetensors in it, "
                + ("or the path of one of its files" if others else "or another folder")
            )
        present = [others[0].name]
    path = folder / present[0]
    if path.suffix != ".json":
        tensors, config = read_file(path)
        return tensors, config | read_configs(folder)
    return read_shards(path), read_configs(folder)


def read_shards(index: Path) -> Tensors:
    """The tensors of all files that an index names."""
    tensors: Tensors = {}
    for shard in shard_names(index):
        if not os.path.exists(index.parent / shard):
            raise FileError(f"{index} names {shard!r}, which is not in {index.parent}")
        tensors |= read_file(index.parent / shard)[0]
    return tensors


def shard_names(index: Path) -> list[str]:
    """The files that an index names, which are beside it.

    Raises:
        FileError: it is no index, or a name leads elsewhere, as no hub writes it.
    """
    names = sorted(set(read_json(index, Index)["weight_map"].values()))
    for name in names:
        if name in ("", "..") or Path(name).name != name:
            raise FileError(f"{index} names {name!r}, which is not a plain file")
    return names


def read_configs(folder: Path) -> dict[str, Any]:
    """config.json, and preprocessor_config.json as a key of it."""
    config = {}
    if (folder / "config.json").exists():
        config |= read_json(folder / "config.json", Fields)
    if (path := folder / "preprocessor_config.json").exists():
        config["preprocessor_config"] = read_json(path, huggingface_config.Processor)
    return config


def as_float32(tensor: np.ndarray) -> np.ndarray:
    """Half-precision and double numbers as float32; others as they are."""
    if tensor.dtype.kind == "V" and tensor.dtype.itemsize == 2:
        # numpy has no bfloat16 and writes it as two bytes without a type.
        tensor = tensor.view(ml_dtypes.bfloat16)
    if tensor.dtype == ml_dtypes.bfloat16 or tensor.dtype.kind == "f":
        return tensor.astype(np.float32, copy=False)
    return tensor


def write_npz(path: Path, tensors: Tensors) -> None:
    """Writes a numpy archive; the old file stays until the new one is whole."""
    with output.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **tensors)


def write_safetensors(path: Path, tensors: Tensors, config: dict[str, Any]) -> None:
    """Writes a safetensors file, whole or not at all, with a config in its metadata."""
    # `format` is what transformers asks for before it reads a file.
    metadata = {"format": "pt"} | ({"config": json.dumps(config)} if config else {})
    with output.replacing(path) as temporary:
        try:
            safetensors.numpy.save_file(tensors, temporary, metadata)
        except safetensors.SafetensorError as error:
            raise output.OutputError(f"{path} could not be written: {error}") from error


def write_folder(folder: Path, tensors: Tensors, config: dict[str, Any]) -> None:
    """Writes model.safetensors, config.json and preprocessor_config.json."""
    config = dict(config)
    preprocessor = config.pop("preprocessor_config", None)
    for name, content in (("config", config), ("preprocessor_config", preprocessor)):
        if content:
            text = json.dumps(content, indent=2, ensure_ascii=False)
            output.write(folder / f"{name}.json", text + "\n")
    write_safetensors(folder / "model.safetensors", tensors, {})
