"""A loaded model for another task: its head, its image size, its patch size."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vit_jax.interop.layout import parameter_shapes
from vit_jax.models import AnyModel, Mixer, VisionTransformer
from vit_jax.models.positions import LEARNED
from vit_jax.models.resample import resample_params

logger = logging.getLogger(__name__)

Params = dict[str, Any]
# What classifies; the second one is that of a distillation token.
HEADS = ("head", "distillation_head")
# Attributes that change training alone, or how the same numbers are computed.
FREE = (
    "dropout_rate",
    "attention_dropout_rate",
    "stochastic_depth_rate",
    "stochastic_depth_uniform",
    "head_bias_init",
    "initialization",
    "attention_implementation",
    "scan",
    "remat",
    "dtype",
    "patch_outputs",
    "parent",
    "name",
)


def replace_head(
    model: AnyModel, params: Params, num_classes: int, *, keep_pre_logits: bool = False
) -> tuple[AnyModel, Params]:
    """Gives a model a zero head for another number of classes, or none for 0.

    A model with a distillation token gets two. A tanh layer before the head goes with
    it, as in the paper's fine-tuning (appendix D.3), unless it is kept or the
    representation itself is wanted (0 classes). What is lost is logged.

    Raises:
        ValueError: a negative number.
    """
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}: wanted at least 0")
    two = getattr(model, "distillation_token", False)
    old, be = ("both heads", "are") if two else ("the head", "is")
    lost = f"{old} of {model.num_classes} classes" if model.num_classes else ""
    params = {name: tree for name, tree in params.items() if name not in HEADS}
    if num_classes == 0:
        logger.info(f"{lost} {be} left out")
        return model.clone(num_classes=0), params
    new = model.clone(num_classes=num_classes)
    if getattr(model, "pre_logits", False) and not keep_pre_logits:
        new = new.clone(pre_logits=False)
        params.pop("pre_logits")
        lost = " and ".join(filter(None, (lost, "the tanh layer before it")))
    shape = parameter_shapes(new)["head/kernel"]
    for name in HEADS[: 1 + two]:
        params[name] = {
            "kernel": np.zeros(shape, np.float32),
            "bias": np.full(shape[1:], new.head_bias_init, np.float32),
        }
    head = f"{'two zero heads' if two else 'a zero head'} of {num_classes} classes"
    logger.info(f"{lost} replaced by {head}" if lost else f"{head} {be} put on")
    return new, params


def resize(
    model: AnyModel,
    params: Params,
    image_size: tuple[int, int] | None,
    patch_size: int | None,
    method: str,
) -> tuple[AnyModel, Params]:
    """Gives a model another image or patch size; logs what is resampled.

    The results are where the parameters are: on the host, or on the same devices.

    Raises:
        ValueError: the model cannot be changed so.
    """
    if patch_size is not None and not hasattr(model, "patch_size"):
        raise ValueError(
            f"patch_size={patch_size} is for models with patches, and a "
            f"{type(model).__name__} has none"
        )
    sizes: dict[str, Any] = {"image_size": tuple(image_size or model.image_size)}
    if patch_size is not None:
        sizes["patch_size"] = patch_size
    new = model.clone(**sizes)
    if all(getattr(model, name) == value for name, value in sizes.items()):
        return model, params
    parameter_shapes(new)  # raises ValueError for impossible sizes
    if not isinstance(model, VisionTransformer | Mixer):
        return new, params
    if isinstance(model, Mixer) and new.grid != model.grid:
        raise ValueError(
            "an MLP-Mixer has the number of its patches in its weights: with "
            f"patch_size={new.patch_size} its image size must be "
            f"{tuple(side * new.patch_size for side in model.grid)}, not "
            f"{new.image_size}"
        )
    before: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    params = resample_params(params, model, new, method)
    after: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    changed = {name for name in after if after[name].shape != before[name].shape}
    if isinstance(before["embedding/kernel"], np.ndarray):
        params = jax.tree.map(np.asarray, params)
    if "embedding/kernel" in changed:
        logger.info(
            f"patches resized from {model.patch_size} to {new.patch_size} pixels"
        )
    if changed - {"embedding/kernel"}:
        old, grid = ("x".join(map(str, m.grid)) for m in (model, new))
        logger.info(f"positions resampled from {old} to {grid} ({method})")
    return new, params


def attributes(model: AnyModel) -> dict[str, Any]:
    """The attributes of a model that its outputs depend on, parameters given."""
    values = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in FREE
    }
    if isinstance(model, VisionTransformer):
        values["layer_scale_init"] = bool(model.layer_scale_init)
        if model.has_class_token == model.clone(class_token="auto").has_class_token:
            del values["class_token"]
        if not model.has_class_token or model.positions not in LEARNED:
            del values["class_token_position"]
        if model.resnet_stem is None:
            values = {k: v for k, v in values.items() if not k.startswith("stem_")}
    return values
