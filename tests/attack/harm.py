"""What is done to a file: cut, flipped, replaced by other JSON or by no file at all."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

OTHERS = (
    *("null", "[]", "{}", "12", '"text"', "[" * 99_999, "NaN", '{"files": {}}'),
    *('{"a": {"b": [1]}}', "\ufeff{}", '{"a": 1, "a": 2}'),
)


class Damage(NamedTuple):
    """What is done to a file; `seed` decides about places."""

    name: str
    do: Callable[[Path, random.Random], None]


def cut(share: float) -> Callable[[Path, random.Random], None]:
    def do(path: Path, _: random.Random) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return do


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zeros(path: Path, _: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def append(path: Path, _: random.Random) -> None:
    with path.open("ab") as file:
        file.write(b"\n12\n")


def other(text: str) -> Callable[[Path, random.Random], None]:
    return lambda path, _: path.write_text(text) and None


def instead(make: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    """Something that is no file in its place."""

    def do(path: Path, _: random.Random) -> None:
        path.unlink()
        make(path)

    return do


DAMAGES = (
    Damage("emptied", cut(0)),
    Damage("cut to a third", cut(0.3)),
    Damage("without its last bytes", cut(0.97)),
    Damage("a flipped bit", flip),
    Damage("another flipped bit", flip),
    Damage("zeros", zeros),
    Damage("longer", append),
    *(Damage(f"{text[:20]} in its place", other(text)) for text in OTHERS),
    Damage("missing", instead(lambda _: None)),
    Damage("a folder in its place", instead(os.mkdir)),
    Damage("a FIFO in its place", instead(os.mkfifo)),
    Damage("a link to /dev/zero", instead(lambda path: path.symlink_to("/dev/zero"))),
    Damage("a link to itself", instead(lambda path: path.symlink_to(path))),
    Damage("a link to nowhere", instead(lambda path: path.symlink_to("/nowhere/x"))),
)
