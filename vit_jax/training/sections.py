"""Which keys a config may have: those of the constructors that read its sections."""

import functools
from collections.abc import Callable

import ml_collections

from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import EVALUATORS, ConfigError, Keys, keywords
from vit_jax.data.mix import make_mix
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.means import Evaluator
from vit_jax.losses import make_loss
from vit_jax.models import FAMILIES, create_model
from vit_jax.parallel.sharding import make_mesh
from vit_jax.training.guard import Guard
from vit_jax.training.metrics import Writer
from vit_jax.training.objectives import make_objective
from vit_jax.training.optim import make_optimizer, make_schedule
from vit_jax.training.step import make_train_step


def needed(*keys: str) -> Keys:
    """Keys that the training itself reads."""
    return dict.fromkeys(keys, True)


@functools.cache
def config_sections() -> dict[str, Keys]:
    """The keys of each section, and whether they are needed.

    What a constructor is given by the run itself, and not by the config, is named as
    `provided`.
    """
    sizes = ("num_classes", "image_size", "patch_size", "patch_outputs", "parent")
    families = [keywords(family, provided=sizes) for family in FAMILIES.values()]
    objective = keywords(make_objective, provided=("model", "loss", "mix"))
    step = ("objective", "optimizer", "schedule", "guard")
    writer = ("workdir", "config", "total_steps", "start_step", "show", "folder")
    return {
        "seed": {},
        "init": {},
        "resample": {},
        "model": {key: False for family in families for key in family}
        | keywords(create_model, provided=sizes),
        "data": keywords(Data),
        "objective": objective,
        "mix": keywords(make_mix),
        "loss": keywords(make_loss),
        "optim": keywords(make_schedule, provided=("total_steps",))
        | keywords(make_optimizer, provided=("params", "rate")),
        "train": needed("duration", "step_timeout", "deterministic")
        | keywords(make_train_step, provided=step),
        "guard": keywords(Guard),
        "sweep": needed("learning_rates", "train_split", "dev_split", "best_weights"),
        "eval": needed("every", "splits", "batch_size"),
        **{
            name: needed("every")
            | keywords(evaluator_class(name), provided=("model", "data", "mesh"))
            for name in EVALUATORS
        },
        "checkpoint": needed("every", "best_weights")
        | keywords(Checkpoints, provided=("directory", "read_only")),
        "log": needed("every") | keywords(Writer, provided=writer),
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
        ConfigError: neither of them, or there is no average.
    """
    weights = config[section].best_weights
    if weights not in ("params", "ema"):
        raise ConfigError(
            f"{section}.best_weights must be one of params, ema, got {weights!r}"
        )
    if weights == "ema" and not config.train.ema_decay:
        raise ConfigError(
            f"{section}.best_weights=ema needs an average of the parameters: set "
            "train.ema_decay, such as 0.9999"
        )
    return split if weights == "params" else f"{split}_ema"
