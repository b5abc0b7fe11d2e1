"""Whether the files of a checkpoint are whole, on a disk or in a bucket.

The manifest has a checksum of every file, the metadata with the config and the labels
among them, and one of itself. The metadata has one of its own for a step that a kill
left without a manifest.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np

from vit_jax.checkpoints.fingerprint import host_fingerprint
from vit_jax.storage.errors import StoreError
from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import medium, write_atomically
from vit_jax.values import Condition, Measured, Range, problem

MANIFEST = "manifest.json"
# Keys of a step's metadata that are ours, and not those of who saves it.
FINGERPRINTS, METRICS, CHECKSUM = "fingerprints", "metrics", "checksum"
OWN = (FINGERPRINTS, METRICS, CHECKSUM)
# Orbax's file in a step.
METADATA = "_CHECKPOINT_METADATA"


class FileEntry(TypedDict):
    """A file as it was saved."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """The files of a step, and the checksum of their list."""

    files: dict[str, FileEntry]
    sha256: str


# Of older runs, without a checksum of itself; of the first ones, only checksums.
OldManifest = Annotated[
    dict[str, FileEntry | str], Condition("the files of a step", bool)
]


class UserMetadata(TypedDict):
    """The part of a step's metadata that is ours."""

    fingerprints: NotRequired[dict[str, int]]
    metrics: NotRequired[dict[str, Measured] | None]
    checksum: NotRequired[str]


class Metadata(TypedDict):
    """Orbax's file, as far as it is read here."""

    commit_timestamp_nsecs: NotRequired[Annotated[int, Range(0, 2**63)]]
    custom_metadata: NotRequired[UserMetadata | None]


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
    entries: dict[str, FileEntry] = {
        name: {"bytes": size, "sha256": medium(folder).sha256(folder / name)}
        for name, size in medium(folder).files(folder).items()
        if Path(name).name != MANIFEST
    }
    manifest = {"files": entries, "sha256": digest(entries)}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))


def digest(value: Any) -> str:
    """SHA-256 of a value of JSON, however it is laid out in a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
    if problem := verify_sizes(folder):
        return problem
    for name, entry in read_manifest(folder).items():
        try:
            found = medium(folder).sha256(folder / name)
        except OSError as error:
            return why_unreadable(name, error)
        if found != entry["sha256"]:
            return f"the checksum of {name} is wrong"
    return ""


def verify_file(folder: Path, name: str) -> None:
    """Raises ValueError if the manifest, where there is one, has another checksum."""
    if medium(folder).exists(folder / MANIFEST):
        entry = read_manifest(folder).get(name, {})
        if entry.get("sha256") != medium(folder).sha256(folder / name):
            raise ValueError(f"the checksum of {name} is wrong")


def verify_sizes(folder: Path) -> str:
    """Like `verify`, but checks only that each file is there and has its size."""
    if not medium(folder).exists(folder / MANIFEST):
        return ""
    try:
        entries = read_manifest(folder)
    except ValueError as error:
        return str(error)
    sizes = medium(folder).files(folder)
    for name, entry in entries.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != entry.get("bytes", sizes[name]):
            return f"{name} has {sizes[name]} bytes, and had {entry['bytes']}"
    for name in sizes:
        if name.startswith(("state/", METADATA)) and name not in entries:
            if not Path(name).name.startswith("."):  # left by file systems
                return f"{name} is not in {MANIFEST}"
    return ""


def verify_arrays(folder: Path) -> str:
    """Compares every array of a step with its fingerprint in the metadata."""
    metadata = read_metadata(folder)
    fingerprints = metadata.get(FINGERPRINTS)
    if fingerprints is None:
        return f"it has no {MANIFEST}, and no fingerprints to check its arrays by"
    rest = {key: value for key, value in metadata.items() if key != CHECKSUM}
    if metadata.get(CHECKSUM, digest(rest)) != digest(rest):
        return f"the checksum within {METADATA} is wrong"
    state = folder / "state"
    own = state / "array_metadatas"
    for path in (state / "_METADATA", *(own / name for name in medium(own).files(own))):
        if not content(path, dict[str, Any]):
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


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum by file name.

    Raises:
        ValueError: the manifest is damaged; the message does not name the folder.
    """
    try:
        manifest = read_json(folder / MANIFEST, Manifest | OldManifest)
    except ValueError:
        raise ValueError(f"{MANIFEST} does not list the files of a step") from None
    if not problem("", manifest, Manifest):
        if manifest["sha256"] != digest(manifest["files"]):
            raise ValueError(f"the checksum of {MANIFEST} is wrong")
        return manifest["files"]
    return {
        name: {"sha256": entry} if isinstance(entry, str) else entry
        for name, entry in manifest.items()
    }


def sealed(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a step with a checksum of it."""
    return metadata | {CHECKSUM: digest(metadata)}


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that a step was saved with; empty if it cannot be read."""
    return content(folder / METADATA, Metadata).get("custom_metadata") or {}


def read_user_metadata(folder: Path) -> dict[str, Any]:
    """`read_metadata` without the keys that are ours."""
    return {key: x for key, x in read_metadata(folder).items() if key not in OWN}


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics that a step was saved with; empty if there are none."""
    if metrics := read_metadata(folder).get(METRICS):
        return metrics
    # The first runs have them in a file of their own.
    return content(folder / "metrics/metrics", dict[str, Measured])


def saved_at(folder: Path) -> float:
    """When a step was committed, in seconds since 1970."""
    seconds = content(folder / METADATA, Metadata).get("commit_timestamp_nsecs", 0)
    return seconds / 1e9 or medium(folder).modified(folder)


def content(path: Path, kind: Any) -> dict[str, Any]:
    """The object in a JSON file; empty if it is not there, damaged or of another kind.

    Raises:
        PermissionError, StoreError: it cannot be read, and may be whole.
    """
    try:
        return read_json(path, kind)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
