"""A prepared tensorflow-datasets data set, read without TensorFlow."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.decode import ImageError, decode_image

_CHUNK = 1024  # records read at once for their labels


class TfdsSource:
    """One split of a data set prepared as ArrayRecord; a `Source`.

    Uses the fields "image" and "label". Prepare a set with
    `python -m vit_jax.data.prepare NAME`.
    """

    def __init__(self, name: str, split: str, *, data_dir: str | None = None):
        """Opens the files.

        Args:
            name: name of the data set, also `name/config`.
            split: any split that tensorflow-datasets knows, such as "train[:98%]".
            data_dir: folder of prepared data sets; None is the one that
              tensorflow-datasets uses (~/tensorflow_datasets or $TFDS_DATA_DIR).

        Raises:
            FileNotFoundError: not prepared, or not as ArrayRecord.
            ValueError: unknown name or split, or no fields "image" and "label".
        """
        builder = _open_builder(name, data_dir)
        features = builder.info.features
        missing = [key for key in ("image", "label") if key not in features]
        if missing or not hasattr(features["label"], "names"):
            raise ValueError(
                f"data set {name!r} is not a classification set: a field 'image' and "
                f"a class field 'label' are needed, found {', '.join(features)}"
            )
        self._data = _read_split(builder, name, split)
        self._name = f"{name} {split}"
        self.label_names: tuple[str, ...] = tuple(features["label"].names)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict:
        """Reads and decodes one record; raises ImageError if that is not possible."""
        return self._decode(index, self._data[index])

    def read_many(self, indices: Sequence[int]) -> list[dict | ImageError]:
        """Reads records together, five times as fast as one by one if small.

        A bad record is returned as its error.
        """
        records = []
        for index, record in zip(
            indices, self._data.__getitems__(list(indices)), strict=True
        ):
            try:
                records.append(self._decode(index, record))
            except ImageError as error:
                records.append(error)
        return records

    def labels(self) -> np.ndarray:
        """Labels of all records: int64 (n,). Reads everything, decodes no image."""
        chunks = (
            range(start, min(start + _CHUNK, len(self)))
            for start in range(0, len(self), _CHUNK)
        )
        read = (self._data.__getitems__(list(chunk)) for chunk in chunks)
        return np.array([int(r["label"]) for records in read for r in records])

    def _decode(self, index: int, record: dict[str, Any]) -> dict:
        name, label = self.record_name(index), int(record["label"])
        if not 0 <= label < len(self.label_names):
            # -1, the mark for "no label", passes every check of tensorflow-datasets.
            raise ImageError(
                f"{name}: the label is {label}, not in 0..{len(self.label_names) - 1}; "
                "choose a split with labels"
            )
        return {"image": decode_image(record["image"], name), "label": label}

    def record_name(self, index: int) -> str:
        """Data set, split and number of the record in it."""
        return f"{self._name} record {index}"


def _open_builder(name: str, data_dir: str | None) -> Any:
    # Imported here: it takes a second and most sources do not need it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name.split("/")[0], known)
        raise ValueError(
            f"unknown data set {name!r}; "
            + (f"did you mean {' or '.join(near)}? " if near else "")
            + 'Give "digits", the path of a folder of images, or a name of '
            "tensorflow-datasets"
        ) from error
    advice = f"`python -m vit_jax.data.prepare {name}`"
    if data_dir:
        advice = f"{advice[:-1]} --data-dir {data_dir}`"
    if importlib.util.find_spec("tensorflow") is None:
        advice = f'`pip install "vit_jax[prepare]"` (TensorFlow) and then {advice}'
    if not builder.info.splits:
        raise FileNotFoundError(
            f"data set {name!r} is not prepared in {builder.data_path}; run {advice}"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise FileNotFoundError(
            f"data set {name!r} in {builder.data_path} is stored as "
            f"{builder.info.file_format.value}, which has no random access; remove "
            f"that folder and run {advice}"
        )
    return builder


def _read_split(builder: Any, name: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        size = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        existing = ", ".join(builder.info.splits)
        raise ValueError(
            f"data set {name!r} has no split {split!r}; its splits are {existing}, "
            'each also in parts such as "train[:98%]"'
        ) from error
    if size == 0:
        raise ValueError(f"split {split!r} of data set {name!r} is empty")
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
