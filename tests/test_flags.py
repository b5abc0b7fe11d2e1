"""Numbers of flags: those that a command cannot mean are refused with the range."""

import argparse
import math
from typing import get_args

import pytest
from attack.flags import parser_of

from vit_jax import flags
from vit_jax.values import Range, describe

KINDS = {
    name: kind
    for name, kind in vars(flags).items()
    if any(isinstance(limit, Range) for limit in get_args(kind)[1:])
}


def limit_of(kind) -> Range:
    return next(x for x in get_args(kind) if isinstance(x, Range))


@pytest.mark.parametrize("name", KINDS)
def test_a_flag_takes_what_is_in_its_range_and_no_more(name):
    kind = KINDS[name]
    plain, limit = get_args(kind)[0], limit_of(kind)
    read, step = flags.flag(kind), 1 if plain is int else 1e-3
    for end, is_open, inwards in (
        (limit.least, limit.left_open, step),
        (limit.most, limit.right_open, -step),
    ):
        within = plain(end + inwards * is_open)
        assert read(repr(within)) == within
        beyond = [repr(plain(end - inwards))] + [repr(plain(end))] * is_open
        for text in (*beyond, "nan", "inf", "1e400", "9" * 400, "", "x", "1,2", "None"):
            with pytest.raises(argparse.ArgumentTypeError) as error:
                read(text)
            assert str(error.value) == f"{text!r}: wanted {describe(kind)}"


def test_there_are_kinds_and_each_has_two_ends():
    assert len(KINDS) > 5
    assert all(math.isfinite(limit_of(kind).most) for kind in KINDS.values())


@pytest.mark.parametrize(
    "words", ["--count 0", "--batch-size 0", "--top 0", "--top -1", "--threshold 2"]
)
def test_flags_of_predict_have_ranges(words, capsys):
    with pytest.raises(SystemExit):
        parser_of("vit_jax.predict").parse_args(words.split())
    flag, value = words.split()
    assert f"{flag}: {value!r}: wanted a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (flags.BatchSize, "0"),
        (flags.Classes, "-1"),
        (flags.Number, "-1"),
        (flags.Positive, "0"),
        (flags.Seconds, "0"),
        (flags.Probability, "0"),
        (flags.Probability, "1e-300"),
        (flags.Minutes, "0"),
    ],
)
def test_what_no_flag_of_a_kind_can_mean(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        flags.flag(kind)(text)
