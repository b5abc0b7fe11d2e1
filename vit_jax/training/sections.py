"""Which keys a config may have: those of the constructors that read its sections."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import ml_collections

from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import (
    EVALUATORS,
    ConfigError,
    Duration,
    Interval,
    Key,
    Keys,
    keywords,
)
from vit_jax.data.mix import make_mix
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.means import Evaluator
from vit_jax.losses import make_loss
from vit_jax.models import DTYPES, FAMILIES, create_model
from vit_jax.models.resample import MATRICES
from vit_jax.parallel.sharding import make_mesh
from vit_jax.training.guard import Guard
from vit_jax.training.labels import make_weights
from vit_jax.training.metrics import Writer
from vit_jax.training.objectives import make_objective
from vit_jax.training.optim import make_optimizer, make_schedule
from vit_jax.training.step import make_train_step
from vit_jax.values import Choice, Name, Names, Positive, Range, Size

# More is too long for a clock of the operating system.
Seconds = Annotated[float, Range(0, 1e9)]
Weights = Annotated[str, Choice("params", "ema")]


def needed(**kinds: Any) -> Keys:
    """Keys that the training itself reads, with what they may be."""
    return {name: Key(True, kind) for name, kind in kinds.items()}


def value(kind: Any) -> Keys:
    """A section that is a value itself."""
    return {"": Key(True, kind)}


@functools.cache
def config_sections() -> dict[str, Keys]:
    """The keys of each section, as their consumers declare them.

    What a constructor is given by the run itself, and not by the config, is named as
    `provided`.
    """
    sizes = ("num_classes", "image_size", "patch_size", "patch_outputs", "parent")
    families = [keywords(family, provided=sizes) for family in FAMILIES.values()]
    # An option of several families has the kind of the first; each checks its own.
    options = {
        name: key for family in reversed(families) for name, key in family.items()
    }
    objective = keywords(make_objective, provided=("model", "loss", "mix", "labels"))
    step = ("objective", "optimizer", "schedule", "guard")
    writer = ("workdir", "config", "total_steps", "start_step", "show", "folder")
    writer += ("written",)
    return {
        "seed": value(Annotated[int, Range(0, 2**32, right_open=True)]),
        "init": value(str),
        "resample": value(Annotated[str, Choice("auto", *MATRICES)]),
        "model": {name: Key(False, key.kind) for name, key in options.items()}
        | keywords(create_model, provided=(*sizes, "dtype"))
        | {"dtype": Key(False, Annotated[str, Choice("auto", *DTYPES)])},
        # Weights of others have data without a name, which a run cannot have.
        "data": keywords(Data) | needed(name=Name),
        "objective": objective,
        "mix": keywords(make_mix),
        "loss": keywords(make_loss, provided=("weights",))
        | keywords(make_weights, provided=("data", "loss_name")),
        "optim": keywords(make_schedule, provided=("total_steps",))
        | keywords(make_optimizer, provided=("params", "rate"))
        | needed(warmup=Duration, cooldown=Duration),
        "train": needed(duration=Duration, step_timeout=Seconds, deterministic=bool)
        | keywords(make_train_step, provided=step),
        "guard": keywords(Guard),
        "sweep": needed(
            learning_rates=tuple[Positive, ...],
            train_split=str,
            dev_split=str,
            best_weights=Weights,
        ),
        "eval": needed(every=Duration, splits=Names, batch_size=Size),
        **{
            name: needed(every=Interval)
            | keywords(evaluator_class(name), provided=("model", "data", "mesh"))
            for name in EVALUATORS
        },
        "checkpoint": keywords(Checkpoints, provided=("directory", "read_only", "hold"))
        | needed(every=Duration, keep_every=Duration, best_weights=Weights),
        "log": needed(every=Duration) | keywords(Writer, provided=writer),
        "mesh": keywords(make_mesh, provided=("devices",)),
    }


def evaluator_class(name: str) -> Callable[..., Evaluator]:
    """The evaluator of frozen features of a section such as `fewshot`."""
    # Imported here: the training step and its loop are to be read without them.
    from vit_jax.evaluation.fewshot import FewShot
    from vit_jax.evaluation.knn import Knn

    return {"fewshot": FewShot, "knn": Knn}[name]


def ranked_split(config: ml_collections.ConfigDict, section: str, split: str) -> str:
    """The name of the evaluation of a split by which a section compares.

    Args:
        section: "checkpoint" or "sweep", whose `best_weights` is `params` or `ema`.

    Raises:
        ConfigError: there is no average, or no such metric.
    """
    weights = config[section].best_weights
    metric = config.checkpoint.best_metric
    if config.objective.name == "masked_patch" and metric != "accuracy":
        raise ConfigError(
            f"checkpoint.best_metric is {metric!r}, which "
            "objective.name='masked_patch' does not measure: take 'accuracy'"
        )
    if weights == "ema" and not config.train.ema_decay:
        raise ConfigError(
            f"{section}.best_weights=ema needs an average of the parameters: set "
            "train.ema_decay, such as 0.9999"
        )
    return split if weights == "params" else f"{split}_ema"
