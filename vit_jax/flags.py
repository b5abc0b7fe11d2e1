"""Flags of commands that are of a declared kind, such as `Annotated[int, Range(1)]`."""

import argparse
import contextlib
from collections.abc import Callable
from typing import Annotated, Any

from vit_jax.values import Range, describe, fits, read_text

# More images at once fill the memory before they are faster.
BatchSize = Annotated[int, Range(1, 65_536)]
Classes = Annotated[int, Range(0, 10_000_000)]
Number = Annotated[int, Range(0, 2**31, right_open=True)]
Positive = Annotated[int, Range(1, 2**31, right_open=True)]
Seeds = Annotated[int, Range(0, 1000)]
Seconds = Annotated[int, Range(1, 1_000_000)]
Probability = Annotated[float, Range(0, 1, left_open=True)]
Minutes = Annotated[float, Range(0, 1e6, left_open=True)]


def flag(kind: Any) -> Callable[[str], Any]:
    """The `type` of an argument of argparse, which refuses what is not of a kind."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError, SyntaxError, TypeError):
            if fits(value := read_text(text, kind), kind):
                return value
        raise argparse.ArgumentTypeError(f"{text!r}: wanted {describe(kind)}")

    return read
