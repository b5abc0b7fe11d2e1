"""The interface of a data set, and sources made of another one: cached, or a part.

The sources for each format are imported where one is opened: `sources.py`.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from vit_jax.data.decode import ImageError

CACHE_CHOICES = ("auto", "always", "never")
_CHUNK = 256


class Source(Protocol):
    """What the pipeline needs of a data set."""

    label_names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of records."""
        ...

    def __getitem__(self, index: int) -> dict:
        """{"image": uint8 (h, w, 3), "label": int}; ImageError for a bad record.

        Of a source whose `multi_label` is true, "label" is uint8 (classes,), 0 or 1.
        """
        ...

    def record_name(self, index: int) -> str:
        """A name under which a person finds the record: path, or set and number."""
        ...

    def labels(self) -> np.ndarray:
        """Labels of all records, without decoding an image: integers (n,).

        Of several labels a record uint8 (n, classes).
        """
        ...


def is_multi_label(source: Source) -> bool:
    """Whether a record may have several labels; most sources do not say so."""
    return getattr(source, "multi_label", False)


def multi_hot(numbers: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """1 for the classes with these numbers, else 0: uint8 (classes,)."""
    labels = np.zeros(classes, np.uint8)
    labels[np.asarray(numbers, int)] = 1
    return labels


def label_numbers(label: int | np.ndarray) -> list[int]:
    """The classes of a record: one, or those of several labels."""
    return np.flatnonzero(label).tolist() if np.ndim(label) else [int(label)]


class CachedSource:
    """Another source, decoded once and kept in memory; a `Source`.

    Reading a bad record raises the same ImageError as in the original source.
    """

    def __init__(self, source: Source, *, threads: int = 1):
        """Reads and decodes everything with `threads` threads."""
        self._source = source
        self.label_names: tuple[str, ...] = source.label_names
        self.left_out = getattr(source, "left_out", {})  # as that of FolderSource
        self.multi_label = is_multi_label(source)
        # In chunks: a task an image would cost more than a small decode.
        chunks = [
            range(start, min(start + _CHUNK, len(source)))
            for start in range(0, len(source), _CHUNK)
        ]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            read = pool.map(functools.partial(read_many, source), chunks)
            self._records = [record for chunk in read for record in chunk]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        record = self._records[index]
        if isinstance(record, ImageError):
            # A new one: raising a stored exception would pile up tracebacks on it.
            raise ImageError(str(record))
        return record

    def labels(self) -> np.ndarray:
        """Labels of all records, bad ones included: integers (n,)."""
        return self._source.labels()

    def record_name(self, index: int) -> str:
        """Name of the record in the original source."""
        return self._source.record_name(index)

    def checksum(self) -> str:
        """As the whole source's."""
        return checksum(self._source)

    def first_error(self) -> str:
        """The message of the first bad record, or ""."""
        bad = (record for record in self._records if isinstance(record, ImageError))
        return str(next(bad, ""))


class PartSource:
    """Some records of another source, in the given order; a `Source`."""

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray,
        label_names: tuple[str, ...],
        new_labels: dict[int, int] | Sequence[int] | None = None,
    ):
        """Stores the arguments.

        Args:
            indices: numbers of the records in `source`.
            label_names: names of the remaining classes.
            new_labels: maps old labels to new ones; of several labels a record, the
              classes that stay, in order; None leaves them as they are.
        """
        self._source, self._indices, self._new = source, indices, new_labels
        self.label_names = label_names
        self.left_out = getattr(source, "left_out", {})  # as that of FolderSource
        self.multi_label = is_multi_label(source)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict:
        return self._relabelled(self._source[int(self._indices[index])])

    def labels(self) -> np.ndarray:
        """Labels of all records, without decoding: integers (n,)."""
        labels = self._source.labels()[np.asarray(self._indices)]
        if self._new is None or self.multi_label:
            return self._new_label(labels)
        return np.array([self._new_label(label) for label in labels])

    def record_name(self, index: int) -> str:
        """Name of the record in the source that this is a part of."""
        return self._source.record_name(int(self._indices[index]))

    def checksum(self) -> str:
        """As the whole source's."""
        return checksum(self._source)

    def read_many(self, indices: Sequence[int]) -> list[dict | ImageError]:
        """As `read_many` of the whole source."""
        records = read_many(self._source, [int(self._indices[i]) for i in indices])
        return [
            r if isinstance(r, ImageError) else self._relabelled(r) for r in records
        ]

    def _relabelled(self, record: dict) -> dict:
        if self._new is None:
            return record
        return {**record, "label": self._new_label(record["label"])}

    def _new_label(self, label: Any) -> Any:
        if self._new is None:
            return label
        return label[..., list(self._new)] if self.multi_label else self._new[label]


def checksum(source: Source) -> str:
    """What a source says of all its records at once, besides their names; or ""."""
    return getattr(source, "checksum", str)()


def read_many(source: Source, indices: Sequence[int]) -> list[dict | ImageError]:
    """Reads records, in one call if the source can; a bad one as its ImageError."""
    if hasattr(source, "read_many"):
        return source.read_many(indices)  # pyright: ignore[reportAttributeAccessIssue]
    records = []
    for index in indices:
        try:
            records.append(source[index])
        except ImageError as error:
            records.append(error)
    return records
