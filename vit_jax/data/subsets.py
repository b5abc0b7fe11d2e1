"""The records of some classes of a data set, relabelled."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from vit_jax.data.source_types import PartSource, Source, is_multi_label


def with_classes(source: Source, classes: Sequence[str], name: str) -> PartSource:
    """The records of some classes, in the source's order.

    Args:
        source: any data set. Where a record may have several labels, all stay, those
            with none of the classes too.
        classes: names, or numbers as text where no class has that name; the new labels
            follow this order.
        name: name of the data set, for the errors.

    Raises:
        ValueError: an unknown class, one given twice, or no record of these classes.
    """
    numbers = [_class_number(source.label_names, text, name) for text in classes]
    twice = [text for i, text in enumerate(classes) if numbers[i] in numbers[:i]]
    if twice:
        raise ValueError(f"data.classes has the class {twice[0]!r} of {name} twice")
    names = tuple(source.label_names[number] for number in numbers)
    if is_multi_label(source):
        return PartSource(source, np.arange(len(source)), names, numbers)
    indices = np.flatnonzero(np.isin(source.labels(), numbers))
    if not indices.size:
        raise ValueError(
            f"data.classes={', '.join(classes)}: this split of {name} has no image of "
            "these classes"
        )
    new_labels = {number: label for label, number in enumerate(numbers)}
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
