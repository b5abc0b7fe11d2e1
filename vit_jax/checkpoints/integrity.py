"""Whether the files of a checkpoint are whole, on a disk or in a bucket."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.checkpoints.fingerprint import host_fingerprint
from vit_jax.storage.errors import StoreError
from vit_jax.storage.paths import medium, write_atomically

MANIFEST = "manifest.json"
FINGERPRINTS, METRICS = "fingerprints", "metrics"  # keys of a step's metadata
# Orbax's file in a step.
METADATA = "_CHECKPOINT_METADATA"


def steps(directory: Path) -> list[int]:
    """The committed steps in a folder of checkpoints, oldest first."""
    return medium(directory).steps(directory)


def open_folder(directory: Path) -> str:
    """Makes a folder of checkpoints, or tidies the one that is there."""
    medium(directory).open_folder(directory)
    return tidy(directory)


def tidy(directory: Path) -> str:
    """Removes saves and removals that were cut short; returns their names."""
    return medium(directory).tidy(directory)


def set_aside(folder: Path) -> str:
    """Moves a damaged step to `damaged/` beside the checkpoints; returns where to."""
    aside = folder.parent.parent / "damaged" / folder.name
    while medium(aside).exists(aside):
        aside = aside.with_name(aside.name + "_again")
    medium(aside).move(folder, aside)
    return str(aside)


def write_manifest(folder: Path) -> None:
    """Writes size and SHA-256 of every file in `folder` to its manifest, atomically."""
    entries = {
        name: {"bytes": size, "sha256": medium(folder).sha256(folder / name)}
        for name, size in medium(folder).files(folder).items()
        if Path(name).name != MANIFEST
    }
    write_atomically(folder / MANIFEST, json.dumps(entries, indent=1))


def verify(folder: Path) -> str:
    """Reads all of a step and compares it with what was saved.

    Files are compared with the checksums of the manifest. Where a kill came before the
    manifest was written, arrays are compared with their fingerprints.

    Returns:
        The problem; empty if there is none.

    Raises:
        PermissionError, StoreError: a file may not be read, or the bucket does not
            answer; the step may be whole.
    """
    if not medium(folder).exists(folder / MANIFEST):
        return verify_arrays(folder)
    entries = read_manifest(folder)
    if entries is None:
        return f"{MANIFEST} is not readable"
    for name, entry in entries.items():
        try:
            digest = medium(folder).sha256(folder / name)
        except OSError as error:
            return why_unreadable(name, error)
        if digest != entry["sha256"]:
            return f"the checksum of {name} is wrong"
    return ""


def verify_sizes(folder: Path) -> str:
    """Like `verify`, but checks only that each file is there and has its size."""
    if not medium(folder).exists(folder / MANIFEST):
        return ""
    entries = read_manifest(folder)
    if entries is None:
        return f"{MANIFEST} is not readable"
    sizes = medium(folder).files(folder)
    for name, entry in entries.items():
        if name not in sizes:
            return f"{name} is missing"
        size = sizes[name]
        if size != entry.get("bytes", size):
            return f"{name} has {size} bytes, and had {entry['bytes']}"
    return ""


def verify_arrays(folder: Path) -> str:
    """Compares every array of a step with its fingerprint in the metadata."""
    fingerprints = read_metadata(folder).get(FINGERPRINTS)
    if fingerprints is None:
        return f"it has no {MANIFEST}, and no fingerprints to check its arrays by"
    state = folder / "state"
    own = state / "array_metadatas"
    for path in (state / "_METADATA", *(own / name for name in medium(own).files(own))):
        if not read_json(path):
            return f"{path.relative_to(folder)} is missing or not JSON"
    for name, fingerprint in fingerprints.items():
        try:
            array = read_array(folder, name)
        except ValueError as error:
            return f"{name} cannot be read ({str(error).split(': ')[0]})"
        if host_fingerprint(array) != fingerprint:
            return f"the values of {name} are not those that were saved"
    return ""


def read_array(folder: Path, name: str) -> np.ndarray:
    """An array of a step by its dotted path, whole, on the host.

    Raises:
        ValueError: it is not there, or cannot be decoded.
    """
    import tensorstore  # Late: a step without a manifest is rare.

    base = medium(folder).kvstore(folder / "state")
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    spec = {"driver": "zarr3", "kvstore": store}
    return tensorstore.open(spec).result().read().result()


def why_unreadable(name: str, error: OSError) -> str:
    """Why a file cannot be read; raises errors that say nothing about its content."""
    if isinstance(error, PermissionError | StoreError):
        raise error
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    return f"{name} cannot be read: {error.strerror}"


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Size and checksum by file name; None if the manifest is not readable."""
    try:
        entries = json.loads(medium(folder).read_text(folder / MANIFEST))
        # The first runs have only checksums.
        return {
            name: {"sha256": entry} if isinstance(entry, str) else entry
            for name, entry in entries.items()
        }
    except (ValueError, AttributeError):
        return None


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that a step was saved with; empty if it cannot be read."""
    return read_json(folder / METADATA).get("custom_metadata") or {}


def read_user_metadata(folder: Path) -> dict[str, Any]:
    """`read_metadata` without the keys that are ours."""
    own = (FINGERPRINTS, METRICS)
    return {key: x for key, x in read_metadata(folder).items() if key not in own}


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics that a step was saved with; empty if there are none."""
    # The first runs have them in a file of their own.
    return read_metadata(folder).get(METRICS) or read_json(folder / "metrics/metrics")


def read_json(path: Path) -> dict[str, Any]:
    """A dict from a JSON file; empty if it is not there or damaged."""
    try:
        content = json.loads(medium(path).read_text(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
