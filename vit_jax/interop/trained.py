"""A trained model from wherever it is: a run, or a checkpoint of another project."""

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.typing import DTypeLike

from vit_jax.checkpoints.store import CheckpointError, Checkpoints
from vit_jax.config import ConfigError, chosen
from vit_jax.data import labels
from vit_jax.data.pipeline import Data
from vit_jax.interop import Facts, adapt, load_checkpoint
from vit_jax.interop.files import FOLDER_FILES
from vit_jax.interop.public import resolve
from vit_jax.losses import make_loss
from vit_jax.models import AnyModel, create_model, init_params
from vit_jax.models.depth import unstack_blocks
from vit_jax.parallel import sharding
from vit_jax.parallel.placement import place_params, unstack_layers
from vit_jax.storage.paths import in_bucket, medium
from vit_jax.storage.run_files import (
    CONFIG,
    changes,
    config_of,
    facts_of,
    load_config,
)

logger = logging.getLogger(__name__)

# An image has several labels in ImageNet-21k, so its heads are trained with the sigmoid
# (BiT, AugReg, big_vision). The order of the classes is the same under both losses.
SIGMOID_CLASSES = 21843
FSDP_HELP = "devices over which the parameters are divided; -1 for all (default: 1)"


class TrainedModel(NamedTuple):
    """A trained model and what is needed to use it.

    Attributes:
        label_names: one for each output of the model.
        data: its `eval_transform` prepares images as the model expects them; its `name`
            is "" for a checkpoint of another project.
        loss: options of `make_loss`; its name says how logits become probabilities.
        step: step of the training; 0 if unknown.
        source: description of what was loaded.
        config: config of the training; None for a checkpoint of another project.
        multi_label: whether an image has any number of the labels.
    """

    model: AnyModel
    params: dict[str, Any]
    label_names: tuple[str, ...]
    data: Data
    loss: dict[str, Any]
    step: int
    source: str
    config: ml_collections.ConfigDict | None
    multi_label: bool = False


def load_trained(
    path: str | Path,
    *,
    ema: bool = False,
    step: int | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    resample: str = "auto",
    dtype: DTypeLike = "auto",
    mesh: jax.sharding.Mesh | None = None,
    told: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> TrainedModel:
    """Loads a run or a checkpoint of another project, perhaps for another task.

    Args:
        path: the folder of a run, whose newest whole checkpoint is taken; or what
            `interop.public.resolve` takes: a file, a folder, a public name, an address.
        ema: take the moving average of the parameters of a run.
        step: take this checkpoint of a run and not the newest.
        num_classes, image_size, patch_size, resample: as in `load`.
        dtype: of the computation; "auto" is the run's own, else as in `create_model`.
        mesh: from `sharding.make_mesh`; each of its devices gets its part of the
            parameters, divided as in training. None puts all on the first device or,
            with several processes, on every device.
        told: attributes of the model where a file does not tell them; a run tells all.
        **options: attributes of the model, such as `dropout_rate`; `layout` of a file.

    Raises:
        ConfigError, CheckpointError, ValueError, OSError: as `load`.
    """
    path, mesh = resolve(path), mesh or sharding.undivided()
    sharding.check_axes(mesh)
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    if not is_run_folder(path):
        if ema or step is not None:
            raise CheckpointError(
                f"{path} is not the folder of a run: it has no averaged parameters and "
                "no steps to choose from, so leave out ema and step"
            )
        loaded = load_checkpoint(
            path,
            num_classes=num_classes,
            resample=resample,
            dtype=dtype,
            mesh=mesh,
            image_size=image_size,
            patch_size=patch_size,
            told=told,
            **options,
        )
        logger.info(f"{path}: {loaded.description}")
        return from_checkpoint(*loaded)
    if not (isinstance(dtype, str) and dtype == "auto"):
        options["dtype"] = dtype
    run = load_folder(path, ema, step, options, mesh)
    model, params, names = run.model, run.params, run.label_names
    run = run._replace(params={})  # frees arrays as soon as they are replaced
    if num_classes is not None and num_classes != model.num_classes:
        model, params = adapt.replace_head(model, params, num_classes)
        names = labels.label_names(num_classes)
    resample = "bilinear" if resample == "auto" else resample
    model, params = adapt.resize(model, params, image_size, patch_size, resample)
    params = place_params(params, mesh)
    data = fitted(run.data, model.image_size)
    return run._replace(model=model, params=params, label_names=names, data=data)


def is_run_folder(path: Path) -> bool:
    """Whether a path is the folder of a run: any folder without weights in it."""
    if in_bucket(path):  # `resolve` downloads everything else
        return True
    if not path.is_dir():
        return False
    names = (*FOLDER_FILES, "adapter_config.json")
    weights = any((path / name).exists() for name in names)
    return (path / "checkpoints").is_dir() or not weights


def load_model(path: str | Path) -> AnyModel:
    """The model of what `load_trained` takes; its parameters are put on no device.

    Raises:
        ConfigError, CheckpointError, ValueError, OSError: as `load_trained`.
    """
    path = resolve(path)
    if not is_run_folder(path):
        return load_checkpoint(path).model
    written_config(path)
    checkpoints = Checkpoints(path / "checkpoints", read_only=True)
    facts = checkpoints.newest_facts()
    return folder_model(config_of(facts), facts["label_names"], {})


def written_config(folder: Path) -> ml_collections.ConfigDict | None:
    """The `config.json` of a run; None, with a warning, if it is damaged.

    Raises:
        ConfigError: there is none, so that this is no folder of a run.
    """
    path = folder / CONFIG
    exists = medium(path).exists(path)
    try:
        return load_config(path)
    except ConfigError as error:
        if not exists:
            raise
        logger.warning("%s; the config that the step was saved with is taken", error)
        return None


def folder_model(
    config: ml_collections.ConfigDict, label_names: Sequence[str], options: Any
) -> AnyModel:
    """The model of a run, not scanned."""
    return create_model(
        **(dict(config.model) | {"scan": False} | options),
        num_classes=len(label_names),
        image_size=config.data.image_size,
    )


def load_folder(
    folder: Path,
    ema: bool,
    step: int | None,
    options: dict[str, Any],
    mesh: jax.sharding.Mesh,
) -> TrainedModel:
    """The newest whole checkpoint of a run folder, or that of a step, not stacked."""
    written = written_config(folder)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:

        def saved_params(metadata: dict[str, Any]) -> dict[str, Any]:
            facts = facts_of(metadata)
            config = config_of(facts)
            if ema and not config.train.ema_decay:
                raise CheckpointError(
                    f"{folder} holds no averaged parameters: its train.ema_decay is 0"
                )
            model = folder_model(config, facts["label_names"], options)
            saved = model.clone(scan=True) if config.model.scan else model
            key = jax.random.key(0)
            shapes = jax.eval_shape(functools.partial(init_params, saved), key)
            placed = sharding.state_shardings(shapes, shapes, mesh)
            return {"ema" if ema else "params": sharding.abstract(shapes, placed)}

        restored = checkpoints.restore(saved_params, partial=True, step=step)
    finally:
        checkpoints.close()
    if restored is None:
        raise CheckpointError(f"there is no checkpoint in {folder / 'checkpoints'}")
    (params,) = restored.state.values()
    facts = facts_of(restored.metadata)
    config = config_of(facts)
    for key, (there, here) in changes(written or config, config).items():
        logger.warning(
            f"{folder / CONFIG} says {key}={there!r}, but step {restored.step} was "
            f"trained with {here!r}, which is taken"
        )
    check_finite(params, f"step {restored.step} of {folder}", mesh)
    return TrainedModel(
        folder_model(config, facts["label_names"], options),
        unstack_blocks(params, unstack_layers),
        tuple(facts["label_names"]),
        Data(**config.data),
        loss=chosen(config.loss, make_loss),
        step=restored.step,
        source=f"step {restored.step} of {folder}",
        config=config,
        multi_label=facts.get("multi_label", False),
    )


def check_finite(params: dict[str, Any], source: str, mesh: jax.sharding.Mesh) -> None:
    """Raises CheckpointError for parameters that are NaN or infinite, by name."""

    def finite(tree: dict[str, Any]) -> Any:
        return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)

    found = jax.jit(finite, out_shardings=sharding.replicated(mesh))(params)
    for path, is_finite in jax.tree.leaves_with_path(found):
        if not is_finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CheckpointError(
                f"{name} in {source} holds numbers that are NaN or infinite: the "
                "training diverged, and what it has learned is lost"
            )


def from_checkpoint(
    model: AnyModel, params: dict[str, Any], facts: Facts, description: str
) -> TrainedModel:
    """The facts of another project's checkpoint, or else the usual defaults."""
    names = facts.label_names
    if len(names) != model.num_classes:
        names = labels.label_names(model.num_classes)
    share = facts.crop_share
    settings = {
        "eval_crop": facts.eval_crop,
        "eval_interpolation": facts.interpolation,
        # Rounded down as timm does; 1e-6 more, since 0.7 / 0.1 < 7.
        "eval_resize": math.floor(max(model.image_size) / share + 1e-6) if share else 0,
    }
    data = Data(
        name="",
        batch_size=1,
        image_size=model.image_size,
        **{key: value for key, value in settings.items() if value},
    )
    sigmoid = model.num_classes == SIGMOID_CLASSES
    loss = {"name": "sigmoid" if sigmoid else "softmax", "label_smoothing": 0.0}
    return TrainedModel(model, params, names, data, loss, 0, description, None)


def fitted(data: Data, image_size: tuple[int, int]) -> Data:
    """The data of a run for another image size, with the same share of the crops.

    Objects on a canvas keep their size in pixels.
    """
    scale = 1 if data.object_size else max(image_size) / max(data.image_size)
    return dataclasses.replace(
        data,
        image_size=image_size,
        crop_resize=round(data.crop_resize * scale),
        eval_resize=round(data.eval_resize * scale),
    )
