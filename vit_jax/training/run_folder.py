"""The folder of a run: its config, and what may change when it is gone on with."""

import functools
import platform
from importlib import metadata
from pathlib import Path

import jax
import ml_collections

from vit_jax.checkpoints import integrity
from vit_jax.config import ConfigError, difference, load_config
from vit_jax.storage.paths import medium


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computes a run, as they are installed here."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in names
    }


# Files that a run adds to, besides TensorBoard's, of which each start has its own.
GROWING = ("metrics.jsonl", "skipped.txt")


# Keys that do not change a single number of the run.
CHANGEABLE_KEYS = (
    "log.",
    "checkpoint.",
    "mesh.",
    "guard.",
    "model.scan",
    "model.remat",
    "train.step_timeout",
    "train.deterministic",
    "eval.batch_size",
    "fewshot.",
    "knn.",
    "data.workers",
    "data.num_threads",
    "data.cache",
    "data.data_dir",
    "data.stage",
)


def begin_folder(
    folder: Path, config: ml_collections.ConfigDict, *, allow_change: bool
) -> None:
    """Makes the folder and writes the config, or checks the one that is there.

    Of several processes, the first one writes.

    Before the first checkpoint there is nothing that another config could spoil.

    Raises:
        ConfigError: the folder was begun with another config; lists what differs.
    """
    path = folder / "config.json"
    begun = medium(path).exists(path) and integrity.steps(folder / "checkpoints")
    if begun and not allow_change:
        changes = [
            f"  {key}: {old!r} there, {new!r} now"
            for key, (old, new) in difference(load_config(path), config).items()
            if not key.startswith(CHANGEABLE_KEYS)
        ]
        if changes:
            raise ConfigError(
                f"{folder} was begun with another config:\n"
                + "\n".join(changes)
                + "\nTake another --workdir, or --allow-config-change to go on here"
            )
    if jax.process_index() == 0:
        medium(folder).make_folder(folder)
        integrity.write_atomically(path, config.to_json(indent=2) + "\n")
