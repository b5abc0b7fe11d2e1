"""Configs: checked before anything starts, durations in any unit, diffs in words.

A config is an `ml_collections.ConfigDict` with one level of sections. Each section is
splatted into the constructors that consume it, so the signatures of those say what
keys there are.
"""

import difflib
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

Keys = dict[str, bool]
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


class ConfigError(ValueError):
    """A config that cannot be used; the message says what to change."""


def keywords(consumer: Callable[..., Any], provided: tuple[str, ...] = ()) -> Keys:
    """The keyword arguments of a consumer, and whether each is needed.

    Args:
        provided: arguments that do not come from the config.
    """
    return {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(consumer).parameters.items()
        if name not in provided and parameter.kind is not parameter.VAR_KEYWORD
    }


def chosen(section: Mapping[str, Any], consumer: Callable[..., Any]) -> dict[str, Any]:
    """The part of a section that a consumer takes, where several share it."""
    return {key: section[key] for key in keywords(consumer) if key in section}


def check_config(config: ml_collections.ConfigDict, sections: dict[str, Keys]) -> None:
    """Checks that every key of the config is consumed, and every needed one is there.

    Args:
        sections: the keys of each section; a section with none is a single value.

    Raises:
        ConfigError: an unknown, misplaced or missing key; names the nearest valid one.
    """
    needed = {
        f"{section}.{key}": is_needed
        for section, keys in sections.items()
        for key, is_needed in keys.items()
    } | {section: True for section, keys in sections.items() if not keys}
    found = []
    for section, value in config.items():
        is_section = isinstance(value, ml_collections.ConfigDict)
        found += [f"{section}.{key}" for key in value] if is_section else [section]
    for key in found:
        if key not in needed:
            raise ConfigError(unknown_key(key, list(needed)))
    missing = [
        key for key, is_needed in needed.items() if is_needed and key not in found
    ]
    if missing:
        raise ConfigError(f"the config lacks {', '.join(missing)}")


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
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*(steps?|epochs?|examples?|%)", text)
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
    match = re.fullmatch(r"\(?([1-9]\d*)(?:\s*[x,]\s*([1-9]\d*))?\)?", text.lower())
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
    parse = functools.partial(
        parse_duration, batch_size=config.data.batch_size, examples_per_epoch=examples
    )
    total = parse(config.train.duration)
    parse = functools.partial(parse, total_steps=total)
    lengths = Lengths(
        total,
        warmup=parse(config.optim.warmup),
        cooldown=parse(config.optim.cooldown),
        eval_every=parse(config.eval.every),
        checkpoint_every=parse(config.checkpoint.every),
        keep_every=parse(config.checkpoint.keep_every),
        log_every=parse(config.log.every),
        evaluators={
            name: parse(config[name].every) for name in EVALUATORS if config[name].every
        },
    )
    if config.checkpoint.keep_best and lengths.checkpoint_every % lengths.eval_every:
        raise ConfigError(
            f"checkpoint.keep_best needs checkpoint.every ({lengths.checkpoint_every} "
            f"steps) to be a multiple of eval.every ({lengths.eval_every} steps)"
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
