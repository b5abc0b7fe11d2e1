"""A folder of images packed into tar shards: few large files instead of millions."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vit_jax.data.cpus import usable_cpus
from vit_jax.data.folder import FolderSource
from vit_jax.data.layout import find_layout
from vit_jax.data.tar_source import TarSource
from vit_jax.data.tfds_source import TfdsSource, is_prepared, splits_of
from vit_jax.storage.output import write

_PLAN = "shards.json"
_PIECE = 64  # images that are resized together
_Encoded = FolderSource | TfdsSource


def pack(
    folder: str, output: str, per_shard: int, shorter_side: int | None = None
) -> dict[str, int]:
    """Writes shards and classes as `TarSource` reads them; goes on with what is there.

    The order is that of `FolderSource`, by a hash of the paths: training gets the same
    images as from the folder, and a slice of a split holds all classes. The files are
    packed as they are, not decoded, but larger ones than `shorter_side`. A shard
    appears under its name when it is whole.

    Args:
        folder: root/SPLIT/CLASS/..., or root/CLASS/..., all of which is "train" then;
          or what tensorflow-datasets wrote, such as .../imagenet2012/5.1.0.
        output: folder of the shards, made if need be.
        per_shard: images in a shard.
        shorter_side: most pixels of an image's shorter side (`shrink.shrunk`); None
          for any.

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
    sources = _sources(folder)
    os.makedirs(output, exist_ok=True)
    _begin(Path(output), sources, per_shard, shorter_side)
    for split, source in sources.items():
        starts = range(0, len(source), per_shard)
        labels = source.labels()
        bar = tqdm(starts, split, unit="shard", disable=not sys.stderr.isatty())
        for number, start in enumerate(bar):
            path = Path(output, f"{split}-{number:06}.tar")
            if not path.exists():
                numbers = range(start, min(start + per_shard, len(source)))
                _write_shard(path, source, numbers, labels, shorter_side)
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


def _sources(folder: str) -> dict[str, _Encoded]:
    """The splits, as they are read without shards; raises as they do, and as `pack`."""
    sources: dict[str, _Encoded] = {}
    if not is_prepared(folder):
        for split in find_layout(folder).splits:
            sources[split] = FolderSource(folder, split)
        return sources or {"train": FolderSource(folder, "all")}
    for split in splits_of(folder):
        source = TfdsSource(folder, split)
        if source.multi_label:
            raise ValueError(
                f"an image of {folder} may have several labels, which are not packed: "
                "train on it as it is"
            )
        if np.any(source.labels() < 0):
            text = "the split %r of %s has no labels, and is left out"
            logging.getLogger("vit_jax").warning(text, split, folder)
        else:
            sources[split] = source
    return sources


def _begin(
    output: Path,
    sources: dict[str, _Encoded],
    per_shard: int,
    shorter_side: int | None,
) -> None:
    """Writes the plan and the classes, or checks those that are there."""
    plan: dict[str, Any] = {"per_shard": per_shard, "splits": {}}
    if shorter_side:  # plans of whole images have had no such key
        plan["shorter_side"] = shorter_side
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
                f"{output} was begun with other images, or another --per-shard or "
                f"--shorter-side, as {path.name} shows; give another --output, or "
                "remove it"
            )
        write(path, text)


def _write_shard(
    path: Path,
    source: _Encoded,
    numbers: range,
    labels: np.ndarray,
    shorter_side: int | None,
) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                files = _contents(source, numbers, shorter_side)
                for number, (file_name, data) in zip(numbers, files, strict=True):
                    name = source.label_names[labels[number]]
                    key = f"{name}/{number:08}"
                    _add(tar, key, Path(file_name), data, labels[number])
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error}); the same command goes on with it"
        ) from error


def _contents(
    source: _Encoded, numbers: range, shorter_side: int | None
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of records, in order."""
    if not shorter_side:
        yield from map(source.encoded, numbers)
        return
    # Imported where images are decoded.
    from vit_jax.data.shrink import shrunk

    def shrink(number: int) -> tuple[str, bytes]:
        return shrunk(*source.encoded(number), shorter_side)

    with ThreadPoolExecutor(usable_cpus()) as pool:
        # By pieces: the pool ends what it was given before an interruption gets out.
        for start in range(0, len(numbers), _PIECE):
            yield from pool.map(shrink, numbers[start : start + _PIECE])


def _add(tar: tarfile.TarFile, key: str, file: Path, data: bytes, label: int) -> None:
    """Adds an image as KEY_NAME.EXTENSION, and its label as KEY_NAME.cls."""
    # For readers, the name of a record ends at the first dot.
    key = f"{key}_{file.stem.replace('.', '_')}"
    for name, content in (
        (key + file.suffix.lower(), data),
        (f"{key}.cls", str(label).encode()),
    ):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
