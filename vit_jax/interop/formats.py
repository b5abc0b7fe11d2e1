"""Files that hold tensors by name: .npz and .safetensors; torch's are in `torch_file`.

Nothing is ever unpickled here: arrays of objects are refused.
"""

import io
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from vit_jax.storage import json_files
from vit_jax.storage.archives import DAMAGES, SHOWN, check_archive
from vit_jax.storage.foreign import open_regular
from vit_jax.storage.output import printable

Tensors = dict[str, np.ndarray]
SAFETENSORS_TYPES = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(bool),
}


# What NumPy raises for the header of a damaged array, beside these.
HEADERS = (TypeError, SyntaxError, KeyError, IndexError, tokenize.TokenError)


class FileError(ValueError):
    """A file that cannot be read as a checkpoint; the message says why."""


def read_json(path: Path, kind: Any) -> Any:
    """`storage.json_files.read_json` whose errors are those of a checkpoint.

    Raises:
        FileError: the file cannot be read, is no JSON, or of another kind.
    """
    try:
        return json_files.read_json(path, kind)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FileError(str(error)) from error


def read_npz(path: Path) -> Tensors:
    """Reads a numpy archive; arrays of Python objects are refused."""
    try:
        # numpy leaves a file that it opened itself open when it is damaged.
        with io.BufferedReader(open_regular(path)) as file:
            start = file.read(2)
            file.seek(0)
            if start.startswith(b"\x80"):
                raise pickled(path)
            if start != b"PK":
                raise zipfile.BadZipFile("it does not begin as an archive")
            with zipfile.ZipFile(file) as archive:
                check_expansion(archive, path)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                tensors = {name: archive[name] for name in archive.files}
            # NumPy gives the bytes of what does not begin as an array.
            for name, tensor in tensors.items():
                if not isinstance(tensor, np.ndarray):
                    raise ValueError(f"{name} is no array")
            return tensors
    except FileError:
        raise
    except (*DAMAGES, *HEADERS) as error:
        if "Object arrays" in str(error):
            raise pickled(path) from error
        raise broken(path, error) from error


def check_expansion(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises FileError for a small archive that becomes gigabytes."""
    try:
        check_archive(archive, path)
    except ValueError as error:
        raise FileError(str(error)) from error


def pickled(path: Path) -> FileError:
    return FileError(
        f"{path} holds pickled Python objects, which can run any code and are never "
        "loaded: save arrays with numpy.savez(path, **arrays)"
    )


def read_safetensors(path: Path) -> tuple[Tensors, str]:
    """Maps a safetensors file: the tensors are views of it, of which few are read.

    Returns:
        The tensors, and the JSON text of the config in the metadata, "{}" without one.
    """
    try:
        # Checks the header, and that the file has all tensors in it.
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json_files.parse(content[8:start].tobytes(), dict[str, Any], path)
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            first, last = (start + offset for offset in entry["data_offsets"])
            dtype = SAFETENSORS_TYPES[entry["dtype"]]
            tensors[name] = content[first:last].view(dtype).reshape(entry["shape"])
        return tensors, metadata.get("config", "{}")
    except KeyError as error:
        raise FileError(
            f"{path} has tensors of type {error}, wanted one of "
            f"{', '.join(SAFETENSORS_TYPES)}: convert it where it was made"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise broken(path, error) from error


def broken(path: Path, error: Exception) -> FileError:
    reason = printable(" ".join(str(error).split())[:SHOWN]) or "no data"
    return FileError(
        f"{path} is damaged or cut short ({reason}): download or copy it again"
    )
