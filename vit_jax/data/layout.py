"""Where the splits and the classes are in a folder of images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from vit_jax.data.listing import folders_of, has_own_images, image_folders

SPLIT_NAMES = ("train", "val", "validation", "valid", "dev", "test")
LAYOUT = "the layout is root/train/CLASS/image.jpg or root/CLASS/image.jpg"
_KINDS = {
    "train": ("train", "training", "trainset", "traindata", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation", "valset"),
    "test": ("test", "testing", "testset", "testdata", "tst"),
}
KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
_EMPTY_WORDS = frozenset(
    "set sets data dataset images image imgs img photos pictures folder split".split()
)
_SHOWN = 5


class Layout(NamedTuple):
    """What was found out about a folder of images.

    Attributes:
        base: the folder that has the folders of splits or of classes.
        splits: for each split by name, the folder of its classes; empty without splits.
        flat: folders that are named as splits beside these, and have no classes.
        guesses: what was assumed, a sentence each.
    """

    base: str
    splits: dict[str, str]
    flat: dict[str, str]
    guesses: tuple[str, ...]


def find_layout(root: str) -> Layout:
    """Looks at the folders of a folder, without listing its images.

    A folder is that of a split if it is named after one, in any case and with words
    such as "set" or "images" ("Training", "test_set"), or with a word that another
    split has too ("seg_train" beside "seg_test"), and holds folders with images.
    Where one folder surrounds all others, those are looked at.

    Raises:
        ValueError: it can be read in two ways, or splits have no class folders.
    """
    guesses: list[str] = []
    base = _inside(root, guesses, to_splits=True)
    names = image_folders(base)
    kinds = split_kinds(names)
    splits = [name for name in kinds if image_folders(os.path.join(base, name))]
    flat = [name for name in kinds if name not in splits]
    others = [name for name in names if name not in kinds]
    if not splits:
        _check_classes(base, flat, others, guesses)
        return Layout(base, {}, {}, tuple(guesses))
    if others and len({kinds[name] for name in splits}) == 1:
        raise ValueError(
            f"{base} can be read in two ways: {splits[0]} is a split, or a class beside"
            f" {_some(others)}; move the others away if it is a split, else put all "
            "classes into a folder train"
        )
    named: dict[str, str] = {}
    for name in (*splits, *flat):
        split = name.lower() if name.lower() in SPLIT_NAMES else kinds[name]
        if split in named:
            raise ValueError(
                f"{base} has two folders for the split {split!r}, {named[split]} and "
                f"{name}; join them, or move one away"
            )
        named[split] = name
    if renamed := [f"{s} in {n}" for s, n in named.items() if s != n]:
        guesses.append(f"{base} is read as splits: {', '.join(renamed)}")
    if flat:
        guesses.append(f"{base}/{flat[0]} has no class folders and is left out")
    if others:
        guesses.append(f"{_some(others)} beside the splits of {base} are left out")
    found = {split: os.path.join(base, name) for split, name in named.items()}
    inner = {
        split: path for split, path in found.items() if os.path.basename(path) in splits
    }
    _unwrap(inner, guesses)
    for path in inner.values():
        _tell_same_folders(path, image_folders(path), guesses)
    rest = {split: path for split, path in found.items() if split not in inner}
    return Layout(base, inner, rest, tuple(guesses))


def split_folder(layout: Layout, split: str, root: str) -> str:
    """The folder of the classes of a split, by its name or another usual one.

    Raises:
        ValueError: there is none, or there are several.
    """
    known = layout.splits | layout.flat
    if split in known:
        return known[split]
    if split in folders_of(layout.base):
        return os.path.join(layout.base, split)
    kind = KIND_OF.get(split.lower(), split)
    alike = [name for name in known if KIND_OF[name] == kind]
    if len(alike) == 1:
        return known[alike[0]]
    raise ValueError(
        f"{root} has no split {split!r}; its splits are "
        f"{', '.join(sorted(layout.splits))}"
    )


def split_kinds(names: Sequence[str]) -> dict[str, str]:
    """Of the names that are those of splits: "train", "val" or "test"."""
    kinds, rests = {}, {}
    for name in names:
        words = _words(name)
        found = [KIND_OF[word] for word in words if word in KIND_OF]
        if len(found) == 1:
            kinds[name] = found[0]
            rests[name] = tuple(
                word for word in words if word not in _EMPTY_WORDS | KIND_OF.keys()
            )
    pairs = {(rests[name], kinds[name]) for name in kinds}
    shared = Counter(rest for rest, _ in pairs)
    return {
        name: kind
        for name, kind in kinds.items()
        if not rests[name] or shared[rests[name]] > 1
    }


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z\d])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", spaced) if word]


def _inside(folder: str, guesses: list[str], *, to_splits: bool = False) -> str:
    """The folder, or one that it holds alone and that surrounds the classes."""
    place = folder
    while len(names := image_folders(place)) == 1 and not split_kinds(names):
        inner = os.path.join(place, names[0])
        if has_own_images(inner):
            return folder
        place = inner
    if place != folder and (len(names) > 1 or (to_splits and split_kinds(names))):
        guesses.append(f"the classes of {folder} are looked for in {place}")
        return place
    return folder


def _unwrap(splits: dict[str, str], guesses: list[str]) -> None:
    """Replaces the folders of splits that have one folder around their classes."""
    classes: list[str] = []
    for split in sorted(splits, key=lambda name: name != "train"):
        names = image_folders(splits[split])
        inner = os.path.join(splits[split], names[0])
        alone = len(names) == 1 and names[0] not in classes
        again = names[0].lower() == os.path.basename(splits[split]).lower()
        if alone and again and image_folders(inner):
            guesses.append(f"the classes of {splits[split]} are looked for in {inner}")
            splits[split] = inner
        elif alone:
            splits[split] = _inside(splits[split], guesses)
        if split == "train":
            classes = image_folders(splits[split])


def _check_classes(
    base: str, flat: list[str], others: list[str], guesses: list[str]
) -> None:
    """Folders of classes, of which some are named as splits."""
    if flat and not others:
        raise ValueError(
            f"{base}/{flat[0]} is named as a split, and holds images and no class "
            f"folders; {LAYOUT}: put the images of each class into a folder named "
            "after it"
        )
    if flat:
        guesses.append(
            f"{_some(flat)} of {base} are taken as classes, beside {_some(others)}"
        )
    _tell_same_folders(base, others, guesses)


def _tell_same_folders(base: str, classes: list[str], guesses: list[str]) -> None:
    """Classes that all hold the same folders may be splits or sets of other classes."""
    same = _same_folders([os.path.join(base, name) for name in classes])
    if same:
        guesses.append(
            f"{_some(classes)} of {base} are taken as classes, though each holds the "
            f"folders {_some(same)}; if these are the classes, {LAYOUT}"
        )


def _same_folders(places: Sequence[str]) -> list[str]:
    """The folders that all places hold, if there are several with images."""
    same: list[str] = []
    for place in places:
        here = folders_of(place)
        if len(here) < 2 or (same and here != same):
            return []
        same = here
    return same if len(places) > 1 and all(map(image_folders, places)) else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
