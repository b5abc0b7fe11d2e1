"""The models that configs describe, and their compute, without training."""

import ml_collections

from vit_jax.models import AnyModel
from vit_jax.planning.estimate import DATA_SETS
from vit_jax.planning.flops import model_macs
from vit_jax.training.setup import build_model


def model_of(config: ml_collections.ConfigDict, platform: str = "cpu") -> AnyModel:
    """The model that a config trains on the devices of a platform.

    Raises:
        ValueError: the config names no classes and its data set is not a known one.
    """
    classes = len(config.data.classes)
    if not classes and config.data.name not in DATA_SETS:
        raise ValueError(
            f"the number of classes of {config.data.name!r} is not known: name them in "
            "data.classes"
        )
    classes = classes or DATA_SETS[config.data.name][1]
    return build_model(config, classes, platform)[0]


def macs_of(config: ml_collections.ConfigDict) -> int:
    """Multiply-adds of the forward pass of one image."""
    return model_macs(model_of(config))
