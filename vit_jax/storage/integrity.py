"""Whether files on disk are whole: checksums of a checkpoint, atomic writes."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.storage.fingerprint import host_fingerprint

MANIFEST = "manifest.json"
FINGERPRINTS = "fingerprints"
METRICS = "metrics"
# Orbax's file in a step; folders that Orbax or we had not done with.
METADATA = "_CHECKPOINT_METADATA"
UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.removing")


def steps(directory: Path) -> list[int]:
    """The committed steps in a folder of checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def open_folder(directory: Path) -> str:
    """Makes a folder of checkpoints, or tidies the one that is there."""
    directory.mkdir(parents=True, exist_ok=True)
    return tidy(directory)


def tidy(directory: Path) -> str:
    """Removes saves and removals that were cut short; returns their names."""
    unfinished = [path for name in UNFINISHED for path in directory.glob(name)]
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        for path in directory.glob(f"*/{MANIFEST}.tmp"):
            path.unlink()
    return ", ".join(path.name for path in unfinished)


def set_aside(folder: Path) -> str:
    """Moves a damaged step to `damaged/` beside the checkpoints; returns where to."""
    aside = folder.parent.parent / "damaged" / folder.name
    while aside.exists():
        aside = aside.with_name(aside.name + "_again")
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    return str(aside)


def write_manifest(folder: Path) -> None:
    """Writes size and SHA-256 of every file in `folder` to its manifest, atomically."""
    entries = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_atomically(folder / MANIFEST, json.dumps(entries, indent=1))


def verify(folder: Path) -> str:
    """Reads all of a step and compares it with what was saved.

    Files are compared with the checksums of the manifest. Without one, as after a kill
    between Orbax's commit and the manifest, arrays are with their fingerprints.

    Returns:
        What is wrong in words, empty if nothing is.

    Raises:
        PermissionError: a file may not be read, which says nothing about the step.
    """
    if not (folder / MANIFEST).exists():
        return verify_arrays(folder)
    entries = read_manifest(folder)
    if entries is None:
        return f"{MANIFEST} is not readable"
    for name, entry in entries.items():
        try:
            digest = sha256(folder / name)
        except OSError as error:
            return why_unreadable(name, error)
        if digest != entry["sha256"]:
            return f"the checksum of {name} is wrong"
    return ""


def verify_sizes(folder: Path) -> str:
    """Like `verify`, but only that each file is there and as long as it was."""
    if not (folder / MANIFEST).exists():
        return ""
    entries = read_manifest(folder)
    if entries is None:
        return f"{MANIFEST} is not readable"
    for name, entry in entries.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            return why_unreadable(name, error)
        if size != entry.get("bytes", size):
            return f"{name} has {size} bytes, and had {entry['bytes']}"
    return ""


def verify_arrays(folder: Path) -> str:
    """Compares every array of a step with its fingerprint of the time of saving."""
    fingerprints = read_metadata(folder).get(FINGERPRINTS)
    if fingerprints is None:
        return f"it has no {MANIFEST}, and no fingerprints to check its arrays by"
    state = folder / "state"
    for path in (state / "_METADATA", *state.glob("array_metadatas/*")):
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
        ValueError: it is not there, or what there is cannot be decoded.
    """
    import tensorstore  # Late: a step without a manifest is rare.

    base = {"driver": "file", "path": f"{folder / 'state'}/"}
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    spec = {"driver": "zarr3", "kvstore": store}
    return tensorstore.open(spec).result().read().result()


def why_unreadable(name: str, error: OSError) -> str:
    """Why a file cannot be read; where only permission lacks, that is raised again."""
    if isinstance(error, PermissionError):
        raise error
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    return f"{name} cannot be read: {error.strerror}"


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Size and checksum by file name; None if the manifest is not readable."""
    try:
        entries = json.loads((folder / MANIFEST).read_text())
        # Checksums only, as the first runs have them.
        return {
            name: {"sha256": entry} if isinstance(entry, str) else entry
            for name, entry in entries.items()
        }
    except (ValueError, AttributeError):
        return None


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that a step was saved with; empty if it cannot be read."""
    return read_json(folder / METADATA).get("custom_metadata") or {}


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics that a step was saved with; empty if there are none."""
    # In a file of their own, as the first runs have them.
    return read_metadata(folder).get(METRICS) or read_json(folder / "metrics/metrics")


def read_json(path: Path) -> dict[str, Any]:
    """A dict from a JSON file; empty if it is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step: a killed process leaves the old one or the new.

    Raises:
        OSError: it cannot be written, in a sentence; the old one is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = os.strerror(error.errno or errno.EIO)
        raise type(error)(f"{path} could not be written: {reason}") from error
