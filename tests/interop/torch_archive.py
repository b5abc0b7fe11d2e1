"""Torch's files written by hand, where no torch is installed."""

import contextlib
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


@contextlib.contextmanager
def torch_modules() -> Iterator[None]:
    """Has modules of torch's names, as long as a pickle is written."""
    missing = [n for n in ("torch", "torch._utils") if n not in sys.modules]
    sys.modules.update({name: types.ModuleType(name) for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def stand_in(module: str, name: str) -> Callable[..., None]:
    """A function that a pickle names as `module.name`."""
    known = sys.modules[module]
    if not hasattr(known, name):

        def function(*_: Any) -> None:
            raise AssertionError(f"{module}.{name} was called")

        function.__module__, function.__qualname__ = module, name
        function.__name__ = name
        setattr(known, name, function)
    return getattr(known, name)


class Storage:
    def __init__(self, values: np.ndarray, key: str) -> None:
        self.values, self.key = values, key


class Call:
    """An object that is pickled as a call of `module.name`."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def __reduce__(self) -> Any:
        return stand_in(self.module, self.name), self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        kind = stand_in("torch", STORAGES[obj.values.dtype.name])
        return ("storage", kind, obj.key, "cpu", obj.values.size)


def write_archive(
    path: Path, content: Any, *, parameters: bool = False, protocol: int = 2
) -> None:
    """Writes nested dicts as torch does, arrays as its tensors or `Parameter`s."""
    storages: list[Storage] = []

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensors(inner) for name, inner in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        base = value if value.base is None else value.base
        found = [storage for storage in storages if storage.values is base]
        storage = found[0] if found else Storage(base, str(len(storages)))
        storages.extend([storage] * (not found))
        item = base.itemsize
        start = value.__array_interface__["data"][0]
        offset = (start - base.__array_interface__["data"][0]) // item
        strides = tuple(step // item for step in value.strides)
        facts = (storage, offset, value.shape, strides, False, {})
        tensor = Call("torch._utils", "_rebuild_tensor_v2", *facts)
        if parameters:
            return Call("torch._utils", "_rebuild_parameter", tensor, True, {})
        return tensor

    content = tensors(content)
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as file:
            with torch_modules():
                Pickler(file, protocol).dump(content)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
