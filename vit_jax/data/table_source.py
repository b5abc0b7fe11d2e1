"""Images in folders whose labels, one or several an image, are in CSV files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vit_jax.data.decode import decode_file
from vit_jax.data.folder import hold_out, stable_hash
from vit_jax.data.label_table import LabelTable, Row, find_tables, read_table
from vit_jax.data.layout import KIND_OF, split_kinds
from vit_jax.data.listing import walk
from vit_jax.data.source_types import multi_hot


class TableSource:
    """The images of one split of a folder, with the labels of a CSV file; a `Source`.

    The files and their forms: `label_table.find_tables` and `FORMS`. A file is named by
    its path from the CSV file's folder, or by its name alone, with its ending or
    without. Where each image has exactly one label, it is an ordinary data set;
    else an image may have any number of labels, none too.

    Splits are those of a column `split`, of the CSV files, or of the folders of the
    images, if they lie in those of several splits; else "train", "val", a held-out
    share, of each class where an image has one label, and "all".

    Records are ordered, and held out, by a hash of the path, as of `FolderSource`.

    Attributes:
        label_names: the classes.
        multi_label: whether an image has several labels.
        left_out: for each folder, how many files or rows are no record, by reason.
    """

    def __init__(self, name: str, split: str, *, holdout: float = 0.1):
        """Reads the CSV files and lists the images, without opening them.

        Args:
            name: a CSV file, or a folder that has some.
            split: name of a split, without a slice.
            holdout: share of "val" where there are no splits.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of another form, an image with two rows, no image at all,
              classes that the training does not have, or an unknown split.
        """
        found = rows_by_split(name)
        self.label_names: tuple[str, ...] = found.classes
        self.left_out = found.left_out
        self._root = found.root
        training = found.rows.get("train") or next(iter(found.rows.values()))
        self.multi_label = any(len(row.labels) != 1 for row in training.values())
        chosen = self._chosen(found.rows, split, holdout, name)
        wrong = [image for image in chosen if len(chosen[image].labels) != 1]
        if wrong and not self.multi_label:
            raise ValueError(
                f"{wrong[0]} of {name} has {len(chosen[wrong[0]].labels)} labels, and "
                "each image of the training exactly one; give all images one"
            )
        numbers = {label: number for number, label in enumerate(self.label_names)}
        self._paths = sorted(chosen, key=stable_hash)
        self._labels = [
            [numbers[label] for label in chosen[image].labels] for image in self._paths
        ]

    def _chosen(
        self, found: dict[str, dict[str, Row]], split: str, holdout: float, name: str
    ) -> dict[str, Row]:
        """The images of a split, by path."""
        if set(found) != {""}:
            kind = KIND_OF.get(split.lower(), split)
            if kind not in found:
                raise ValueError(
                    f"{name} has no split {split!r}; its splits are "
                    f"{', '.join(sorted(found))}"
                )
            return found[kind]
        if split not in ("train", "val", "all"):
            raise ValueError(
                f"{name} has no split {split!r}; its splits are train, val, all"
            )
        rows, groups = found[""], {}
        for image, row in rows.items():
            group = "" if self.multi_label else row.labels[0]
            groups.setdefault(group, []).append(image)
        kept = hold_out(groups, split, holdout)
        return {image: rows[image] for group in kept.values() for image in group}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict:
        """Reads and decodes one image; raises ImageError if that is not possible."""
        image, numbers = decode_file(self.record_name(index)), self._labels[index]
        if not self.multi_label:
            return {"image": image, "label": numbers[0]}
        return {"image": image, "label": multi_hot(numbers, len(self.label_names))}

    def labels(self) -> np.ndarray:
        """Labels of all records: int64 (n,), or uint8 (n, classes) of several."""
        if not self.multi_label:
            return np.array(self._labels, np.int64)[:, 0]
        count = len(self.label_names)
        return np.stack([multi_hot(numbers, count) for numbers in self._labels])

    def checksum(self) -> str:
        """Of the labels of all records, which no name of a file shows."""
        return hashlib.sha256(repr(self._labels).encode()).hexdigest()

    def record_name(self, index: int) -> str:
        """Path of the file."""
        return os.path.join(self._root, self._paths[index])


class Matched(NamedTuple):
    """The rows of a data set, matched with its images.

    Attributes:
        root: the folder that the paths begin in.
        classes: those of the training.
        rows: by split, "" for none, the row of each image, by path.
        left_out: for each folder, how many files or rows are no record, by reason.
    """

    root: str
    classes: tuple[str, ...]
    rows: dict[str, dict[str, Row]]
    left_out: dict[str, Counter[str]]


def rows_by_split(name: str) -> Matched:
    """Reads the CSV files of a data set and lists its images; raises as TableSource."""
    tables = {kind: read_table(path) for kind, path in find_tables(name).items()}
    training = tables.get("train") or next(iter(tables.values()))
    root = name if os.path.isdir(name) else os.path.dirname(name)
    rows: dict[str, dict[str, Row]] = {}
    left_out: dict[str, Counter[str]] = {}
    for kind, table in tables.items():
        check_classes(table, training)
        for image, row in matched(table, root, left_out).items():
            rows.setdefault(kind or row.split, {})[image] = row
    if set(rows) == {""}:
        rows = by_folder(rows[""])
    # Without those that are 0.
    left_out = {folder: +counts for folder, counts in left_out.items()}
    return Matched(root, training.classes, rows, left_out)


def matched(
    table: LabelTable, root: str, left_out: dict[str, Counter[str]]
) -> dict[str, Row]:
    """The row of each image that has one, by path; counts in `left_out` what has not.

    Raises:
        ValueError: two rows for an image, or no row that has one.
    """
    folder = os.path.dirname(table.path)
    images = ImageNames(folder)
    inside = os.path.relpath(folder or ".", root or ".")
    rows: dict[str, Row] = {}
    missing = 0
    for row in table.rows:
        path = images.find(row.file, table.path, row.line)
        path = os.path.normpath(os.path.join(inside, path)) if path else ""
        if path in rows:
            raise ValueError(
                f"{table.path} lines {rows[path].line} and {row.line} are both of "
                f"{path}: keep one row for each image, with all of its labels"
            )
        if path:
            rows[path] = row
        else:
            missing += 1
    if not rows:
        raise ValueError(
            f"{table.path} names {table.rows[0].file!r} and {missing - 1:,} others, "
            f"none of which is among the {len(images.paths):,} images in "
            f"{folder or '.'}: wanted paths from there, or names of files"
        )
    counts = left_out.setdefault(folder, images.left_out)
    counts[".csv"] -= 1
    counts["rows without an image"] += missing
    # Of several files of one folder, each has the images of a split.
    counts.setdefault("images without a row", len(images.paths))
    counts["images without a row"] -= len(rows)
    return rows


class ImageNames:
    """The images below a folder, found by the names that people write in tables.

    Attributes:
        paths: of the images, from the folder.
        left_out: how many other files there are, by reason.
    """

    def __init__(self, folder: str) -> None:
        self.paths: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self._folder, self._short = folder, {}
        for path, reason in walk(folder or "."):
            if reason:
                self.left_out[reason] += 1
                continue
            self.paths.add(path)
            name = path.rpartition("/")[2]
            for short in {os.path.splitext(path)[0], name, os.path.splitext(name)[0]}:
                self._short.setdefault(short, []).append(path)

    def find(self, name: str, table: str, line: int) -> str:
        """Path of an image, by its name in a line of a table; "" if there is none.

        Raises:
            ValueError: several images have the name.
        """
        name = name.replace("\\", "/").removeprefix("./")
        own = os.path.basename(os.path.abspath(self._folder)) + "/"
        for text in (name, name.removeprefix(own)):
            found: Sequence[str] = self._short.get(text, ())
            if text in self.paths:
                found = [text]
            if len(found) > 1:
                raise ValueError(
                    f"{table} line {line}: {name!r} may be {found[0]} or {found[1]}: "
                    "write the path, with its ending"
                )
            if found:
                return found[0]
        return ""


def by_folder(rows: dict[str, Row]) -> dict[str, dict[str, Row]]:
    """The rows by split, if all images are in the folders of several; else by ""."""
    first = {path: path.split(os.sep)[0] for path in rows}
    kinds = split_kinds(sorted(set(first.values())))
    if set(first.values()) - set(kinds) or len(set(kinds.values())) < 2:
        return {"": rows}
    found: dict[str, dict[str, Row]] = {}
    for path, row in rows.items():
        found.setdefault(kinds[first[path]], {})[path] = row
    return found


def check_classes(table: LabelTable, training: LabelTable) -> None:
    """Raises ValueError if a table has classes that the training does not have."""
    unknown = [name for name in table.classes if name not in set(training.classes)]
    if unknown:
        raise ValueError(
            f"{table.path} has the class {unknown[0]!r}, which {training.path} does "
            "not have; give every split the same classes"
        )
