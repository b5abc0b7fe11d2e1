"""What a value may be: a type with a range, a list of choices or another condition.

It is declared once, where the value is read, as the annotation of a parameter or field:
`momentum: Annotated[float, Range(0, 1, right_open=True)]`. What is read from JSON is
declared alike, objects as `TypedDict`s, whose further keys are of no interest. NaN and
infinity are numbers only where `Measured` says so. Numbers that are not whole are what
float32 holds of them, as on the devices: 1e-300 is 0, and 1e300 is infinite. Whole
numbers have at most 64 bits.
"""

import ast
import ctypes
import dataclasses
import itertools
import math
import numbers
import re
import reprlib
import typing
from collections.abc import Callable, Iterator
from types import UnionType
from typing import (
    Annotated,
    Any,
    NamedTuple,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
)

NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
NOUNS |= {type(None): "None"}
SHOWN = 60  # characters of a value, or of a key, in an error
SHORT = reprlib.Repr()
SHORT.maxstring = SHOWN
SMALLEST = 2.0**-126  # above 0 in float32, in which devices round smaller ones to 0
MISSING = object()  # stands for the value of a key that is not there


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, without an end that is open; `off`: 0 too.

    One that is not whole has to be within in float32, too.
    """

    least: float = -math.inf
    most: float = math.inf
    left_open: bool = False
    right_open: bool = False
    off: bool = False

    def holds(self, value: Any) -> bool:
        if isinstance(value, int):
            return self._has(value)
        return self._has(value) and self._has(single(value))

    def _has(self, value: float) -> bool:
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
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether it is a number, or NaN or infinity; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def single(value: Any) -> float:
    """A number as devices hold it in float32; infinite beyond its range, or 0."""
    try:
        rounded = ctypes.c_float(float(value)).value
    except OverflowError:  # a whole number that no float holds
        return math.inf
    return 0.0 if abs(rounded) < SMALLEST else rounded


Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, right_open=True)]  # of dropout, of a moving average
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, left_open=True)]
Measured = Annotated[Any, Condition("a number, NaN or infinity", is_number)]
Count = Annotated[int, Range(0)]
Size = Annotated[int, Range(1)]
Name = Annotated[str, Condition("a text that is not empty", bool)]
Pattern = Annotated[str, Condition("a regular expression", is_pattern)]
ImageSize = tuple[Size, Size]
Names = Annotated[tuple[Name, ...], Condition("one text or more", bool)]


def is_declared(kind: Any) -> bool:
    """Whether the annotation of a parameter says what a value may be."""
    if get_origin(kind) in (Union, UnionType):
        return all(map(is_declared, get_args(kind)))
    return get_origin(kind) in (Annotated, tuple) or kind in NOUNS


class Misfit(NamedTuple):
    """A value that is not of its kind, and the keys that lead to it."""

    path: tuple[str | int, ...]
    value: Any
    kind: Any


def problem(name: str, value: Any, kind: Any) -> str:
    """A sentence that says why a value is not of its kind, or "".

    It is about what is wrong within: `meter.sums.loss is 'x': wanted a number`.

    Args:
        name: of the value; "" for the content of a file.
    """
    misfit = find_misfit(value, kind)
    if misfit is None:
        return ""
    for key in misfit.path:
        is_word = isinstance(key, str) and key.isidentifier() and len(key) <= SHOWN
        name += f".{key}" if is_word else f"[{shown(key)}]"
    name = name.removeprefix(".") or "the content"
    if misfit.value is MISSING:
        return f"{name} is missing"
    text = f"{name} is {shown(misfit.value)}{rounding(misfit.value)}"
    return f"{text}: wanted {describe(misfit.kind)}"


def rounding(value: Any) -> str:
    """What a device makes of a number that it does not hold as it is."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return ", which 64 bits do not hold"
    if not isinstance(value, float) or not math.isfinite(value):
        return ""
    rounded = single(value)
    is_other = rounded.is_integer() and not value.is_integer()
    return f", {rounded:g} in float32" if is_other or math.isinf(rounded) else ""


def shown(value: Any) -> str:
    """A value in an error: one short line, with escapes for control characters."""
    text = SHORT.repr(value)
    return text if len(text) <= SHOWN + 2 else f"{text[:SHOWN]}..."


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of its kind."""
    return find_misfit(value, kind) is None


def find_misfit(
    value: Any, kind: Any, path: tuple[str | int, ...] = ()
) -> Misfit | None:
    """The first innermost value that is not of its kind; None if there is none."""
    origin, arguments = get_origin(kind), get_args(kind)
    here = Misfit(path, value, kind)
    if value is MISSING:
        return here
    if origin in (Required, NotRequired):
        return find_misfit(value, arguments[0], path)
    if origin is Annotated:
        plain, *limits = arguments
        misfit = find_misfit(value, plain, path)
        if misfit is None:
            return None if all(limit.holds(value) for limit in limits) else here
        return misfit if misfit.path != path else here
    if origin in (Union, UnionType):
        misfits = [find_misfit(value, one, path) for one in arguments]
        if None in misfits:
            return None
        # The kind that was meant is the one that is right furthest inwards.
        deepest = max(filter(None, misfits), key=lambda misfit: len(misfit.path))
        return deepest if deepest.path != path else here
    if not is_of(value, kind):
        return here
    misfits = (find_misfit(x, its, (*path, key)) for key, x, its in within(value, kind))
    return next(filter(None, misfits), None)


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a kind, whatever is in it."""
    plain = dict if typing.is_typeddict(kind) else get_origin(kind) or kind
    if plain in (tuple, list):
        # Lists are what JSON makes of tuples.
        is_list = isinstance(value, tuple | list)
        return is_list and len(element_kinds(kind, len(value))) == len(value)
    if plain is float:
        return is_number(value) and math.isfinite(single(value))
    if plain is int:
        is_whole = is_number(value) and isinstance(value, numbers.Integral)
        return is_whole and -(2**63) <= int(value) < 2**64
    return plain is Any or isinstance(value, plain)


def within(value: Any, kind: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """The key, the value and the kind of each part of a value."""
    if typing.is_typeddict(kind):
        kinds = typing.get_type_hints(kind, include_extras=True)
        for key, inner in kinds.items():
            if key in value or key in kind.__required_keys__:
                yield key, value.get(key, MISSING), inner
    elif get_origin(kind) is dict:
        for key, part in value.items():
            yield key, part, get_args(kind)[1]
    elif get_origin(kind) in (tuple, list):
        yield from zip(itertools.count(), value, element_kinds(kind, len(value)))


def element_kinds(kind: Any, count: int) -> tuple[Any, ...]:
    """The kinds of the elements of a list that has, or should have, so many."""
    first, *rest = get_args(kind)
    return (first,) * count if rest in ([], [...]) else (first, *rest)


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
    if origin in (tuple, list):
        number = "a list of" if arguments[1:] in ((), (...,)) else len(arguments)
        return f"{number} values, each {describe(arguments[0])}"
    if origin is dict or typing.is_typeddict(kind):
        return "a JSON object"
    return NOUNS.get(kind, "anything")


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
