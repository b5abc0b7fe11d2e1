"""A folder of images packed into tar shards: few large files instead of millions."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vit_jax.data.folder import FolderSource
from vit_jax.data.layout import find_layout
from vit_jax.data.tar_source import TarSource
from vit_jax.storage.output import write

_PLAN = "shards.json"


def pack(folder: str, output: str, per_shard: int) -> dict[str, int]:
    """Writes shards and classes as `TarSource` reads them; goes on with what is there.

    The order is that of `FolderSource`, by a hash of the paths: training gets the same
    images as from the folder, and a slice of a split holds all classes. The files are
    packed as they are, not decoded. A shard appears under its name when it is whole.

    Args:
        folder: root/SPLIT/CLASS/..., or root/CLASS/..., all of which is "train" then.
        output: folder of the shards, made if need be.
        per_shard: images in a shard.

    Returns:
        Number of images by split.

    Raises:
        ValueError: wrong layout, or `output` was begun with other images.
        OSError: a file cannot be read or written.
    """
    if per_shard < 1:
        raise ValueError(f"--per-shard must be at least 1, got {per_shard}")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"the folder of images {folder} does not exist")
    sources = {
        split: FolderSource(folder, split) for split in find_layout(folder).splits
    }
    sources = sources or {"train": FolderSource(folder, "all")}
    os.makedirs(output, exist_ok=True)
    _begin(Path(output), sources, per_shard)
    for split, source in sources.items():
        starts = range(0, len(source), per_shard)
        labels = source.labels()
        bar = tqdm(starts, split, unit="shard", disable=not sys.stderr.isatty())
        for number, start in enumerate(bar):
            path = Path(output, f"{split}-{number:06}.tar")
            if not path.exists():
                numbers = range(start, min(start + per_shard, len(source)))
                _write_shard(path, source, numbers, labels)
    counts = {}
    for split, source in sources.items():
        # Reads back what was written, and indexes it on the way.
        packed = TarSource(output, split)
        if not np.array_equal(packed.labels(), source.labels()):
            raise ValueError(
                f"the shards of {split!r} in {output} do not hold the images of "
                f"{folder}; remove them and start again"
            )
        counts[split] = len(packed)
    return counts


def _begin(output: Path, sources: dict[str, FolderSource], per_shard: int) -> None:
    """Writes the plan and the classes, or checks those that are there."""
    plan = {"per_shard": per_shard, "splits": {}}
    for split, source in sources.items():
        digest = hashlib.sha256()
        for index in range(len(source)):
            digest.update(os.fsencode(source.record_name(index)) + b"\0")
        plan["splits"][split] = {"images": len(source), "paths": digest.hexdigest()}
    names = next(iter(sources.values())).label_names
    for name in names:
        if [name.encode("utf-8", "ignore").decode()] != name.splitlines():
            raise ValueError(
                f"the class folder {name!r} has a name that is not a line of UTF-8, as "
                "classes.txt needs: rename it"
            )
    for path, text in (
        (output / _PLAN, json.dumps(plan, indent=1) + "\n"),
        (output / "classes.txt", "".join(f"{name}\n" for name in names)),
    ):
        if path.exists() and path.read_text("utf-8") != text:
            raise ValueError(
                f"{output} was begun with other images, or another --per-shard, as "
                f"{path.name} shows; give another --output, or remove it"
            )
        write(path, text)


def _write_shard(
    path: Path, source: FolderSource, numbers: range, labels: np.ndarray
) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for number in numbers:
                    name = source.label_names[labels[number]]
                    key = f"{name}/{number:08}"
                    _add(tar, key, Path(source.record_name(number)), labels[number])
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error}); the same command goes on with it"
        ) from error


def _add(tar: tarfile.TarFile, key: str, image: Path, label: int) -> None:
    """Adds an image as KEY_NAME.EXTENSION, and its label as KEY_NAME.cls."""
    # For readers, the name of a record ends at the first dot.
    key = f"{key}_{image.stem.replace('.', '_')}"
    for name, data in (
        (key + image.suffix.lower(), image.read_bytes()),
        (f"{key}.cls", str(label).encode()),
    ):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
