"""What a value may be: a type with a range, a list of choices or another condition.

It is declared once, where the value is read, as the annotation of a parameter or field:
`momentum: Annotated[float, Range(0, 1, right_open=True)]`. NaN and infinity are no
number anywhere.
"""

import ast
import dataclasses
import math
import numbers
import re
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
NOUNS |= {type(None): "None"}


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, without an end that is open; `off`: 0 too."""

    least: float = -math.inf
    most: float = math.inf
    left_open: bool = False
    right_open: bool = False
    off: bool = False

    def holds(self, value: Any) -> bool:
        left = self.least < value if self.left_open else self.least <= value
        right = value < self.most if self.right_open else value <= self.most
        return (left and right) or (self.off and value == 0)

    def words(self, noun: str) -> str:
        least, most = f"{self.least:.10g}", f"{self.most:.10g}"
        if math.isinf(self.most):
            text = f"{noun} {'above' if self.left_open else 'of at least'} {least}"
        else:
            left, right = "[("[self.left_open], "])"[self.right_open]
            text = f"{noun} in {left}{least}, {most}{right}"
        return f"0 (off) or {text}" if self.off else text


@dataclasses.dataclass(frozen=True)
class Condition:
    """Values of which a test says that they will do; `text` says what is wanted."""

    text: str
    holds: Callable[[Any], bool]

    def words(self, noun: str) -> str:
        del noun
        return self.text


class Choice(Condition):
    """One of some texts."""

    def __init__(self, *names: str) -> None:
        super().__init__(f"one of {', '.join(filter(None, names))}", names.__contains__)


def is_pattern(text: str) -> bool:
    """Whether a text is a regular expression."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, right_open=True)]  # of dropout, of a moving average
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, left_open=True)]
Count = Annotated[int, Range(0)]
Size = Annotated[int, Range(1)]
Name = Annotated[str, Condition("a text that is not empty", bool)]
Pattern = Annotated[str, Condition("a regular expression", is_pattern)]
ImageSize = tuple[Size, Size]
Names = Annotated[tuple[Name, ...], Condition("one text or more", bool)]


def is_declared(kind: Any) -> bool:
    """Whether an annotation says what a value may be; `fits` knows no others."""
    if get_origin(kind) in (Union, UnionType):
        return all(map(is_declared, get_args(kind)))
    return get_origin(kind) in (Annotated, tuple) or kind in NOUNS


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared kind; whole numbers are numbers too."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        kind, *limits = arguments
        return fits(value, kind) and all(limit.holds(value) for limit in limits)
    if origin in (Union, UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is tuple:
        # Lists are what JSON makes of tuples.
        if not isinstance(value, tuple | list):
            return False
        kinds = element_kinds(kind, len(value))
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        is_number = isinstance(value, number) and not isinstance(value, bool)
        return is_number and (kind is int or math.isfinite(value))
    return isinstance(value, kind)


def element_kinds(kind: Any, count: int) -> tuple[Any, ...]:
    """The kinds of the elements of a tuple that has, or should have, so many."""
    first, *rest = get_args(kind)
    return (first,) * count if rest == [...] else (first, *rest)


def describe(kind: Any) -> str:
    """What values of a declared kind are, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        text = describe(arguments[0])
        for limit in arguments[1:]:
            text = limit.words(text)
        return text
    if origin in (Union, UnionType):
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        several = arguments[-1] is ...
        number = "" if several else f"{len(arguments)} "
        return f"{number}values, each {describe(arguments[0])}"
    return NOUNS[kind]


def problem(name: str, value: Any, kind: Any) -> str:
    """A sentence that says why a value of this name is not of its kind, or ""."""
    if fits(value, kind):
        return ""
    return f"{name} is {value!r}: wanted {describe(kind)}"


def check_fields(options: Any, section: str = "") -> None:
    """Raises ValueError if a field of a dataclass is not of the kind it is declared as.

    Args:
        section: the section of the config that the fields are keys of.
    """
    prefix = f"{section}." if section else ""
    for field in dataclasses.fields(options):
        if is_declared(field.type):
            value = getattr(options, field.name)
            if sentence := problem(f"{prefix}{field.name}", value, field.type):
                raise ValueError(sentence)


def read_text(text: str, kind: Any) -> Any:
    """A text of the command line as a value of a kind; a tuple is `a,b` or `(a, b)`.

    Raises:
        ValueError, SyntaxError, TypeError: it cannot be read as that.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return read_text(text, arguments[0])
    if origin in (Union, UnionType):
        return None if text == "None" else read_text(text, arguments[0])
    if origin is tuple:
        if text.startswith("("):
            return tuple(ast.literal_eval(text))
        parts = [part.strip() for part in text.split(",") if part.strip()]
        kinds = element_kinds(kind, len(parts))
        return tuple(map(read_text, parts, kinds))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
