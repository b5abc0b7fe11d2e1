"""A prepared tensorflow-datasets data set, read without TensorFlow."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.data.decode import ImageError, decode_image
from vit_jax.data.source_types import multi_hot
from vit_jax.data.vtab_labels import RULES

if TYPE_CHECKING:
    from vit_jax.data.staging import Bucket

INFO_FILE = "dataset_info.json"  # in the folder of every prepared data set
_CHUNK = 1024  # records read at once for their labels
_SHOWN = 300  # characters of the cause of an error
_BINARY_IMAGES = ("dsprites",)  # stored as 0 and 1


class TfdsSource:
    """One split of a data set prepared as ArrayRecord; a `Source`.

    Uses the fields "image" and `label`. Prepare a set with
    `python -m vit_jax.data.prepare NAME`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        label: str = "label",
        data_dir: str | None = None,
        bucket: Bucket | None = None,
    ):
        """Opens the files.

        Args:
            name: name of the data set, also `name/config` and `name:version`, or the
              folder that holds its files, such as .../imagenet2012/5.1.0.
            split: any split that tensorflow-datasets knows, such as "train[:98%]" or
              "train[:800]+validation[:200]".
            label: a class field of the records, one that is a sequence of classes, or
              a rule of `vtab_labels.RULES`.
            data_dir: folder of prepared data sets; None is the one that
              tensorflow-datasets uses (~/tensorflow_datasets or $TFDS_DATA_DIR).
            bucket: the bucket that the data set is copied from into that folder.

        Raises:
            FileNotFoundError: not prepared, or not as ArrayRecord.
            ValueError: unknown name or split, or no such fields.
            OSError: the files cannot be copied.
        """
        if bucket:
            bucket.fetch(
                name for name in bucket.names if name.endswith((".json", ".txt"))
            )
        builder = _open_builder(name, data_dir)
        features = builder.info.features
        rule = RULES.get(label)
        self._field = rule.field if rule else label
        has_both = "image" in features and self._field in features
        feature: Any = features[self._field] if has_both else None
        # A sequence has the attributes of what it is a sequence of.
        self.multi_label = not rule and hasattr(feature, "feature")
        if not has_both or not (rule or hasattr(feature, "names")):
            kind = "field" if rule else "class field"
            raise ValueError(
                f"data set {name!r} is not a classification set for data.label="
                f"{label!r}: a field 'image' and a {kind} {self._field!r} are needed, "
                f"found {', '.join(features)}"
            )
        self._data = _read_split(builder, name, split, bucket)
        self._name = f"{name} {split}"
        self._factor = 255 if builder.name in _BINARY_IMAGES else 1
        self.label_names: tuple[str, ...] = rule.names if rule else tuple(feature.names)
        self._label_of = rule.function if rule else int
        if self.multi_label:
            self._label_of = functools.partial(known_labels, len(self.label_names))

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict:
        """Reads and decodes one record; raises ImageError if that is not possible."""
        return self._decode(index, self._record(index))

    def encoded(self, index: int) -> tuple[str, bytes]:
        """The image of a record as it is stored, and a name of a file for it.

        Raises:
            ImageError: the record cannot be read.
            ValueError: its pixels are 0 and 1, which other readers take for black.
        """
        if self._factor != 1:
            raise ValueError(
                f"{self._name} has pixels of 0 and 1, and no copy has them"
            )
        record = self._record(index)
        ending = "jpg" if record["image"].startswith(b"\xff\xd8") else "png"
        name = os.path.basename(os.fsdecode(record.get("file_name", "record")))
        return f"{os.path.splitext(name)[0]}.{ending}", record["image"]

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._data[index]
        except Exception as error:  # of many kinds, see `_unreadable`
            raise ImageError(
                f"{self.record_name(index)} cannot be read ({_one_line(error)})"
            ) from error

    def read_many(self, indices: Sequence[int]) -> list[dict | ImageError]:
        """Reads records together, five times as fast as one by one if small.

        A bad record is returned as its error.
        """
        try:
            found = self._data.__getitems__(list(indices))
        except Exception:  # of many kinds; told by reading them one by one
            found = [None] * len(indices)
        records = []
        for index, record in zip(indices, found, strict=True):
            try:
                records.append(self._decode(index, record) if record else self[index])
            except ImageError as error:
                records.append(error)
        return records

    def labels(self) -> np.ndarray:
        """Labels of all records: int64 (n,). Reads everything, decodes no image.

        Where a record may have several labels, uint8 (n, classes).
        """
        return np.array([self._label_of(value) for value in self._column(self._field)])

    def file_names(self) -> list[str]:
        """The field "file_name" of all records, which ImageNet has; reads everything.

        Raises:
            ValueError: the records have no such field.
        """
        try:
            return [os.fsdecode(name) for name in self._column("file_name")]
        except KeyError:
            raise ValueError(
                f"the records of {self._name} have no names of image files"
            ) from None

    def _column(self, field: str) -> Iterator[Any]:
        """A field of all records, in order."""
        for start in range(0, len(self), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(self)))
            try:
                records = self._data.__getitems__(list(chunk))
            except Exception as error:  # of many kinds, see `_unreadable`
                raise _unreadable(self._name, error) from error
            for record in records:
                yield record[field]

    def _decode(self, index: int, record: dict[str, Any]) -> dict:
        name, label = self.record_name(index), self._label_of(record[self._field])
        given = record[self._field] if self.multi_label else label
        for number in np.ravel(given).tolist():
            if not 0 <= number < len(self.label_names):
                # -1, for "no label", passes every check of tensorflow-datasets.
                raise ImageError(
                    f"{name}: the label is {number}, not in "
                    f"0..{len(self.label_names) - 1}; choose a split with labels"
                )
        image = decode_image(record["image"], name) * np.uint8(self._factor)
        return {"image": image, "label": label}

    def record_name(self, index: int) -> str:
        """Data set, split and number of the record in it."""
        return f"{self._name} record {index}"


def known_labels(classes: int, numbers: np.ndarray) -> np.ndarray:
    """`multi_hot` of the numbers that are those of classes."""
    numbers = np.asarray(numbers, int)
    return multi_hot(numbers[(numbers >= 0) & (numbers < classes)], classes)


def is_prepared(folder: str) -> bool:
    """Whether a folder holds the files of one prepared data set."""
    return os.path.exists(os.path.join(folder, INFO_FILE))


def splits_of(folder: str) -> list[str]:
    """Names of the splits of a prepared data set; raises as `TfdsSource`."""
    return list(_open_builder(folder, None).info.splits)


def _one_line(error: Exception) -> str:
    """The cause that another library names, cut where it goes on and on."""
    return " ".join(str(error).split())[:_SHOWN].rstrip(".") or type(error).__name__


def _unreadable(name: str, error: Exception) -> ValueError:
    """Of whatever tensorflow-datasets and its libraries raise for damaged files.

    There are errors of JSON, protobuf, ArrayRecord, types, versions, modules, depth.
    """
    return ValueError(
        f"data set {name!r} cannot be read ({_one_line(error)}); copy it again, or "
        "prepare it again"
    )


def _open_builder(name: str, data_dir: str | None) -> Any:
    # Imported here: it takes a second and most sources do not need it.
    import tensorflow_datasets as tfds

    try:
        if is_prepared(name):
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name.split("/")[0], known)
        raise ValueError(
            f"unknown data set {name!r}: "
            + (f"did you mean {' or '.join(near)}? Else " if near else "")
            + f'give "digits", the path of a folder of images (there is no {name} in '
            f"{os.getcwd()}), or a name of tensorflow-datasets"
        ) from error
    except Exception as error:
        if is_prepared(name):
            raise _unreadable(name, error) from error
        # Of many types, with pages of examples below.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"data.name is {name!r}, which tensorflow-datasets cannot open: {reason}"
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


def _read_split(builder: Any, name: str, split: str, bucket: Bucket | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        existing = ", ".join(builder.info.splits)
        raise ValueError(
            f"data set {name!r} has no split {split!r}; its splits are {existing}, "
            'each also in parts such as "train[:98%]"'
        ) from error
    try:
        files = [instruction.filename for instruction in info.file_instructions]
    except Exception as error:
        raise _unreadable(name, error) from error
    if info.num_examples == 0:
        raise ValueError(f"split {split!r} of data set {name!r} is empty")
    if bucket:
        bucket.fetch(os.path.relpath(file, bucket.folder) for file in files)
    # The reader takes a missing file for one without records.
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing, one of {len(files)} files of split {split!r} of "
            f"data set {name!r}; copy it again, or prepare the set again"
        )
    # Other pictures in the records, such as masks, are not decoded either.
    pictures = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        return builder.as_data_source(split, decoders=pictures)
    except Exception as error:
        raise _unreadable(name, error) from error
