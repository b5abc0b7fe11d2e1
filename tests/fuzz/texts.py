"""Texts of the command line: keys and values, durations, sizes, paths, names."""

import copy
import functools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from configs import digits
from fuzz.reader import Finding, Reader, equal, telling
from vit_jax import config_file
from vit_jax.config import (
    MOST_STEPS,
    ConfigError,
    check_config,
    image_size,
    parse_duration,
)
from vit_jax.data.staging import Bucket, is_url
from vit_jax.evaluation.real import file_number
from vit_jax.interop import public
from vit_jax.interop.files import FileError, split_path
from vit_jax.storage.output import printable
from vit_jax.storage.paths import as_path, on_disk
from vit_jax.training.sections import config_sections

# No shell gives a program a zero byte.
ANY = st.text(st.characters(exclude_characters="\0"), max_size=20)
PIECES = ("0", "1", "2.5", "1e3", "1e999", "-1", "nan", "inf", "1_0", "٣", " ", "None")
PIECES += ("True", "false", "()", "(1,2)", "(1", ",", "[", "{}", "'a'", "lambda: 0")
PIECES += ("epochs", "steps", "examples", "%", "x", "~", "~0/x", "/", "..", ":", "=")
PIECES += ("gs://", "s3://b/x", "gs://b/x", "hf:", "@", "*", "configs/digits", ".py")
PIECES += ("9" * 300,)
JOINED = st.lists(st.sampled_from(PIECES) | ANY, max_size=4).map("".join)
UNITS = {
    "steps": Fraction(1),
    "epochs": Fraction(1000, 32),
    "examples": Fraction(1, 32),
}


def check_duration(text: str, folder: Path) -> None:
    del folder
    shown = repr(text)[1:-1]
    with telling(shown, errors=ConfigError):
        steps = parse_duration(text, batch_size=32, examples_per_epoch=1000)
        number = re.match(r"[\d.]+(e[+-]?\d+)?", text)
        unit = text[number.end() :].strip() if number else ""
        size = UNITS.get(unit) or UNITS.get(f"{unit}s") or Fraction(0)
        wanted = Fraction(number[0]) * size if number else Fraction(-1)
        if abs(steps - wanted) > 1 or not 0 <= steps <= MOST_STEPS:
            raise Finding(f"{text!r} is {steps} steps, not {float(wanted)}")
    with telling(shown, errors=ConfigError):
        size = image_size(text)
        equal(image_size(f"{size[0]}x{size[1]}"), size, "size")


@functools.cache
def usual_config() -> Any:
    return digits.get_config()


def keys() -> st.SearchStrategy[str]:
    known = st.deferred(lambda: st.sampled_from(config_file.all_keys(usual_config())))
    return known | known | known | JOINED


def check_override(case: tuple[str, str], folder: Path) -> None:
    """`--config.key=text`, and the check of all values before anything starts."""
    del folder
    key, text = case
    config = copy.deepcopy(usual_config())
    name = repr(key)[1:-1]
    with telling(key, name, errors=ConfigError):
        config_file.set_value(config, key, text)
        check_config(config, config_sections())
        section, _, last = key.rpartition(".")
        value = (config[section] if section else config)[last]
        # Such as 1.0 for "1", and () for ",": read again it stays the same.
        again = copy.deepcopy(usual_config())
        if value is not None and not isinstance(value, str):
            config_file.set_value(again, key, str(value))
            equal((again[section] if section else again)[last], value, key)


def check_spec(text: str, folder: Path) -> None:
    """`--config=TEXT`; what its arguments mean is for the config to say."""
    del folder
    name = text.partition(":")[0]
    with telling("--config", name, errors=(ConfigError, OSError)):
        path = config_file.find_config(name)
        equal(path.suffix, ".py", "suffix")
        config_file.call_get_config(lambda **_: usual_config(), text, text)


def check_path(text: str, folder: Path) -> None:
    for read in (as_path, on_disk):
        with telling(text, errors=(ValueError, OSError)):
            path = read(text)
            if "://" in str(path) and not str(path).startswith("gs://"):
                raise Finding(f"{text!r} is {path!r}")
    with telling(text, errors=(FileError, OSError)):
        split_path(text)
    with telling(text, errors=(ValueError, OSError)):
        address = public.find_address(public.split_part(text)[0])
        equal(isinstance(address, str), True, "address")
    with telling(text, errors=ValueError):
        equal(0 < file_number(text) <= 50_000, True, "number")
    if is_url(text) and not text.startswith(("gs://", "s3://")):
        with telling(text, errors=ValueError):
            Bucket(text, str(folder))
            raise Finding(f"{text!r} is taken for a bucket")


def check_printable(text: str, folder: Path) -> None:
    del folder
    for lines in (False, True):
        shown = printable(text, lines=lines)
        shown.encode("utf-8")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown):
            raise Finding(f"{shown!r} would be obeyed")
        equal(printable(shown, lines=lines), shown, "the text printed again")


def one_line(text: str) -> str:
    return " ".join(text.split("\n"))


DURATIONS = st.tuples(
    st.sampled_from((*PIECES, "9" * 5000))
    | st.floats(0, 1e12).map(str)
    | st.integers(0).map(str),
    st.sampled_from(("", " ", "e2", ".")),
    st.sampled_from((*UNITS, "step", "epoch", "%", "x", "")),
).map("".join)
READERS = (
    Reader("durations and sizes", lambda: DURATIONS | JOINED, check_duration, 100),
    Reader("--config.key=value", lambda: st.tuples(keys(), JOINED), check_override, 60),
    Reader("--config=name:text", lambda: JOINED, check_spec, 60),
    # A name with newlines is shown with them.
    Reader("paths and addresses", lambda: JOINED.map(one_line), check_path, 60),
    Reader("texts for terminals", lambda: ANY | JOINED, check_printable, 60),
)
