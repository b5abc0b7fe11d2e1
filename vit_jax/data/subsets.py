"""Parts of a data set: a slice of its records, or those of some classes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.data.decode import ImageError
from vit_jax.data.tfds_source import TfdsSource

if TYPE_CHECKING:
    from vit_jax.data.sources import Source


class PartSource:
    """Some records of another source, in the given order; a `Source`."""

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray,
        label_names: tuple[str, ...],
        new_labels: dict[int, int] | None = None,
    ):
        """Keeps what it is given.

        Args:
            indices: numbers of the records in `source`.
            label_names: of the classes that are left.
            new_labels: from old labels to new ones; None leaves them as they are.
        """
        self._source, self._indices, self._new = source, indices, new_labels
        self.label_names = label_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict:
        return self._relabelled(self._source[int(self._indices[index])])

    def labels(self) -> np.ndarray:
        """Labels of all records, without decoding: integers (n,)."""
        labels = self._source.labels()[np.asarray(self._indices)]
        return labels if self._new is None else np.array([self._new[x] for x in labels])

    def record_name(self, index: int) -> str:
        """Name of the record in the source that this is a part of."""
        return self._source.record_name(int(self._indices[index]))

    def read_many(self, indices: Sequence[int]) -> list[dict | ImageError]:
        """As `read_many` of the whole source."""
        records = read_many(self._source, [int(self._indices[i]) for i in indices])
        return [
            r if isinstance(r, ImageError) else self._relabelled(r) for r in records
        ]

    def _relabelled(self, record: dict) -> dict:
        if self._new is None:
            return record
        return {**record, "label": self._new[record["label"]]}


def read_many(source: Source, indices: Sequence[int]) -> list[dict | ImageError]:
    """Reads records, together where that is faster; a bad one as its error."""
    if isinstance(source, TfdsSource | PartSource):
        return source.read_many(indices)
    records = []
    for index in indices:
        try:
            records.append(source[index])
        except ImageError as error:
            records.append(error)
    return records


def with_classes(source: Source, classes: Sequence[str], name: str) -> PartSource:
    """The records of some classes, in the source's order.

    Args:
        source: with a method `labels`, which needs no decoding.
        classes: names, or numbers as text where no class has that name; the new labels
            follow this order.
        name: of the data set, for the errors.

    Raises:
        ValueError: an unknown class, one given twice, or no record of these classes.
    """
    numbers = [_class_number(source.label_names, text, name) for text in classes]
    twice = [text for i, text in enumerate(classes) if numbers[i] in numbers[:i]]
    if twice:
        raise ValueError(f"data.classes has the class {twice[0]!r} of {name} twice")
    indices = np.flatnonzero(np.isin(source.labels(), numbers))
    if not indices.size:
        raise ValueError(
            f"data.classes={', '.join(classes)}: this split of {name} has no image of "
            "these classes"
        )
    new_labels = {number: label for label, number in enumerate(numbers)}
    names = tuple(source.label_names[number] for number in numbers)
    return PartSource(source, indices, names, new_labels)


def _class_number(label_names: tuple[str, ...], text: str, name: str) -> int:
    if text in label_names:
        return label_names.index(text)
    if text.isdecimal() and int(text) < len(label_names):
        return int(text)
    near = difflib.get_close_matches(text, label_names, n=3, cutoff=0.5)
    advice = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"its classes are {', '.join(label_names[:20])}"
        + (", ..." if len(label_names) > 20 else "")
    )
    raise ValueError(
        f"data.classes has {text!r}, which is no class of {name} and no number below "
        f"{len(label_names)}; {advice}"
    )
