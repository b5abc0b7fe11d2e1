"""Files of weights whose headers claim what is not there, bombs, pickles with code."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attack.outcomes import Attack
from attack.weights import REFUSED, SAME, TOLD, attack


def with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Changes the header of a .safetensors."""

    def do(path: Path) -> None:
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        changed = change(header)
        text = json.dumps(header if changed is None else changed).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])

    return do


def entry(**changes: Any) -> Callable[[Path], None]:
    """Changes the header's entry of the first tensor."""

    def change(header: dict[str, Any]) -> None:
        name = next(name for name in header if name != "__metadata__")
        header[name] |= changes

    return with_header(change)


def npy(header: str, data: bytes = bytes(64)) -> bytes:
    """An .npy with any header."""
    text = header.encode("latin1") + b" " * (118 - len(header) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members:
                file.writestr(name, data)

    return do


class Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place / "ran"),)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(path.parent)))


def archive_of(make: Callable[[Path], bytes]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        zipped(("x/data.pkl", make(path)), ("x/version", b"3\n"))(path)

    return do


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("a.npy", "x/data.pkl"):
            with archive.open(member, "w") as file:
                for _ in range(300):
                    file.write(bytes(1 << 20))


def headers() -> Iterator[Attack]:
    """Claims that are not true, bombs, and pickles with code."""
    safe: dict[str, Callable[[Path], object]] = {
        "a header of 2^63 bytes": lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f{}"),
        "a header of 1 GB": lambda p: p.write_bytes(struct.pack("<Q", 1 << 30) + b"{}"),
        "a huge shape": entry(shape=[2**40, 2**20]),
        "a shape beyond 64 bits": entry(shape=[2**40, 2**40]),
        "a negative shape": entry(shape=[-1, -16]),
        "a shape of floats": entry(shape=[1.5]),
        "a shape of text": entry(shape="12"),
        "offsets below 0": entry(data_offsets=[-8, 8]),
        "offsets beyond the end": entry(data_offsets=[0, 1 << 50]),
        "offsets backwards": entry(data_offsets=[8, 0]),
        "no offsets": entry(data_offsets=None),
        "an unknown type": entry(dtype="F7"),
        "a type that is none": entry(dtype=None),
        "complex": entry(dtype="C64"),
        "a list": with_header(lambda _: [1, 2]),
        "metadata that are no texts": with_header(
            lambda x: x.update(__metadata__={"config": {"a": 1}})
        ),
        "metadata that are no table": with_header(lambda x: x.update(__metadata__=[1])),
        "a config nested deeply": with_header(
            lambda x: x.update(__metadata__={"config": "[" * 99_999})
        ),
    }
    for what, do in safe.items():
        good = (REFUSED, TOLD, SAME) if "config" in what else (REFUSED,)
        yield attack("weights, headers", "w.safetensors", what, do, *good)
    shapes = (
        "(1099511627776, 1048576)",
        "(-1,)",
        "(1.5,)",
        "'x'",
        "(True,)",
        "(10**9,)",
    )
    for shape in shapes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
        yield attack(
            "weights, headers", "w.npz", f"shape {shape}", zipped(("a.npy", npy(text)))
        )
    for descr in (
        "'|O'",
        "'<c8'",
        "'<U99999999'",
        "[('a', '<f4')]",
        "'<M8[s]'",
        "None",
        "'V8'",
    ):
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2,)}}"
        yield attack(
            "weights, headers", "w.npz", f"type {descr}", zipped(("a.npy", npy(text)))
        )
    for name in ("w.npz", "w.pth"):
        many = [(f"{i}.npy", b"") for i in range(20_000)]
        yield attack("weights, headers", name, "20,000 empty members", zipped(*many))
        yield attack("weights, headers", name, "no members", zipped())
        yield attack(
            "weights, headers", name, "members outside", zipped(("../../ran", b""))
        )
        yield attack("weights, headers", name, "a bomb of 600 MB", bomb)
    yield attack(
        "weights, headers", "w.npz", "a pickle", zipped(("a.npy", b"\x80\x04N."))
    )
    for what, do in {
        "a pickle with code": pickled,
        "an archive with code": archive_of(lambda p: pickle.dumps(Runs(p.parent))),
        "an archive with a cut pickle": archive_of(lambda _: pickle.dumps([1, 2])[:-1]),
        "an archive with a number": archive_of(lambda _: pickle.dumps(12)),
        "an archive nested deeply": archive_of(lambda _: b"(" * 99_999 + b"."),
        "a pickle of 4 GB in an opcode": archive_of(
            lambda _: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 32) + b"x."
        ),
        "a memo of 2^31": archive_of(lambda _: b"\x80\x04Nr\xff\xff\xff\x7f."),
        "a number of many digits": archive_of(lambda _: b"I" + b"9" * 99_999 + b"\n."),
    }.items():
        yield attack("weights, headers", "w.pth", what, do)
