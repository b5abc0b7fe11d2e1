"""JSON files of other projects, checked field by field when they are read.

A field has a kind, beside the reader of the layout: what fits it, and what an error
says was wanted. Fields that nothing reads have none.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vit_jax.interop.formats import FileError
from vit_jax.storage.output import printable

SHOWN = 60  # characters of a value in an error


class Misfit(ValueError):
    """A value that is not of its kind; the message begins with its key."""


# Raises Misfit; takes the value and its key.
Kind = Callable[[Any, str], None]


def kind(wanted: str, fits: Callable[[Any], bool]) -> Kind:
    """A kind by what fits it; errors say what is wanted."""

    def check(value: Any, key: str) -> None:
        if not fits(value):
            text = printable(json.dumps(value, default=repr))
            shown = text if len(text) <= SHOWN else text[:SHOWN] + " ..."
            raise Misfit(f"{key} is {shown}: wanted {wanted}")

    return check


def choice(*names: str) -> Kind:
    return kind(f"one of {', '.join(names)}", lambda x: x in names)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    # A whole number of any length fits no float.
    return isinstance(value, float) or (is_whole(value) and abs(value) < 2**63)


def whole(least: int, most: int) -> Kind:
    return kind(
        f"a whole number from {least} to {most}",
        lambda x: is_whole(x) and least <= x <= most,
    )


def fits_number(value: Any, least: float, most: float, above: bool) -> bool:
    """Whether a value is a number in a range, which NaN never is."""
    inside = is_number(value) and math.isfinite(value) and least <= value <= most
    return inside and not (above and value == least)


def number(least: float, most: float, *, above: bool = False) -> Kind:
    """A number in a range; `above` leaves its lower end out."""
    start = f"above {least:g}" if above else f"from {least:g}"
    return kind(
        f"a number {start} to {most:g}", lambda x: fits_number(x, least, most, above)
    )


def three(least: float, most: float, *, above: bool = False) -> Kind:
    """A number for each of red, green and blue."""
    start = f"above {least:g}" if above else f"from {least:g}"

    def fits(value: Any) -> bool:
        right = isinstance(value, list) and len(value) == 3
        return right and all(fits_number(x, least, most, above) for x in value)

    return kind(f"three numbers {start} to {most:g}", fits)


def wholes(counts: tuple[int, ...], most: int) -> Kind:
    """A list of so many whole numbers."""

    def fits(value: Any) -> bool:
        right = isinstance(value, list) and len(value) in counts
        return right and all(is_whole(x) and 1 <= x <= most for x in value)

    lengths = " or ".join(map(str, counts))
    return kind(f"{lengths} whole numbers from 1 to {most}", fits)


TEXT = kind("text", lambda x: isinstance(x, str))
TEXTS = kind(
    "a list of texts",
    lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
)
FLAG = kind("true or false", lambda x: isinstance(x, bool))
SIDE = whole(1, 2**14)  # of an image, in pixels


NUMBERED = kind(
    'an object by numbers, as {"0": "cat"}',
    lambda x: isinstance(x, dict) and all(key.isdecimal() for key in x),
)


def NAMES(value: Any, key: str) -> None:
    """The kind of names by their numbers, as `{"0": "cat"}`."""
    NUMBERED(value, key)
    for number, name in value.items():
        TEXT(name, f"{key}.{number}")


def either(*kinds: Kind) -> Kind:
    """A value of any of some kinds; an error tells what all of them want."""

    def check(value: Any, key: str) -> None:
        misfits = []
        for one in kinds:
            try:
                return one(value, key)
            except Misfit as error:
                misfits.append(str(error).partition(": wanted "))
        # Of all kinds, the one that got deepest into the value says what it is.
        texts = [text for text, _, _ in misfits]
        found = max(texts, key=lambda text: len(text.partition(" is ")[0]))
        raise Misfit(f"{found}: wanted {' or '.join(want for _, _, want in misfits)}")

    return check


NULL = kind("null", lambda x: x is None)


def entries(kinds: Mapping[str, Kind], needed: tuple[str, ...] = ()) -> Kind:
    """An object whose fields have these kinds, as far as it has them.

    Args:
        needed: fields that it must have.
    """
    is_object = kind("an object", lambda x: isinstance(x, dict))

    def check(value: Any, key: str) -> None:
        is_object(value, key)
        for name in needed:
            if name not in value:
                raise Misfit(f"{name} is missing in {key}")
        for name, one in kinds.items():
            if name in value:
                one(value[name], name if key == CONTENT else f"{key}.{name}")

    return check


CONTENT = "the content"


def read_json(path: Path, wanted: Kind) -> dict[str, Any]:
    """The content of a file, which is an object.

    Raises:
        FileError: it is no JSON, or a field is not of its kind.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not readable as JSON: {error}") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    return checked(content, wanted, path)


def checked(content: Any, wanted: Kind, path: Path) -> dict[str, Any]:
    """The content itself.

    Raises:
        FileError: a field is not of its kind.
    """
    try:
        wanted(content, CONTENT)
    except Misfit as error:
        raise FileError(f"{path}: {error}") from error
    return content
