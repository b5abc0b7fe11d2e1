"""Files of weights that are cut or have other bits: read as they are, or refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_archive
from golden_files import config_of, original

from vit_jax.interop import files, load_checkpoint
from vit_jax.interop.files import FileError

TRIES = 300
ARRAYS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(4, 6),
    "b": np.float16([1.5, -2]),
    "step": np.array(3, np.int64),
}


def write(path: Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, **ARRAYS)
    elif path.suffix == ".safetensors":
        files.write_safetensors(path, ARRAYS, {"id2label": {"0": "cat"}})
    else:
        content: dict[str, Any] = {"state_dict": ARRAYS, "epoch": 3, "args": {"a": 1}}
        torch_archive.write_archive(path, content)


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.pth"])
@pytest.mark.parametrize("kind", ["cut", "bits", "bytes"])
def test_no_damage_ends_in_another_error(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    write(path)
    whole, rng = path.read_bytes(), np.random.default_rng(len(name) * len(kind))
    refused = 0
    for _ in range(TRIES):
        content = bytearray(whole)
        place = int(rng.integers(len(whole)))
        if kind == "cut":
            del content[place:]
        elif kind == "bits":
            content[place] ^= 1 << int(rng.integers(8))
        else:
            for other in rng.integers(len(whole), size=4):
                content[other] = int(rng.integers(256))
        path.write_bytes(content)
        try:
            files.read_tensors(path)
        except FileError as error:
            assert str(path) in str(error) and "\n" not in str(error), error
            refused += 1
    assert refused > TRIES // 10


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("timm_token", "patch_embed.proj.weight"),
        ("timm_mixer", "blocks.0.mlp_tokens.fc1.weight"),
        ("torchvision_vit", "conv_proj.weight"),
    ],
)
def test_a_matrix_that_lost_its_shape(tmp_path: Path, name: str, tensor: str) -> None:
    tensors = original(name)
    tensors[tensor] = tensors[tensor].reshape(-1)
    files.write_folder(tmp_path, tensors, config_of(name))
    with pytest.raises(ValueError, match="finds no architecture in .*missing or missh"):
        load_checkpoint(tmp_path)


def test_a_small_archive_of_gigabytes_is_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w") as file:
            for _ in range(300):
                file.write(bytes(2**20))
    with pytest.raises(FileError, match="unpacks from 0.3 MiB to 300 MiB"):
        files.read_tensors(path)
