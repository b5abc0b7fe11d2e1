"""The folder of a run: its config, and what may change when it is gone on with."""

import contextlib
import functools
import logging
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
import ml_collections

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.agreement import from_primary
from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import ConfigError
from vit_jax.storage.lock import Hold, held
from vit_jax.storage.paths import medium
from vit_jax.storage.run_files import CONFIG, changes, config_of, load_config

logger = logging.getLogger(__name__)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computes a run, as they are installed here."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in names
    }


# Files that a run adds to, besides TensorBoard's, of which each start has its own.
GROWING = ("metrics.jsonl", "skipped.txt")


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[Hold | None]:
    """Holds the lock of a run folder: process 0 does, for all, and alone has it.

    Raises:
        FolderInUse: another run holds it.
        OSError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        holds = []
        from_primary(lambda: holds.append(stack.enter_context(held(folder))) or "")
        yield holds[0] if holds else None


def begin_folder(
    folder: Path, config: ml_collections.ConfigDict, *, allow_change: bool
) -> None:
    """Makes the folder and writes the config, or checks the one that is there.

    Of several processes, the first one writes.

    Before the first checkpoint there is nothing that another config could spoil.

    Raises:
        ConfigError: the folder was begun with another config; lists what differs.
    """
    path = folder / CONFIG
    begun = medium(path).exists(path) and integrity.steps(folder / "checkpoints")
    if begun and not allow_change:
        refuse_changes(str(folder), saved_config(folder), config)
    if jax.process_index() == 0:
        medium(folder).make_folder(folder)
        integrity.write_atomically(path, config.to_json(indent=2) + "\n")


def saved_config(folder: Path) -> ml_collections.ConfigDict:
    """The config of a run that has checkpoints; of the newest if its file is damaged.

    Raises:
        CheckpointError: no checkpoint has a config either.
    """
    try:
        return load_config(folder / CONFIG)
    except ConfigError as error:
        logger.warning("%s; it is written anew, as each step has its own", error)
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        return config_of(checkpoints.newest_facts())


def refuse_changes(
    begun: str, old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> None:
    """Raises ConfigError if keys that count differ; `begun` is what has the old."""
    lines = [
        f"  {key}: {there!r} there, {here!r} now"
        for key, (there, here) in changes(old, new).items()
    ]
    if lines:
        raise ConfigError(
            f"{begun} was begun with another config:\n"
            + "\n".join(lines)
            + "\nTake another --workdir, or --allow-config-change to go on here"
        )
