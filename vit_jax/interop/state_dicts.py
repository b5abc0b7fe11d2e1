"""The weights in what a training has saved: averages first, no wrapper or prefix."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.interop.formats import FileError, Tensors

logger = logging.getLogger(__name__)

# The keys under which training code stores the average of the weights, which timm takes
# first, and a state dict.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
WRAPPERS = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "network",
    "params",
    "state",
    "teacher",
)
# The names that training code puts before all of a model's own, and those before an
# average of it.
PREFIX = re.compile(
    r"^((model|module|net|network|backbone|_orig_mod|timm_model"
    r"|ema|model_ema|ema_model|averaged_model)\.)+"
)
AVERAGED = re.compile(r"(^|\.)(ema|model_ema|ema_model|averaged_model)\.")
COUNTER = "n_averaged"  # of torch's AveragedModel
# What a Lightning module has beside its model: weights of classes, states of metrics.
TRAINING = re.compile(
    r"^(criterion|loss\w*|metrics?|accuracy|acc|(train|val|valid|test)_\w+)\."
)


def find_state_dict(content: Any, part: str, path: Path) -> Tensors:
    """The tensors by name in the content of a torch file.

    Args:
        content: nested mappings, with arrays as leaves.
        part: the key of a mapping, or the beginning of the names that are wanted; ""
            for the averaged weights, if there are any, or else the only ones.

    Raises:
        FileError: there are no tensors by name, or none of that part.
    """
    while isinstance(content, Mapping):
        found = [
            key
            for key in (part, *AVERAGES, *WRAPPERS)
            if isinstance(content.get(key), Mapping) and content[key]
        ]
        if not found:
            break
        key, others = found[0], [key for key in found[1:] if key in WRAPPERS]
        if key == part:
            part = ""
        elif key in AVERAGES:
            report_average(f"{path}:{key}", f"{path}:{others[0]}" if others else "")
        content = content[key]
    tensors = {
        str(name): tensor
        for name, tensor in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(tensor, np.ndarray)
    }
    if not tensors:
        raise FileError(
            f"{path} holds no state dict: wanted tensors by name, as "
            "torch.save(model.state_dict(), path) writes them"
        )
    return select(tensors, part, path) if part else tensors


def report_average(taken: str, other: str) -> None:
    """Says that averaged weights are taken; as a warning if there are others."""
    if other:
        logger.warning(f"{taken}: averaged weights are taken; {other} has the others")
    else:
        logger.info(f"{taken}: averaged weights are taken, there are no others")


def select(tensors: Tensors, subtree: str, path: Path) -> Tensors:
    """The tensors below a name such as `img`, itself below `params` perhaps.

    Raises:
        FileError: there are none.
    """
    for prefix in (f"{subtree}/", f"params/{subtree}/", f"{subtree}."):
        below = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if below:
            return below
    names = sorted(
        {re.split(r"[/.]", name.removeprefix("params/"))[0] for name in tensors}
    )
    raise FileError(
        f"{path} has no tensors below {subtree!r}: wanted one of {', '.join(names[:8])}"
    )


def without_prefix(tensors: Tensors, path: Path) -> Tensors:
    """The tensors by the names of the model itself, averaged ones first.

    Raises:
        FileError: several models are there, and none is an average of another.
    """
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        prefix = found[0] if (found := PREFIX.match(name)) else ""
        if name.removeprefix(prefix) != COUNTER:
            groups.setdefault(prefix, {})[name.removeprefix(prefix)] = tensor
    if len(groups) > 1 and (
        beside := [x for x in groups.get("", ()) if TRAINING.match(x)]
    ):
        logger.info(f"{path}: {', '.join(beside)} left out, no part of the model")
        for name in beside:
            del groups[""][name]
        if not groups[""]:
            del groups[""]
    averages = [prefix for prefix in groups if AVERAGED.search(prefix)]
    others = [prefix for prefix in groups if prefix not in averages]
    for average in averages:
        if all(groups[average].keys() & groups[other].keys() for other in others):
            other = f"{path}:{others[0].rstrip('.')}" if others else ""
            report_average(f"{path}:{average.rstrip('.')}", other)
            return groups[average]
    merged: Tensors = {}
    for prefix, group in groups.items():
        if both := merged.keys() & group.keys():
            names = " and ".join(name.rstrip(".") or "no prefix" for name in groups)
            raise FileError(
                f"{path} holds several models, below {names}, which all have "
                f"{min(both)}: name one, as {path}:{prefix.rstrip('.')}"
            )
        merged |= group
    return merged
