"""PyTorch's files (.pth, .pt, .bin, .ckpt) read without PyTorch, and nothing executed.

Such a file is a zip archive: a pickle, and the numbers of each storage as an entry of
its own. Of the names in the pickle only those that make tensors and plain containers
are known here; every other class or function, such as the options of a training script,
becomes an `Inert` object. Files from before torch 1.6 are left to torch's own loader.
"""

import importlib.util
import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax.interop.formats import FileError, broken, check_expansion
from vit_jax.storage.archives import DAMAGES

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
DAMAGED = (pickle.UnpicklingError, *DAMAGES)
# What the steps of a damaged or hostile pickle can raise on our own objects.
MISUSED = (TypeError, AssertionError)


class Inert:
    """Stands for an object of any class: takes all that it is given, keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    add = append


class TensorUnpickler(pickle._Unpickler):
    """Makes NumPy arrays of a file's tensors; finds no class but those named here.

    It is pickle's form in Python: that in C fills gigabytes with zeros for a number in
    a file of a kilobyte, the place of an object in its memory.
    """

    def __init__(self, archive: zipfile.ZipFile, pickle_name: str, path: Path) -> None:
        super().__init__(archive.open(pickle_name), encoding="latin1")
        self.archive, self.path = archive, path
        self.folder = pickle_name.removesuffix("data.pkl")
        self.content = np.asarray(np.memmap(path, np.uint8, "r"))
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        known = {
            "collections.OrderedDict": OrderedDict,
            "collections.defaultdict": EmptyDict,
            "torch._utils._rebuild_tensor": Rebuild(),
            "torch._utils._rebuild_tensor_v2": Rebuild(),
            "torch._utils._rebuild_parameter": First(),
            "torch._utils._rebuild_parameter_with_state": First(),
            "torch._tensor._rebuild_from_type_v2": Typed(),
        }
        if module_name in ("torch", "torch.storage") and global_name in STORAGES:
            return np.dtype(STORAGES[global_name])
        return known.get(name, Inert)

    def persistent_load(self, pid: Any) -> Any:
        """The numbers of a storage: ("storage", type, key, device, count)."""
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            return Inert()
        if key not in self.storages:
            self.storages[key] = self.entry(f"{self.folder}data/{key}").view(dtype)
        return self.storages[key]

    def entry(self, name: str) -> np.ndarray:
        """The bytes of an entry, mapped unless they are compressed."""
        info = self.archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self.archive.read(name), np.uint8)
        header = self.content[info.header_offset :][:30]
        # The lengths of the name and of the padding stand in the local header only.
        lengths = header[26:30].view("<u2")
        start = info.header_offset + 30 + int(lengths.sum())
        if start + info.file_size > len(self.content):
            raise EOFError(f"{name} ends behind the file")
        data = self.content[start : start + info.file_size]
        # torch can be told to write no checksums, which are 0 then.
        if info.CRC and zlib.crc32(data.data) != info.CRC:
            raise zipfile.BadZipFile(f"the checksum of {name} is wrong")
        return data


class EmptyDict(dict[Any, Any]):
    """A `defaultdict` without its function."""

    def __new__(cls, *_: Any) -> "EmptyDict":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        super().__init__()


class Rebuild:
    """Called by a pickle for a tensor: a view of its storage, checked to be inside."""

    __slots__ = ()

    def __call__(
        self, storage: Any, offset: int, size: Any, stride: Any, *_: Any
    ) -> Any:
        if not isinstance(storage, np.ndarray):
            return Inert()
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        steps = zip(size, stride, strict=True)
        last = offset + sum((n - 1) * step for n, step in steps)
        if min(offset, *size, *stride, 0) < 0:
            raise ValueError("a tensor has negative sizes")
        if 0 not in size and last >= len(storage):
            raise EOFError("a tensor ends behind its storage")
        strides = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(
            storage[offset:], size, strides, writeable=False
        )


class First:
    """Called for a `Parameter`: the tensor in it."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


class Typed:
    """Called for a tensor of a subclass: the plain tensor."""

    __slots__ = ()

    def __call__(self, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        del kind, state
        return function(*arguments)


def read_pickle(path: Path) -> Any:
    """The content of a torch file: containers, NumPy arrays, and inert objects.

    Raises:
        FileError: the file is damaged, or of an old format and torch is not installed.
    """
    if not zipfile.is_zipfile(path):
        return read_old(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_expansion(archive, path)
            names = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
            if len(names) != 1:
                raise ValueError("a zip archive without data.pkl")
            return TensorUnpickler(archive, names[0], path).load()
    except FileError:
        raise
    except (*DAMAGED, *MISUSED) as error:
        raise broken(path, error) from error


def read_old(path: Path) -> Any:
    """As `read_pickle`, of a file that is no archive, by torch's own loader."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise broken(path, EOFError("the end of the archive is missing"))
    if importlib.util.find_spec("torch") is None:
        raise FileError(
            f"{path} has the format of torch before 1.6, or is no torch file, and "
            "torch is not installed: pip install torch, or save it anew where it is"
        )
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} has the format of torch before 1.6 and holds Python objects, "
            "which can run any code and are never loaded: save the state dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise broken(path, error) from error
    return as_arrays(content)


def as_arrays(content: Any) -> Any:
    """A tree of torch tensors as one of NumPy arrays, halves in float32."""
    import torch

    if isinstance(content, torch.Tensor):
        content = content.detach()
        half = content.dtype in (torch.bfloat16, torch.float16)
        return (content.float() if half else content).numpy()
    if isinstance(content, dict):
        return {name: as_arrays(value) for name, value in content.items()}
    return content
