"""Which kind of source opens a data set, by its name."""

from __future__ import annotations

import functools
import os
import re

from vit_jax.data.folder import FolderSource
from vit_jax.data.label_table import find_tables
from vit_jax.data.layout import find_layout
from vit_jax.data.listing import image_folders
from vit_jax.data.staging import Bucket, is_url
from vit_jax.data.tar_index import is_shard, list_names
from vit_jax.data.tar_source import TarSource
from vit_jax.data.tfds_source import INFO_FILE, TfdsSource


def opener(
    name: str,
    label: str,
    data_dir: str | os.PathLike | None,
    stage: str,
    holdout: float,
) -> functools.partial:
    """Finds the source for a name and binds all its arguments but the split.

    The arguments are those of `make_source`.

    Raises:
        ValueError: a folder or bucket that no source can read.
        OSError: a bucket that cannot be listed.
    """
    bucket = None
    if name.lower().endswith(".csv") and not is_url(name):
        refuse_label(name, label)
        return table_source(os.path.expanduser(name), holdout)
    if os.path.isdir(packed := packed_folder(name, data_dir)):
        name = packed
    if is_url(name):
        bucket = Bucket(name, stage)
        path, names = bucket.folder, bucket.names
    elif _is_folder(name):
        path = os.path.expanduser(name)
        names = list_names(path) if os.path.isdir(path) else []
    else:
        data_dir = os.fspath(data_dir) if data_dir else None
        if data_dir and is_url(data_dir):
            base = re.split("[/:]", name)[0]
            bucket = Bucket(f"{data_dir.rstrip('/')}/{base}", stage)
            data_dir = os.path.dirname(bucket.folder)
        return functools.partial(
            TfdsSource, name, label=label, data_dir=data_dir, bucket=bucket
        )
    if INFO_FILE in names:
        return functools.partial(TfdsSource, path, label=label, bucket=bucket)
    if any(map(is_shard, names)):
        return functools.partial(TarSource, path, label=label, bucket=bucket)
    if any(".array_record" in file for file in names):
        raise ValueError(
            f"{name} holds ArrayRecord files, but no {INFO_FILE} and features.json, "
            "which describe the records; "
            "`python -m vit_jax.data.prepare` and tensorflow-datasets write both"
        )
    if bucket:
        raise ValueError(
            f"{name} holds neither tar shards nor a data set of tensorflow-datasets "
            f"({INFO_FILE}), but {bucket.names[0]}; pack images with `python -m "
            "vit_jax.data.prepare FOLDER --output SHARDS` and copy SHARDS there"
        )
    refuse_label(name, label)
    if os.path.isdir(path) and find_tables(path):
        return table_source(path, holdout)
    return functools.partial(FolderSource, path, holdout=holdout)


def is_local(name: str, data_dir: str | os.PathLike | None) -> bool:
    """Whether a data set's name is read as the path of a folder or file on a disk."""
    if name == "digits" or is_url(name) or os.path.isdir(packed_folder(name, data_dir)):
        return False
    return name.lower().endswith(".csv") or _is_folder(name)


def table_source(path: str, holdout: float) -> functools.partial:
    """The source of images whose labels are in CSV files."""
    # Imported here, as most data sets have none.
    from vit_jax.data.table_source import TableSource

    return functools.partial(TableSource, path, holdout=holdout)


def packed_folder(name: str, data_dir: str | os.PathLike | None) -> str:
    """Where `vit_jax.data.prepare NAME --from IMAGES` puts the shards of a data set."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return os.path.join(os.path.expanduser(data_dir or default), name, "from_images")


def refuse_label(name: str, label: str) -> None:
    """Raises ValueError where a field is asked for, and the records have none."""
    if label != "label":
        raise ValueError(
            f"data.label={label!r} is for tensorflow-datasets and tar shards, whose "
            f'records have fields; for {name} leave it at "label"'
        )


def has_no_splits(name: str) -> bool:
    """Whether the images of a folder, or of a CSV file, are in no splits."""
    path = os.path.expanduser(name)
    is_folder = os.path.isdir(path)
    if path.lower().endswith(".csv") or (is_folder and find_tables(path)):
        from vit_jax.data.table_source import rows_by_split

        return set(rows_by_split(path).rows) == {""}
    return is_folder and bool(image_folders(path)) and not find_layout(path).splits


def _is_folder(name: str) -> bool:
    if os.path.isdir(os.path.expanduser(name)) or name.startswith((".", "~", "/")):
        return True
    # "cifar10_corrupted/brightness_1" is a data set and its config, not a path.
    return name.count("/") > 1 or "\\" in name
