"""A folder of images, one sub-folder a class, with or without split folders."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np

from vit_jax.data.decode import MAX_FILE_BYTES, decode_file
from vit_jax.data.layout import LAYOUT, find_layout, split_folder
from vit_jax.data.listing import (
    EXTENSIONS,
    describe_left_out,
    folders_of,
    has_own_images,
    own_files,
    tell,
    walk,
)
from vit_jax.storage.foreign import read_regular


class FolderSource:
    """The images of one split of a folder; a `Source`.

    Layouts: `root/SPLIT/CLASS/...` if `root` holds folders that are named as splits and
    have folders in them (`layout.find_layout`); else `root/CLASS/...`, whose splits are
    "train", "val", a held-out share of each class, and "all". Images (EXTENSIONS in any
    case) may lie in deeper folders of a class; hidden and other files are left out and
    counted. Classes are the sorted folder names of the train split.

    Records are ordered, and held out, by a hash of `CLASS/path`. So the order does
    not depend on the file system, a slice such as `train[:10%]` holds all classes,
    and adding a class never moves an image of another between train and val.

    Attributes:
        label_names: the classes.
        left_out: for each folder that was listed, how many files are no images of a
          class, by reason.
    """

    def __init__(self, root: str, split: str, *, holdout: float = 0.1):
        """Lists the files, without opening them.

        Args:
            root: folder of the data set.
            split: name of a split, without a slice.
            holdout: share of each class in "val" where there are no split folders.

        Raises:
            FileNotFoundError: `root` is not a folder.
            ValueError: unknown split, no class folders, a class folder without images,
              or a class that the train split does not have.
        """
        if not os.path.isdir(root):
            here = "" if os.path.isabs(root) else f" in {os.getcwd()}"
            raise FileNotFoundError(
                f"the data folder {root} does not exist{here}; {LAYOUT}, and data.name "
                "(--dataset of vit_jax.evaluate) must be its path"
            )
        layout = find_layout(root)
        for guess in layout.guesses:
            tell(guess)
        if layout.splits:
            self._base = split_folder(layout, split, root)
            train = layout.splits.get("train", self._base)
            files, left_out = _list_images(self._base)
        else:
            self._base = train = layout.base
            _check_split(root, split, ("train", "val", "all"))
            files, left_out = _list_images(self._base)
            files = hold_out(files, split, holdout)
        self.left_out = {self._base: left_out}
        self.label_names: tuple[str, ...] = tuple(_class_folders(train))
        unknown = sorted(set(files) - set(self.label_names))
        if unknown:
            raise ValueError(
                f"{self._base} has the class {unknown[0]!r}, which {train} does not "
                "have; give every split the same class folders"
            )
        labels = {name: label for label, name in enumerate(self.label_names)}
        records = [(path, labels[name]) for name in files for path in files[name]]
        records.sort(key=lambda record: stable_hash(record[0]))
        self._paths = [path for path, _ in records]
        self._labels = [label for _, label in records]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict:
        """Reads and decodes one image; raises ImageError if that is not possible."""
        image = decode_file(self.record_name(index))
        return {"image": image, "label": self._labels[index]}

    def encoded(self, index: int) -> tuple[str, bytes]:
        """Path and content of the file; raises OSError if it cannot be read."""
        name = self.record_name(index)
        return name, read_regular(name, MAX_FILE_BYTES)

    def labels(self) -> np.ndarray:
        """Labels of all records, without opening a file: int64 (n,)."""
        return np.array(self._labels, np.int64)

    def record_name(self, index: int) -> str:
        """Path of the file."""
        return os.path.join(self._base, self._paths[index])


def stable_hash(name: str) -> bytes:
    """A hash that is the same in every process and on every machine; 8 bytes."""
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def _class_folders(folder: str) -> list[str]:
    names = folders_of(folder)
    if not names:
        content = "only images" if has_own_images(folder) else "and no images"
        raise ValueError(
            f"{folder} has no class folders, {content}; {LAYOUT}: put the images of "
            "each class into a folder named after it"
        )
    return names


def _check_split(root: str, split: str, existing: tuple[str, ...]) -> None:
    if split not in existing:
        raise ValueError(
            f"{root} has no split {split!r}; its splits are {', '.join(existing)}"
        )


def _list_images(folder: str) -> tuple[dict[str, list[str]], Counter[str]]:
    """The images of each class, and how many files were left out, by reason."""
    files: dict[str, list[str]] = {}
    left_out = Counter(
        reason or "in no class folder" for _, reason in own_files(folder)
    )
    for name in _class_folders(folder):
        files[name], before = [], left_out.copy()
        for path, reason in walk(os.path.join(folder, name), name):
            if reason:
                left_out[reason] += 1
            else:
                files[name].append(path)
        if not files[name]:
            others = describe_left_out(left_out - before)
            raise ValueError(
                f"the class folder {os.path.join(folder, name)} holds no images "
                f"({', '.join(EXTENSIONS)}){others and f', {others}'}; add some or "
                "remove the folder"
            )
    return files, left_out


def hold_out(
    files: Mapping[str, list[str]], split: str, holdout: float
) -> dict[str, list[str]]:
    """The images of a split that is held out of each class: "train", "val" or "all"."""
    chosen = {}
    for name, paths in files.items():
        if split == "all":
            chosen[name] = paths
            continue
        paths = sorted(paths, key=stable_hash)
        count = max(1, round(holdout * len(paths))) if len(paths) > 1 else 0
        chosen[name] = paths[:count] if split == "val" else paths[count:]
    return chosen
