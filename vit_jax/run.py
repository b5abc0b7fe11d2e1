"""The folder of a run: begun, taken up again, read back."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vit_jax.checkpoint import CheckpointError, Checkpoints, write_atomically
from vit_jax.config import ConfigError, difference, load_config
from vit_jax.data.pipeline import Data
from vit_jax.models import VisionTransformer, create_model, init_params
from vit_jax.optim import path_name


class Run(NamedTuple):
    """A trained model and what is needed to use it."""

    model: VisionTransformer
    params: dict[str, Any]
    label_names: tuple[str, ...]
    data: Data  # its `eval_transform` prepares images as in training's evaluation
    config: ml_collections.ConfigDict
    step: int


def load_run(folder: str | Path, *, ema: bool = False) -> Run:
    """Loads the newest whole checkpoint of a run folder.

    Args:
        ema: take the moving average of the parameters.

    Raises:
        ConfigError: the folder is not that of a run.
        CheckpointError: it holds no checkpoint that can be read, or no average.
    """
    folder = Path(folder)
    config = load_config(folder / "config.json")
    if ema and not config.train.ema_decay:
        raise CheckpointError(
            f"{folder} holds no averaged parameters: its train.ema_decay is 0"
        )
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        label_names = checkpoints.newest_metadata()["label_names"]
        data = Data(**config.data)
        model = create_model(
            **config.model, num_classes=len(label_names), image_size=data.image_size
        )
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0)),
        )
        wanted = {"ema" if ema else "params": params}
        restored = checkpoints.restore(wanted, partial=True)
    finally:
        checkpoints.close()
    (params,) = restored.state.values()
    return Run(model, params, tuple(label_names), data, config, restored.step)


def versions() -> dict[str, str]:
    """Versions of what computes a run, as they are installed here."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in names
    }


# Keys that do not change a single number of the run.
FREE_KEYS = (
    "log.",
    "checkpoint.",
    "mesh.",
    "eval.batch_size",
    "data.workers",
    "data.num_threads",
    "data.cache",
    "data.data_dir",
)


def begin_folder(
    folder: Path, config: ml_collections.ConfigDict, *, allow_change: bool
) -> None:
    """Makes the folder and writes the config, or checks the one that is there.

    Before the first checkpoint there is nothing that another config could spoil.

    Raises:
        ConfigError: the folder was begun with another config; lists what differs.
    """
    path = folder / "config.json"
    begun = path.exists() and any(folder.glob("checkpoints/[0-9]*"))
    if begun and not allow_change:
        changes = [
            f"  {key}: {old!r} there, {new!r} now"
            for key, (old, new) in difference(load_config(path), config).items()
            if not key.startswith(FREE_KEYS)
        ]
        if changes:
            raise ConfigError(
                f"{folder} was begun with another config:\n"
                + "\n".join(changes)
                + "\nTake another --workdir, or --allow_config_change to go on here"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, config.to_json(indent=2) + "\n")


def warm_start(params: dict[str, Any], folder: str) -> dict[str, Any]:
    """Takes the parameters of another run; a head of another size starts from zero.

    Args:
        params: new parameters of the model that is to be trained.

    Raises:
        ValueError: other parameters differ; names them with both shapes.
    """
    loaded = load_run(folder).params
    heads = [jax.tree.map(jnp.shape, tree.get("head")) for tree in (loaded, params)]
    if heads[0] != heads[1]:
        print(f"init: the head of {folder} does not fit and is replaced by a new one")
        loaded = {**loaded, "head": params["head"]}
    shapes = [
        {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (loaded, params)
    ]
    there, here = shapes
    wrong = [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if wrong:
        raise ValueError(f"init={folder!r} does not fit the model: " + "; ".join(wrong))
    return loaded
