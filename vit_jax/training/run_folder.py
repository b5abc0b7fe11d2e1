"""The folder of a run: its config, and what may change when it is gone on with."""

import contextlib
import functools
import logging
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
import ml_collections

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.agreement import from_primary
from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import EVALUATORS, ConfigError
from vit_jax.parallel import distributed
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
# Keys of the config that are paths of data.
DATA_PATHS = (
    *(("data", key) for key in ("name", "data_dir", "stage")),
    *((section, key) for section in EVALUATORS for key in ("name", "data_dir")),
)


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
    if integrity.steps(folder / "checkpoints") and not allow_change:
        refuse_changes(str(folder), saved_config(folder), config)
    if jax.process_index() == 0:
        medium(folder).make_folder(folder)
        integrity.write_atomically(path, config.to_json(indent=2) + "\n")


def with_known_paths(
    config: ml_collections.ConfigDict, folder: Path
) -> ml_collections.ConfigDict:
    """The config of a run that goes on, which finds its data from any folder.

    A relative path is of the folder that a command is started in. Where it leads to
    nothing, the path that the run was begun with is taken, if it ends in the same names
    and is still there, and that is said.

    Raises:
        ConfigError: the data are at neither place.
    """
    path = folder / CONFIG
    if not medium(path).exists(path):
        return config
    try:
        begun = load_config(path)
    except ConfigError:
        return config  # `begin_folder` says that it is damaged
    config = config.copy_and_resolve_references()
    for section, key in DATA_PATHS:
        told, known = data_path(config, section, key), data_path(begun, section, key)
        names = os.path.normpath(told).split(os.sep)
        ending = os.sep + os.sep.join(name for name in names if name != os.pardir)
        gone = told and not os.path.isabs(told) and not os.path.exists(told)
        if not gone or not known.endswith(ending):
            continue
        if os.path.exists(known):
            distributed.say(
                f"there is no {told} in {os.getcwd()}: {section}.{key} is {known}, as "
                "when the run was begun"
            )
            config[section][key] = known
        elif key == "name":
            raise ConfigError(
                f"there is no {told} in {os.getcwd()}, nor {known}, with which the run "
                f"was begun: give the path of the data as {section}.name"
            )
    return config


def with_absolute_paths(
    config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
    """The config as it is saved: its data are found from any folder.

    Names of tensorflow-datasets, buckets and paths from `~` stay as they are.
    """
    # Imported where it is used: it knows every format of data.
    from vit_jax.data.openers import is_local

    config = config.copy_and_resolve_references()
    for section, key in DATA_PATHS:
        text = data_path(config, section, key)
        data_dir = data_path(config, section, "data_dir")
        is_name = key == "name" and not is_local(text, data_dir)
        if text and not is_name and "://" not in text and not text.startswith("~"):
            config[section][key] = os.path.abspath(text)
    return config


def data_path(config: ml_collections.ConfigDict, section: str, key: str) -> str:
    """A path of data; "" where a config that is not checked yet has none."""
    values = config[section] if section in config else None
    has_key = isinstance(values, ml_collections.ConfigDict) and key in values
    return values[key] if has_key and isinstance(values[key], str) else ""


def has_moved(old: str, new: str) -> bool:
    """Whether a folder of data is gone, and one of its name stands elsewhere."""
    same_name = os.path.basename(old) == os.path.basename(new)
    return os.path.isabs(old) and same_name and not os.path.exists(old)


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
    """Raises ConfigError if keys that count differ; `begun` is what has the old.

    Data may have moved to another place: their classes and records are compared too,
    see `resume.py`.
    """
    lines = [
        f"  {key}: {there!r} there, {here!r} now"
        for key, (there, here) in changes(with_absolute_paths(old), new).items()
        if key != "data.name" or not has_moved(there, here)
    ]
    if lines:
        raise ConfigError(
            f"{begun} was begun with another config:\n"
            + "\n".join(lines)
            + "\nTake another --workdir, or --allow-config-change to go on here"
        )
