"""What a run knows of its labels besides their names: how many an image has, weights.

All that cannot be done with several labels an image is refused here, by its key.
"""

from typing import Annotated, NamedTuple

import ml_collections
import numpy as np

from vit_jax.config import ConfigError, chosen
from vit_jax.data.pipeline import SAMPLINGS, Data
from vit_jax.data.source_types import is_multi_label
from vit_jax.losses import Weights
from vit_jax.values import Choice


class Labels(NamedTuple):
    """How the labels of a run are to be learned.

    Attributes:
        several: an image may have several: `label` of a batch is uint8 (b, classes).
        weights: of the terms of the loss in training; None for equal ones.
    """

    several: bool
    weights: Weights | None


ONE_LABEL = Labels(several=False, weights=None)


def read_labels(config: ml_collections.ConfigDict, data: Data) -> Labels:
    """Looks at the labels of the splits that a run uses.

    Raises:
        ConfigError: the config does not go with them.
    """
    several = data.is_multi_label()
    for split in config.eval.splits:
        source = data.source(split)
        if is_multi_label(source) != several:
            words = ("exactly one label", "any number of labels")
            raise ConfigError(
                f"an image of {data.name} has {words[several]} in {data.split} and "
                f"{words[not several]} in {split}: both must be alike"
            )
        if several and not source.labels().any():
            raise ConfigError(
                f"no image in {split} of {data.name} has a label, so that there is "
                "nothing to measure: choose other eval.splits"
            )
    if config.objective.name == "masked_patch":
        return Labels(several, None)
    if several:
        refuse_one_label(config, data.name)
    elif config.checkpoint.best_metric == "map":
        raise ConfigError(
            f"checkpoint.best_metric is 'map', and an image of {data.name} has one "
            "label: take 'accuracy' or 'top5'"
        )
    weights = make_weights(data, config.loss.name, **chosen(config.loss, make_weights))
    return Labels(several, weights)


def refuse_one_label(config: ml_collections.ConfigDict, name: str) -> None:
    """Raises ConfigError for what needs exactly one label an image."""
    several = f"an image of {name} may have several labels"
    wanted = {"loss.name": "sigmoid", "checkpoint.best_metric": "map"}
    found = {
        "loss.name": config.loss.name,
        "checkpoint.best_metric": config.checkpoint.best_metric,
    }
    if found != wanted:
        keys = [
            f"--config.{key}={value}"
            for key, value in wanted.items()
            if found[key] != value
        ]
        raise ConfigError(f"{several}: set {' '.join(keys)}")
    if config.loss.label_smoothing:
        raise ConfigError(
            f"{several}, and loss.label_smoothing is for one: set it to 0"
        )
    if config.objective.name == "distillation":
        raise ConfigError(
            f"{several}, and objective.name='distillation' learns one: take "
            "'classification'"
        )


def make_weights(
    data: Data,
    loss_name: str,
    *,
    class_weights: Annotated[str, Choice("", *SAMPLINGS)] = "",
) -> Weights | None:
    """The weights that level classes of unequal size, from the training split.

    With the softmax loss an image weighs as its class does, in the mean of all images
    1. The sigmoid loss asks of each class whether an image has it: there "yes" and "no"
    are the two classes that are levelled.

    Args:
        data: with several labels an image, or one.
        class_weights: "" for none, or a kind of `balance.class_weights`. Older runs do
            not name it.

    Raises:
        ConfigError: a class that no image has, or that each has.
    """
    if not class_weights:
        return None
    from vit_jax.data.balance import class_weights as weights_of

    labels, names = data.source(data.split).labels(), data.label_names()
    if labels.ndim == 2:
        counts = labels.sum(0, dtype=np.int64)
    else:
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
    total = len(labels)
    for name, count in zip(names, counts, strict=True):
        if not count or (loss_name == "sigmoid" and count == total):
            raise ConfigError(
                f"loss.class_weights={class_weights!r} needs images with and without "
                f"each class, and {count:,} of {total:,} in {data.split} of "
                f"{data.name} have {name!r}: set it to '', or leave the class out with "
                "data.classes"
            )
    if loss_name == "softmax":
        present = weights_of(counts, class_weights)
        return Weights(present.astype(np.float32), np.zeros(len(names), np.float32))
    pairs = [weights_of(np.array([c, total - c]), class_weights) for c in counts]
    present, absent = np.array(pairs, np.float32).T
    return Weights(present, absent)
