"""A CSV file that gives the labels of images, a row for each image."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vit_jax.data.layout import KIND_OF, split_kinds
from vit_jax.data.listing import folders_of, image_folders, tell
from vit_jax.storage.foreign import check_regular, read_regular

FILE_COLUMNS = ("file_name", "filename", "image_name", "image", "image_id", "path")
ONE_LABEL, LABELS = ("label", "class"), ("labels", "tags", "classes")
FORMS = (
    f"a column {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]} with the file, and "
    f"a column {' or '.join(ONE_LABEL)} with a class, a column "
    f"{', '.join(LABELS[:-1])} or {LABELS[-1]} with several, or a column of 0 and 1 "
    "for each class"
)
_SEPARATORS = ("|", ";", ",")
_MOST_BYTES = 1 << 30


class Row(NamedTuple):
    """An image as its row names it.

    Attributes:
        line: number of the line in the file.
        split: "train", "val" or "test", or "" where the file has no such column.
    """

    line: int
    file: str
    labels: tuple[str, ...]
    split: str


class LabelTable(NamedTuple):
    """The rows of a file, and all classes that it knows, in the order of the labels."""

    path: str
    rows: list[Row]
    classes: tuple[str, ...]


def find_tables(name: str) -> dict[str, str]:
    """The CSV files with the labels of a data set, by split.

    The split is "" for one file that is named, or lies in the folder of the images or
    beside it. Several are those of splits: beside each other and named so (`train.csv`,
    `val.csv`), or each in the folder of its split. A folder that has class folders has
    no such files: they count as left out.

    Raises:
        FileNotFoundError: a file that does not exist.
        OSError: it is no regular file.
        ValueError: several files of which it is not clear what they are.
    """
    if name.lower().endswith(".csv"):
        if not os.path.exists(name):
            raise FileNotFoundError(f"the file {name} does not exist")
        check_regular(name)
        return {"": name}
    beside = _tables_in(name)
    # Names alone, before images are looked for in a folder of thousands of classes.
    maybe = split_kinds(folders_of(name))
    if not beside and not any(_tables_in(os.path.join(name, x)) for x in maybe):
        return {}
    folders = image_folders(name)
    kinds = split_kinds(folders)
    flat = [x for x in kinds if not image_folders(os.path.join(name, x))]
    inside = [path for x in flat for path in _tables_in(os.path.join(name, x))]
    if len(flat) < len(kinds) or len(folders) - len(flat) > 1:
        if beside:
            tell(
                f"{name} has class folders, which are taken: {beside[0]} is left out "
                f"unless it is named, as data.name={beside[0]}"
            )
        return {}
    if len(beside) == 1 and not inside:
        return {"": beside[0]}
    if beside:
        stems = [os.path.splitext(os.path.basename(path))[0] for path in beside]
        named = split_kinds(stems)
        keys = [named.get(stem, "") for stem in stems]
    else:
        keys = [kinds[os.path.basename(os.path.dirname(path))] for path in inside]
    paths = beside or inside
    if not all(keys) or len(set(keys)) < len(keys) or (beside and inside):
        found = ", ".join(os.path.relpath(x, name) for x in (*beside, *inside))
        raise ValueError(
            f"{name} has several CSV files, {found}: name the one with the labels, as "
            f"data.name={paths[0]}"
        )
    return dict(zip(keys, paths, strict=True))


def _tables_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.path
            for entry in entries
            if entry.name.lower().endswith(".csv")
            and not entry.name.startswith(".")
            and entry.is_file()
        )


def read_table(path: str) -> LabelTable:
    """Reads a file in one of FORMS; other columns are told, and not used.

    Raises:
        ValueError: it is no CSV file, or has none of these forms.
        OSError: it cannot be read, or is no regular file.
    """
    header, *lines = _cells(path)
    titles = [re.sub(r"[\s-]+", "_", title.lower()) for title in header[1]]
    files, texts, splits = (
        [i for i, title in enumerate(titles) if title in names]
        for names in (FILE_COLUMNS, ONE_LABEL + LABELS, ("split",))
    )
    rest = [i for i, x in enumerate(titles) if x and i not in (*files, *texts, *splits)]
    twice = [title for i, title in enumerate(titles) if title and title in titles[:i]]
    if len(files) != 1 or len(texts) > 1 or not (texts or rest) or twice or not lines:
        found = f"{', '.join(map(repr, header[1][:20]))}, and {len(lines):,} rows"
        raise ValueError(f"{path} has the columns {found}: wanted {FORMS}")
    if texts:
        labels = _texts(path, lines, texts[0], titles[texts[0]] in LABELS)
        found = {label for names in labels for label in names}
        classes = tuple(sorted(found, key=_natural))
        unused = [header[1][i] for i in rest]
        if unused:
            tell(f"{path}: the columns {', '.join(unused[:10])} are not used")
    else:
        labels = _columns(path, lines, header[1], rest)
        classes = tuple(header[1][i] for i in rest)
    rows = [
        Row(number, cells[files[0]], own, _split(path, number, cells, splits))
        for (number, cells), own in zip(lines, labels, strict=True)
    ]
    return LabelTable(path, rows, classes)


def _cells(path: str) -> list[tuple[int, list[str]]]:
    """(number of the line, cells) of all lines but blank ones, as long as the first."""
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason})") from None
    reader = csv.reader(
        io.StringIO(text, newline=""), skipinitialspace=True, strict=True
    )
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: {error}") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise ValueError(f"{path} is empty: wanted {FORMS}")
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            raise ValueError(
                f"{path} line {number} has {len(cells)} cells, and the first line "
                f"{width}; text with a comma needs quotes"
            )
    return lines


def _texts(
    path: str, lines: Sequence[tuple[int, list[str]]], column: int, several: bool
) -> list[tuple[str, ...]]:
    """Labels that are written as text, with one separator in the whole column."""
    texts = [cells[column] for _, cells in lines]
    if several:
        used = [mark for mark in _SEPARATORS if any(mark in text for text in texts)]
        mark = used[0] if used else None
        parts = [[part.strip() for part in text.split(mark)] for text in texts]
        # Written twice, a label counts once.
        return [tuple(dict.fromkeys(filter(None, names))) for names in parts]
    for (number, _), text in zip(lines, texts, strict=True):
        if not text or "|" in text or ";" in text:
            raise ValueError(
                f"{path} line {number}: the label is {text!r}, wanted the name of one "
                "class; a column that is called labels may hold none or several"
            )
    return [(text,) for text in texts]


def _columns(
    path: str,
    lines: Sequence[tuple[int, list[str]]],
    titles: Sequence[str],
    columns: Sequence[int],
) -> list[tuple[str, ...]]:
    """Labels that are columns of 0 and 1."""
    labels = []
    for number, cells in lines:
        for i in columns:
            if cells[i] not in ("0", "1", "0.0", "1.0"):
                raise ValueError(
                    f"{path} line {number}: the column {titles[i]!r} holds "
                    f"{cells[i][:40]!r}, wanted 0 or 1, as there is no column "
                    f"{', '.join(ONE_LABEL + LABELS)}; remove a column that is no class"
                )
        labels.append(tuple(titles[i] for i in columns if cells[i].startswith("1")))
    return labels


def _split(path: str, number: int, cells: list[str], columns: Iterable[int]) -> str:
    for column in columns:
        if cells[column].lower() not in KIND_OF:
            raise ValueError(
                f"{path} line {number}: the split is {cells[column]!r}, wanted train, "
                "val or test"
            )
        return KIND_OF[cells[column].lower()]
    return ""


def _natural(name: str) -> tuple[bool, int, str]:
    """The order of classes: numbers by value, before texts."""
    is_number = name.isascii() and name.isdecimal()
    return (not is_number, int(name[:18]) if is_number else 0, name)
