"""A folder of images, one sub-folder a class, with or without split folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

import numpy as np

from vit_jax.data.decode import ImageError, decode_image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SPLIT_NAMES = ("train", "val", "validation", "valid", "dev", "test")
_LAYOUT = "the layout is root/train/CLASS/image.jpg or root/CLASS/image.jpg"


class FolderSource:
    """The images of one split of a folder; a `Source`.

    Layouts: `root/SPLIT/CLASS/...` if `root` holds one of the folders train, val,
    validation, valid, dev, test with folders in it; else `root/CLASS/...`, whose
    splits are "train", "val", a held-out share of each class, and "all". Images
    (jpg, jpeg, png, webp, bmp in any case) may lie in deeper folders of a class;
    hidden and other files are ignored. Classes are the sorted folder names of the
    train split.

    Records are ordered, and held out, by a hash of `CLASS/path`. So the order does
    not depend on the file system, a slice such as `train[:10%]` holds all classes,
    and adding a class never moves an image of another between train and val.
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
            raise FileNotFoundError(
                f"the data folder {root} does not exist; {_LAYOUT}, and data.name "
                "must be its path"
            )
        self._root = root
        present = split_folders(root)
        if present:
            self._base = os.path.join(root, split)
            _check_split(root, split, tuple(_folders(root)))
            train = os.path.join(root, "train" if "train" in present else split)
            files = _list_images(self._base)
        else:
            self._base = train = root
            _check_split(root, split, ("train", "val", "all"))
            files = _hold_out(_list_images(root), split, holdout)
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
        name = self.record_name(index)
        try:
            with open(name, "rb") as file:
                data = file.read()
        except OSError as error:
            raise ImageError(
                f"{name}: the file cannot be read ({error.strerror})"
            ) from error
        return {"image": decode_image(data, name), "label": self._labels[index]}

    def labels(self) -> np.ndarray:
        """Labels of all records, without opening a file: int64 (n,)."""
        return np.array(self._labels, np.int64)

    def record_name(self, index: int) -> str:
        """Path of the file."""
        return os.path.join(self._base, self._paths[index])


def stable_hash(name: str) -> bytes:
    """A hash that is the same in every process and on every machine; 8 bytes."""
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def _folders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        )


def split_folders(root: str) -> list[str]:
    """The folders in `root` that are splits."""
    # A split has folders inside: "train" and "test" may also be classes.
    present = set(_folders(root)) & set(SPLIT_NAMES)
    return [name for name in present if _folders(os.path.join(root, name))]


def has_no_splits(root: str) -> bool:
    """Whether a folder of images has folders of classes, and none of splits."""
    if not os.path.isdir(root) or split_folders(root):
        return False
    return any(any(_images(os.path.join(root, name), "")) for name in _folders(root))


def _class_folders(folder: str) -> list[str]:
    names = _folders(folder)
    if not names:
        content = "only images" if any(_images(folder, "")) else "and no images"
        raise ValueError(
            f"{folder} has no class folders, {content}; {_LAYOUT}: put the images of "
            "each class into a folder named after it"
        )
    return names


def _check_split(root: str, split: str, existing: tuple[str, ...]) -> None:
    if split not in existing:
        raise ValueError(
            f"{root} has no split {split!r}; its splits are {', '.join(existing)}"
        )


def _images(folder: str, prefix: str) -> Iterable[str]:
    """Paths, with "/" and relative to the class's parent, of all images below."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir():
                yield from _images(entry.path, path)
            elif entry.name.lower().endswith(EXTENSIONS):
                yield path


def _list_images(folder: str) -> dict[str, list[str]]:
    files = {}
    for name in _class_folders(folder):
        files[name] = list(_images(os.path.join(folder, name), name))
        if not files[name]:
            raise ValueError(
                f"the class folder {os.path.join(folder, name)} holds no images "
                f"({', '.join(EXTENSIONS)}); add some or remove the folder"
            )
    return files


def _hold_out(
    files: Mapping[str, list[str]], split: str, holdout: float
) -> dict[str, list[str]]:
    chosen = {}
    for name, paths in files.items():
        if split == "all":
            chosen[name] = paths
            continue
        paths = sorted(paths, key=stable_hash)
        count = max(1, round(holdout * len(paths))) if len(paths) > 1 else 0
        chosen[name] = paths[:count] if split == "val" else paths[count:]
    return chosen
