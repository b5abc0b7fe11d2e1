"""Every key of a config, and every option of a model: what is no value is refused."""

import math
import re
from typing import Annotated, Any, NotRequired, TypedDict, get_args, get_origin

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from vit_jax.config import ConfigError, Duration, Interval, check_config, full_name
from vit_jax.config_file import read_config
from vit_jax.models import FAMILIES, NO_OPTIONS, create_model, defaults_of
from vit_jax.training.sections import config_sections
from vit_jax.values import (
    Choice,
    Condition,
    Measured,
    Positive,
    Range,
    Rate,
    Share,
    describe,
    is_declared,
    problem,
)

KEYS = {
    full_name(section, name): key.kind
    for section, keys in config_sections().items()
    for name, key in keys.items()
}
OPTIONS = [
    (family, name)
    for family, model in FAMILIES.items()
    for name in defaults_of(model)
    if name not in NO_OPTIONS
]
NAMES = {"vit": "ViT-Ti/16", "resnet": "BiT-R50x1", "mixer": "Mixer-S/32"}
STEP = 1e-6


def split(kind: Any) -> tuple[Any, list[Any]]:
    """The plain type behind a declared kind, and its limits."""
    if get_origin(kind) is Annotated:
        plain, *limits = get_args(kind)
        return plain, limits
    return kind, []


def examples(kind: Any) -> tuple[list[Any], list[Any]]:
    """Values that a kind must allow, and values that it must refuse."""
    if type(None) in get_args(kind):
        good, bad = examples(get_args(kind)[0])
        return [None, *good], [value for value in bad if value is not None]
    plain, limits = split(kind)
    if get_origin(plain) is tuple:
        return tuple_examples(plain, limits)
    if plain is bool:
        return [True, False], [0, 1, "true", None, math.nan]
    if plain in (int, float):
        return number_examples(plain, limits)
    assert plain is str, plain
    bad: list[Any] = [0, 1.5, math.nan, True, None, ("a", "b")]
    if kind == Duration:
        bad += ["", "10", "nansteps", "infsteps", "-1steps", "1.2.3steps", "1e400"]
        return [
            "0steps",
            "2epochs",
            "1e3examples",
            "10%",
            ".5epochs",
            "5e-1epochs",
        ], bad
    if kind == Interval:
        return ["", "2epochs"], [*bad, "10", "nansteps"]
    for limit in limits:
        if isinstance(limit, Choice):
            names = limit.holds.__self__  # pyright: ignore[reportFunctionMemberAccess]
            return list(names), [*bad, "no such choice"]
        if limit.text == "a regular expression":
            return ["", "head/.*"], [*bad, "*", "[a"]
        assert limit.text == "a text that is not empty"
        return ["a"], [*bad, ""]
    return ["", "a"], bad


def number_examples(plain: Any, limits: list[Any]) -> tuple[list[Any], list[Any]]:
    """The ends of a range, a little and far beyond, and what is no number."""
    good, bad = [], [math.nan, math.inf, -math.inf, "1", None, True, (1, 2)]
    step = 1 if plain is int else STEP
    bad += [1.5] if plain is int else []
    for limit in limits:
        if not isinstance(limit, Range):
            good, bad = [*good, -1, 1], [*bad, 0, -2]  # sizes of a mesh
            continue
        ends = (
            (limit.least, limit.left_open, -step),
            (limit.most, limit.right_open, step),
        )
        for end, is_open, outwards in ends:
            if math.isinf(end):
                continue
            end = plain(end)
            (bad if is_open and not (limit.off and end == 0) else good).append(end)
            beyond = [end + outwards, end + 1e6 * outwards]
            bad += [value for value in beyond if not (limit.off and value == 0)]
            good.append(end - outwards)
        good += [0] if limit.off else []
    return good or [plain(-1), plain(0), plain(1)], bad


def tuple_examples(plain: Any, limits: list[Any]) -> tuple[list[Any], list[Any]]:
    """Good elements in tuples and lists; bad ones, wrong lengths, and no tuple."""
    kinds = get_args(plain)
    inner, wrong = examples(kinds[0])
    if kinds[-1] is ...:
        number, bad = 2, []
        may_be_empty = not limits or limits[0].holds(())
        good: list[Any] = [] if not may_be_empty else [()]
        bad += [()] if not may_be_empty else []
    else:
        number, good, bad = len(kinds), [], [(), (inner[0],) * (len(kinds) + 1)]
    good += [(value,) * number for value in inner] + [[inner[0]] * number]
    bad += [(value,) * number for value in wrong] + [
        (inner[0],) * (number - 1) + (wrong[0],)
    ]
    return good, [*bad, 3, "text", None]


def names_the_value(message: str, key: str, value: Any) -> bool:
    """Whether an error is about a value, or one of its elements."""
    told, _, wanted = message.partition(": wanted ")
    named = [f"{key} is {value!r}"]
    if isinstance(value, tuple):
        named += [f"{key}[{i}] is {part!r}" for i, part in enumerate(value)]
    told = re.sub(r", (\S+ in float32|which 64 bits do not hold)$", "", told)
    return told in named and bool(wanted) and "\n" not in message


def with_value(key: str, value: Any) -> Any:
    config = read_config("digits", [])
    section, _, name = key.rpartition(".")
    place = config[section] if section else config
    with place.unlocked():
        if name in place:
            del place[name]  # so that a float does not make a float of what follows
        place[name] = value
    return config


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_declared_and_holds_to_it(key):
    kind = KEYS[key]
    assert is_declared(kind), f"{key} has no type, range or choices"
    assert kind is not int and kind is not float or key == "model.head_bias_init"
    good, bad = examples(kind)
    for value in good:
        check_config(with_value(key, value), config_sections())
    for value in bad:
        with pytest.raises(ConfigError) as error:
            check_config(with_value(key, value), config_sections())
        assert names_the_value(str(error.value), key, value)


@pytest.mark.parametrize(("family", "option"), OPTIONS)
def test_every_option_of_a_model_holds_wherever_it_is_made(family, option):
    kind = FAMILIES[family].__dataclass_fields__[option].type
    assert is_declared(kind), f"{family} has {option} without a type, range or choices"
    model = create_model(NAMES[family])
    for value in examples(kind)[1]:
        # In tests alone, jaxtyping finds another type before the model does.
        with pytest.raises((ValueError, TypeCheckError)) as error:
            model.clone(**{option: value})
        if isinstance(error.value, ValueError):
            assert names_the_value(str(error.value), option, value)


@pytest.mark.parametrize(
    "nonsense",
    [
        *("model.dropout_rate=1.5", "model.dropout_rate=-0.1", "model.depth=-1"),
        *("optim.momentum=1.5", "optim.b2=2", "optim.learning_rate=-1"),
        *("optim.clip_norm=-1", "optim.learning_rate=nan", "optim.freeze=[a"),
        *("train.ema_decay=1.5", "train.ema_decay=nan", "train.step_timeout=inf"),
        *(
            "model.pixel_std=(-0.5,0.5,0.5)",
            "model.pixel_std=(0,0,0)",
            "guard.spike=nan",
        ),
        *("eval.splits=", "eval.batch_size=0", "seed=-1", "checkpoint.keep_last=0"),
        *("checkpoint.best_metric=acuracy", "checkpoint.best_metric=loss"),
        *("model.remat=some", "train.gradient_dtype=fp16", "model.num_heads=0"),
        *("data.randaug_magnitude=-5", "data.color_jitter=nan", "data.name="),
        *("optim.momentum_dtype=complex64", "fewshot.batch_size=0", "mesh.data=0"),
        *("model.width=-16", "model.mlp_dim=-4", "eval.every=1.2.3epochs"),
    ],
)
def test_what_was_trained_with_once_is_refused(nonsense):
    config = read_config("digits", [f"--config.{nonsense}"])
    key = nonsense.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key}(\[0\])? is .*: wanted "):
        check_config(config, config_sections())


def test_the_words_of_each_kind_of_limit():
    assert describe(Annotated[float, Range(0, 1, right_open=True)]) == (
        "a number in [0, 1)"
    )
    assert describe(Annotated[int, Range(1)]) == "a whole number of at least 1"
    assert describe(Annotated[float, Range(1, left_open=True, off=True)]) == (
        "0 (off) or a number above 1"
    )
    assert describe(Annotated[str, Choice("", "a", "b")]) == "one of a, b"
    assert describe(tuple[float, float]) == "2 values, each a number"
    several = "a list of values, each a whole number"
    assert describe(tuple[int, ...] | None) == f"{several} or None"
    assert describe(list[int]) == several
    assert describe(Annotated[str, Condition("a word", str.isalpha)]) == "a word"


class Inner(TypedDict):
    names: list[str]
    rate: NotRequired[float | None]


class Partial(TypedDict, total=False):
    inner: Inner
    size: Annotated[int, Range(1)] | tuple[int, int] | None


Few = Annotated[list[Inner], Condition("few", lambda values: len(values) < 3)]
ESCAPED = "'" + 30 * r"\x1b"


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        ({"names": ["a"], "rate": 1, "more": 2}, Inner, ""),
        ({"names": (), "rate": None}, Inner, ""),
        ({}, Partial, ""),
        ({"size": [3, 4]}, Partial, ""),
        ({"a": 1}, dict[str, Any], ""),
        (object(), Any, ""),
        (1, float, ""),
        ([1, 2], tuple[int, int], ""),
        (math.nan, Measured, ""),
        ({"rate": 1.5}, Inner, "names is missing"),
        ({"inner": {}}, Partial, "inner.names is missing"),
        ({"names": "a"}, Inner, "names is 'a': wanted a list of values, each text"),
        ({"names": ["a", 2]}, Inner, "names[1] is 2: wanted text"),
        ({"names": [], "rate": "x"}, Inner, "rate is 'x': wanted a number or None"),
        ([], Inner, "the content is []: wanted a JSON object"),
        ({"a": {"b": True}}, dict[str, dict[str, int]], "a.b is True: wanted a whole "),
        ({"a": {"rate": 1}}, dict[str, str | Inner], "a.names is missing"),
        (
            {"size": 0},
            Partial,
            "size is 0: wanted a whole number of at least 1 or 2 v",
        ),
        ({"size": [1, 2, 3]}, Partial, "size is [1, 2, 3]: wanted a whole number of a"),
        ({"size": [1, "x"]}, Partial, "size[1] is 'x': wanted a whole number"),
        ([{"names": []}] * 3, Few, "the content is [{'names': []}, {'names': []}, {"),
        ([{"names": 3}] * 3, Few, "[0].names is 3: wanted a list of values, each text"),
        ([1], tuple[int, int], "the content is [1]: wanted 2 values, each a whole n"),
        (1.0, int, "the content is 1.0: wanted a whole number"),
        ("x", Annotated[int, Range(1)], "the content is 'x': wanted a whole number of"),
        (["x" * 50] * 9, int, "the content is ['xxxxx"),
        (True, float, "the content is True: wanted a number"),
        (math.nan, float, "the content is nan: wanted a number"),
        (-math.inf, float, "the content is -inf: wanted a number"),
        (10**400, float, "the content is 1000"),
        (10**20, int, "the content is 100000000000000000000, which 64 bits do not"),
        (2**64, int, "the content is 18446744073709551616, which 64 bits do not hold"),
        (1e300, float, "the content is 1e+300, inf in float32: wanted a number"),
        (1e-300, Positive, "the content is 1e-300, 0 in float32: wanted a number abo"),
        (2.0**-127, Positive, "the content is 5.877471754111438e-39, 0 in float32: wa"),
        (2.0**-126, Positive, ""),
        (0.999999999999, Rate, "the content is 0.999999999999, 1 in float32: wanted "),
        (0.9999999, Rate, ""),
        (-0.1, Rate, "the content is -0.1: wanted a number in [0, 1)"),
        (1 + 1e-12, Share, "the content is 1.000000000001, 1 in float32: wanted a n"),
        (2**31 - 1, Annotated[int, Range(1, 2**31, right_open=True)], ""),
        (np.float16(1), float, ""),
        (True, Measured, "the content is True: wanted a number, NaN or infinity"),
        (0, bool, "the content is 0: wanted true or false"),
        ({"a b": 1}, dict[str, str], "['a b'] is 1: wanted text"),
        ({"a": {"\x1b[2J": 1}}, dict[str, dict[str, str]], r"a['\x1b[2J'] is 1: wante"),
        ("\x1b" * 999, int, f"the content is {ESCAPED[:25]}"),
        ({"a" * 999: 1}, dict[str, str], f"['{'a' * 20}"),
    ],
)
def test_a_problem_is_told_where_it_is(value, kind, sentence):
    found = problem("", value, kind)
    assert found.startswith(sentence) and bool(found) == bool(sentence)
    assert len(found) < 200 and found.isprintable()


def test_a_problem_begins_with_the_name_of_the_whole():
    assert problem("a.b", {"names": 3}, Inner).startswith("a.b.names is 3: wanted a l")
    assert problem("a.b", 3, Inner) == "a.b is 3: wanted a JSON object"
    assert problem("a.b", (1, "x"), tuple[int, int]).startswith("a.b[1] is 'x': wan")
