"""Configs: values beside and at the edges of every declared key, as text and in Python.

The keys come by reflection, so that a new one is attacked without a line here.
"""

import contextlib
import decimal
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin

import jax
import ml_collections
import numpy as np

from attack.outcomes import Attack, Ending, Outcome, call, judge, run
from vit_jax.config import full_name
from vit_jax.config_file import read_config
from vit_jax.training import loop
from vit_jax.training.loop import train, training_batches
from vit_jax.training.rehearsal import rehearse
from vit_jax.training.sections import config_sections
from vit_jax.training.setup import Setup, build, lower_evaluation
from vit_jax.values import describe, fits, read_text

SMALL = (
    *("model.depth=1", "model.width=16", "model.num_heads=2", "model.mlp_dim=16"),
    *("data.batch_size=8", "eval.batch_size=60", "train.duration=4steps"),
    *("optim.warmup=0steps", "log.tensorboard=false"),
)
TEXTS = (
    *("", " ", "nan", "inf", "-inf", "1e400", "abc", "None", "True", "true", "-1"),
    *("0", "0.0", "-0.1", "0.5", "1", "1.5", "2", "1e15", "9" * 400, "1e-320"),
    *("(1,2)", "1,2", "(1,", "()", "(,)", "('a','b')", "[a", "*", "{}", "1_000"),
    *("0x10", "\x1b[31m", "caf\udce9", "1\n2", "=", "-1steps", "10", "1e99epochs"),
    *("nansteps", "200%", "1 fortnight", "(1,(2,3))", "__import__('os')", "16.0,16.0"),
)
NO_VALUES = (
    *(None, True, -1, 0, 1.5, math.nan, math.inf, -math.inf, 10**400, 1e300, -1e-300),
    *("", "text", b"bytes", (), (1, 2), ("a", 1), [None], {}, {"a": 1}, 1j, {1, 2}),
    *(np.float32("nan"), np.array([1.0, 2.0]), np.array(3), np.bool_(True), len),
    *(decimal.Decimal("NaN"), ml_collections.ConfigDict({"a": 1}), range(3), object()),
)


@functools.cache
def keys() -> dict[str, Any]:
    """The kind of every key."""
    return {
        full_name(section, name): key.kind
        for section, keys in config_sections().items()
        for name, key in keys.items()
    }


def small(*overrides: str) -> ml_collections.ConfigDict:
    texts = [f"--config.{text}" for text in (*SMALL, *overrides)]
    return read_config("digits", texts)


def train_command(folder: Path, *overrides: str, config: str = "digits") -> Ending:
    """The command of a small run, with `section.key=text`."""
    changes = [f"--config.{text}" for text in overrides]
    if config == "digits":
        changes = [f"--config.{text}" for text in SMALL] + changes
    return run(
        "vit_jax.train", "--config", config, "--workdir", folder / "run", *changes
    )


@contextlib.contextmanager
def up_to_the_first_step() -> Iterator[None]:
    """Lets a training draw a batch and trace its steps, and end there.

    Its folder is begun by then, so that what is wrong with them is found late.
    """

    def trace(config: Any, setup: Any, *_: object) -> NoReturn:
        draw_a_batch(config, setup)
        program = setup.program
        batch = program.batch | setup.teacher
        jax.eval_shape(program.train_step, program.state, batch, program.keys)
        lower_evaluation(program, config.eval.batch_size)
        raise SystemExit(0)

    kept = loop.start_state, loop.run_steps
    loop.start_state, loop.run_steps = lambda *_, **__: None, trace
    try:
        yield
    finally:
        loop.start_state, loop.run_steps = kept


def draw_a_batch(config: ml_collections.ConfigDict, setup: Setup) -> None:
    """The first batch of a training, as far as the devices."""
    with contextlib.closing(training_batches(config, setup, 0)) as batches:
        next(batches)


def with_value(key: str, value: Any) -> ml_collections.ConfigDict:
    """The small config with a value of any type, as a program may set it."""
    config = small()
    section, _, name = key.rpartition(".")
    place = config[section] if section else config
    with place.unlocked():
        if name in place:
            del place[name]  # or a float would make a float of what follows
        place[name] = value
    return config


def reads_as(text: str, kind: Any) -> bool:
    """Whether a text of the command line is a value of a kind."""
    try:
        return fits(read_text(text, kind), kind)
    except (ValueError, SyntaxError, TypeError):
        return False


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:30]}... ({len(text)} characters)"


# --- what is refused ---


def texts() -> Iterator[Attack]:
    """Texts that no value of a key reads as, through the command line."""
    for key, kind in keys().items():
        for text in TEXTS:
            if not reads_as(text, kind) and not is_size(key, text):

                def act(folder: Path, key: str = key, text: str = text) -> Any:
                    ending = train_command(folder, f"{key}={text}")
                    names = (key.rpartition(".")[2],)
                    return judge(ending, names=names, begun=(folder / "run",))

                yield Attack("texts that are no value", f"{key}={short(text)}", act)


def is_size(key: str, text: str) -> bool:
    """Whether a text is read as an image size, in which `64` is a square."""
    return key == "data.image_size" and text.isdigit()


def objects() -> Iterator[Attack]:
    """Values of other types and beyond the ranges, in a config of Python."""
    for key, kind in keys().items():
        for value in NO_VALUES:
            if safe_fits(value, kind):
                continue

            def act(folder: Path, key: str = key, value: Any = value) -> Any:
                def start() -> None:
                    train(with_value(key, value), folder / "run")

                names = (key.rpartition(".")[2],)
                return judge(call(start), names=names, begun=(folder / "run",))

            yield Attack("values of another type", f"{key}={short(value)}", act)


def safe_fits(value: Any, kind: Any) -> bool:
    """`fits`, but False for what it cannot compare."""
    try:
        return fits(value, kind)
    except (ValueError, TypeError, ArithmeticError):
        return False


# --- what has to be built ---

# What else has to change so that a value at an edge goes together with the rest.
MOST_DEPTH = 99  # Thousands of blocks are traced in many minutes.
BESIDE = {
    "model.width": ("model.num_heads=1",),
    "data.batch_size": ("optim.warmup=0steps",),
}


def edges() -> Iterator[Attack]:
    """The ends of each range and each choice: built, traced, and data drawn."""
    for key, kind in keys().items():
        for value in edge_values(kind):
            if key == "model.depth" and value > MOST_DEPTH:
                continue

            def act(_: Path, key: str = key, value: Any = value) -> Any:
                config = with_value(key, value)
                for beside in BESIDE.get(key, ()):
                    name, _, text = beside.partition("=")
                    section, _, name = name.partition(".")
                    config[section][name] = read_text(
                        text, keys()[beside.split("=")[0]]
                    )
                ending = call(lambda: try_all(config, key))
                name = key.rpartition(".")[2]
                return judge(ending, names=(name, *name.split("_")))

            good = (Outcome.SAME, Outcome.REFUSED)
            yield Attack("edges that are values", f"{key}={short(value)}", act, good)


def edge_values(kind: Any) -> list[Any]:
    """Values at the ends of what a kind allows."""
    if type(None) in get_args(kind):
        return [None, *edge_values(get_args(kind)[0])]
    plain, *limits = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(plain) is tuple:
        inner = edge_values(get_args(plain)[0])[:4]
        count = 2 if get_args(plain)[-1] is ... else len(get_args(plain))
        found: list[Any] = [(), *((value,) * count for value in inner)]
    elif plain is bool:
        found = [True, False]
    elif plain in (int, float):
        ends = [end for limit in limits for end in ends_of(limit)] or [-1, 0, 1]
        found = [plain(end) for end in (0, *ends) if math.isfinite(end)]
    else:
        found = ["", *re.findall(r"[\w.%]+", describe(kind).partition("one of")[2])]
        found += ["1steps", "1epochs", "100%", "digits", "train", "test[:50%]"]
    return [value for value in dict.fromkeys(found) if fits(value, kind)]


def ends_of(limit: Any) -> list[float]:
    """The ends of a range, and what lies a little within."""
    least, most = getattr(limit, "least", 0), getattr(limit, "most", math.inf)
    return [least, least + 1e-6, least + 1, most, most - 1e-6, most - 1]


def try_all(config: ml_collections.ConfigDict, key: str) -> None:
    """What comes before the first step, as far as a key may have to do with it."""
    setup = build(config)
    if key.startswith(("log.", "checkpoint.", "sweep.")):
        return
    draw_a_batch(config, setup)
    rehearse(config, setup)
