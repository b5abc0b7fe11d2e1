"""The shape of what is read from JSON, declared as types and checked before it is used.

A shape is a `TypedDict`, whose further keys are of no interest, or made of `dict`,
`list`, unions and the types of JSON.
"""

import json
import types
import typing
from pathlib import Path
from typing import Any, Union

from vit_jax.storage.paths import medium

WORDS = {
    bool: "true or false",
    dict: "a table of names and values",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a text",
    type(None): "null",
}
SHOWN = 40  # characters of a wrong value


def read_json(path: Path, shape: Any) -> Any:
    """Reads a JSON file of a declared shape, on a disk or in a bucket.

    Raises:
        ValueError: it is no JSON, or of another shape; one sentence that names it.
        OSError: it is not there, or cannot be read.
    """
    try:
        value = parse(medium(path).read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
    if problem := mismatch(value, shape):
        raise ValueError(f"{path} is damaged, or no such file of a run: {problem}")
    return value


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def mismatch(value: Any, shape: Any, name: str = "") -> str:
    """What is not of the declared shape, such as `seconds is 'x': wanted a number`.

    Args:
        name: dotted path of the value.

    Returns:
        "" if all is as declared.
    """
    if shape is Any:
        return ""
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    if origin in (Union, types.UnionType):
        problems = [mismatch(value, part, name) for part in parts]
        return "" if "" in problems else wrong(value, shape, name)
    if typing.is_typeddict(shape):
        if not isinstance(value, dict):
            return wrong(value, dict, name)
        return first_problem(value, typing.get_type_hints(shape), shape, name)
    kind = origin or shape
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return ""  # JSON has 1 for 1.0.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return wrong(value, kind, name)
    inner = {}
    if isinstance(value, dict) and parts:
        inner = {f"{name}.{key}".lstrip("."): part for key, part in value.items()}
    elif isinstance(value, list) and parts:
        inner = {f"{name}[{i}]": part for i, part in enumerate(value)}
    problems = (mismatch(part, parts[-1], place) for place, part in inner.items())
    return next(filter(None, problems), "")


def first_problem(
    value: dict[str, Any], shapes: dict[str, Any], declared: Any, name: str
) -> str:
    """The first of the declared keys that is missing or of another shape."""
    for key, shape in shapes.items():
        place = f"{name}.{key}".lstrip(".")
        if key not in value:
            if key in declared.__required_keys__:
                return f"{place} is missing"
        elif problem := mismatch(value[key], shape, place):
            return problem
    return ""


def wrong(value: Any, shape: Any, name: str) -> str:
    """The sentence about a value of another shape."""
    kinds = typing.get_args(shape) or (shape,)
    wanted = " or ".join(
        WORDS[dict if typing.is_typeddict(kind) else typing.get_origin(kind) or kind]
        for kind in kinds
    )
    text = repr(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"{name or 'it'} is {text}: wanted {wanted}"
