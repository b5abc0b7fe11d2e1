"""Configs: checked before anything starts, durations in any unit, diffs in words.

A config is an `ml_collections.ConfigDict` with one level of sections. Each section is
splatted into the constructors that consume it, so the signatures of those say what
keys there are.
"""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import ml_collections

from vit_jax.values import Condition, problem

# Sections of evaluators that run at intervals of their own; "" is never.
EVALUATORS = ("fewshot", "knn")
# Names that other projects give to keys, where no likeness leads to ours.
OTHER_NAMES = {
    "accumulation_steps": "train.accumulate_steps",
    "batch": "data.batch_size",
    "batch_size": "data.batch_size",
    "checkpoint": "init",
    "clip_grad": "optim.clip_norm",
    "crop_size": "data.image_size",
    "cutmix": "mix.cutmix_alpha",
    "dataset": "data.name",
    "drop_path": "model.stochastic_depth_rate",
    "drop_path_rate": "model.stochastic_depth_rate",
    "ema": "train.ema_decay",
    "epochs": "train.duration",
    "grad_clip": "optim.clip_norm",
    "gradient_accumulation_steps": "train.accumulate_steps",
    "gradient_clipping": "optim.clip_norm",
    "image_size": "data.image_size",
    "img_size": "data.image_size",
    "input_size": "data.image_size",
    "learning_rate": "optim.learning_rate",
    "lr": "optim.learning_rate",
    "max_epochs": "train.duration",
    "max_steps": "train.duration",
    "mixup": "mix.mixup_alpha",
    "model": "model.name",
    "num_epochs": "train.duration",
    "num_steps": "train.duration",
    "num_workers": "data.workers",
    "opt": "optim.name",
    "optimizer": "optim.name",
    "precision": "model.dtype",
    "pretrained": "init",
    "resolution": "data.image_size",
    "smoothing": "loss.label_smoothing",
    "steps": "train.duration",
    "total_steps": "train.duration",
    "warmup_epochs": "optim.warmup",
    "warmup_steps": "optim.warmup",
    "wd": "optim.weight_decay",
    "weight_decay": "optim.weight_decay",
}
DURATIONS = ("train.duration", "optim.warmup")


NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
PIXELS = r"([1-9]\d{0,8})"
DURATION = re.compile(rf"({NUMBER})\s*(steps?|epochs?|examples?|%)")
# Steps are counted in 32 bits.
MOST_STEPS = 2**31 - 1
Duration = Annotated[
    str,
    Condition(
        "a duration such as 300epochs, 20000steps, 1e6examples or 10%",
        lambda text: bool(DURATION.fullmatch(text)),
    ),
]
# Every so often, or "" for never.
Interval = Annotated[
    str,
    Condition(
        'a duration such as 10epochs, or "" for never',
        lambda text: not text or bool(DURATION.fullmatch(text)),
    ),
]


class ConfigError(ValueError):
    """A config that cannot be used; the message says what to change."""


class Key(NamedTuple):
    """A key of the config: whether it must be there, and its kind, see `values.py`."""

    is_needed: bool
    kind: Any


Keys = dict[str, Key]


def keywords(consumer: Callable[..., Any], provided: tuple[str, ...] = ()) -> Keys:
    """The keyword arguments of a consumer.

    Args:
        provided: arguments that do not come from the config.
    """
    return {
        name: Key(parameter.default is parameter.empty, parameter.annotation)
        for name, parameter in inspect.signature(consumer).parameters.items()
        if name not in provided and parameter.kind is not parameter.VAR_KEYWORD
    }


def chosen(section: Mapping[str, Any], consumer: Callable[..., Any]) -> dict[str, Any]:
    """The part of a section that a consumer takes, where several share it."""
    return {key: section[key] for key in keywords(consumer) if key in section}


def check_config(config: ml_collections.ConfigDict, sections: dict[str, Keys]) -> None:
    """Checks that all keys are consumed, needed ones there, and values of their kinds.

    Args:
        sections: the keys of each section; one that is a value itself has the key "".

    Raises:
        ConfigError: an unknown, misplaced or missing key, with the nearest valid one;
            or a value of another type, out of its range, or none of the choices.
    """
    known = {
        full_name(section, name): key
        for section, keys in sections.items()
        for name, key in keys.items()
    }
    found = {}
    for section, value in config.items():
        is_section = isinstance(value, ml_collections.ConfigDict)
        for name, inner in value.items() if is_section else [("", value)]:
            found[full_name(section, name)] = inner
    for name in found:
        if name not in known:
            raise ConfigError(unknown_key(name, list(known)))
    missing = [
        name for name, key in known.items() if key.is_needed and name not in found
    ]
    if missing:
        raise ConfigError(f"the config lacks {', '.join(missing)}")
    for name, value in found.items():
        if isinstance(value, ml_collections.ConfigDict):
            value = value.to_dict()  # whose text is one line
        if sentence := problem(name, value, known[name].kind):
            raise ConfigError(sentence)


def full_name(section: str, name: str) -> str:
    """A key as the user writes it: `optim.momentum`, or `seed` without a section."""
    return f"{section}.{name}" if name else section


def other_name(name: str) -> tuple[str, str]:
    """The key that other projects call by a name, and the unit in the name, or ""."""
    key = OTHER_NAMES.get(name, "")
    return key, name.rpartition("_")[2] if key in DURATIONS else ""


def unknown_key(key: str, valid: list[str], value: str = "") -> str:
    """A sentence that names the valid key nearest to an unknown one.

    Args:
        value: what it was to be set to, if that is known.
    """
    section, _, last = key.rpartition(".")
    nearest, unit = other_name(last)
    beside = f"{section}.{nearest.rpartition('.')[2]}"
    if nearest and beside in valid:
        nearest = beside
    if nearest not in valid:
        same_name = [name for name in valid if name.split(".")[-1] == last]
        (nearest,) = difflib.get_close_matches(key, same_name or valid, 1, cutoff=0.0)
        unit = ""
    sentence = f"unknown config key {key!r}: did you mean {nearest!r}"
    if value:
        sentence += f", as --config.{nearest}={value}{unit}"
    return sentence + "?"


def parse_duration(
    text: str, *, batch_size: int, examples_per_epoch: int, total_steps: int = 0
) -> int:
    """Turns `"300epochs"`, `"500steps"`, `"1e6examples"` or `"5%"` into steps.

    Args:
        total_steps: what percent refer to.

    Returns:
        Steps, rounded to the nearest, at least 1 unless the number is 0.

    Raises:
        ConfigError: not a duration.
    """
    match = DURATION.fullmatch(text)
    if not match or (match[2] == "%" and not total_steps):
        units = "steps, epochs, examples" + (" or %" if total_steps else "")
        raise ConfigError(f"{text!r} is not a duration: wanted a number and {units}")
    steps_per_unit = {
        "step": 1.0,
        "epoch": examples_per_epoch / batch_size,
        "example": 1 / batch_size,
        "%": total_steps / 100,
    }[match[2].rstrip("s")]
    number = float(match[1])
    if number * steps_per_unit > MOST_STEPS:
        raise ConfigError(
            f"{text!r} is {number * steps_per_unit:.4g} steps: wanted at most "
            f"{MOST_STEPS}"
        )
    return max(1, round(number * steps_per_unit)) if number else 0


class Lengths(NamedTuple):
    """The durations of a config, in steps."""

    total: int
    warmup: int
    cooldown: int
    eval_every: int
    checkpoint_every: int
    keep_every: int
    log_every: int
    evaluators: dict[str, int]  # those that are on, and how often they run

    def due(self, every: int, step: int) -> bool:
        """Whether what is done every so many steps, and at the end, follows a step."""
        return step == self.total or (every > 0 and step % every == 0)

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation of any kind follows a step."""
        return any(
            self.due(n, step) for n in (self.eval_every, *self.evaluators.values())
        )


def image_size(text: str) -> tuple[int, int]:
    """Reads `384`, `384x512` or `384,512` (height, width).

    Raises:
        ConfigError: the text is none of these.
    """
    match = re.fullmatch(rf"\(?{PIXELS}(?:\s*[x,]\s*{PIXELS})?\)?", text.lower())
    if not match:
        raise ConfigError(
            f"{text!r}: wanted pixels, as 384 or 384x512 (height x width)"
        )
    return int(match[1]), int(match[2] or match[1])


def resolve_lengths(config: ml_collections.ConfigDict, examples: int) -> Lengths:
    """Turns the durations of a config into steps, for an epoch of so many examples.

    Raises:
        ConfigError: not a duration, or durations that do not go together.
    """
    total = 0

    def steps(key: str) -> int:
        section, name = key.split(".")
        try:
            return parse_duration(
                config[section][name],
                batch_size=config.data.batch_size,
                examples_per_epoch=examples,
                total_steps=total,
            )
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None

    total = steps("train.duration")
    if not total:
        raise ConfigError(
            f"train.duration is {config.train.duration!r}: wanted a step or more"
        )
    lengths = Lengths(
        total,
        warmup=steps("optim.warmup"),
        cooldown=steps("optim.cooldown"),
        eval_every=steps("eval.every"),
        checkpoint_every=steps("checkpoint.every"),
        keep_every=steps("checkpoint.keep_every"),
        log_every=steps("log.every"),
        evaluators={
            name: steps(f"{name}.every") for name in EVALUATORS if config[name].every
        },
    )
    # 0 is at the end alone, where both are.
    saved, evaluated = lengths.checkpoint_every, lengths.eval_every
    if config.checkpoint.keep_best and (saved % evaluated if evaluated else saved):
        raise ConfigError(
            f"checkpoint.keep_best needs checkpoint.every ({saved} steps) to be a "
            f"multiple of eval.every ({evaluated} steps)"
        )
    return lengths


def without_every(section: ml_collections.ConfigDict) -> dict[str, Any]:
    """A section without its `every`, which the training loop itself reads."""
    return {key: value for key, value in section.items() if key != "every"}


def to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as JSON would give it back: plain dicts, lists for tuples."""
    return json.loads(config.to_json())


def lists_to_tuples(value: Any) -> Any:
    """Undoes what JSON does to the tuples of a config."""
    if isinstance(value, dict):
        return {key: lists_to_tuples(inner) for key, inner in value.items()}
    return tuple(map(lists_to_tuples, value)) if isinstance(value, list) else value


def difference(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, as `{"optim.name": ("sgd", "adamw")}`."""
    old_values, new_values = (_flatten(to_dict(config)) for config in (old, new))
    return {
        key: (old_values.get(key, "absent"), new_values.get(key, "absent"))
        for key in sorted(old_values.keys() | new_values.keys())
        if old_values.get(key, "absent") != new_values.get(key, "absent")
    }


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
