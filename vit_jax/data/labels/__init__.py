"""Names of the classes of ImageNet, and which class of a model a data set means.

`imagenet1k.txt` and `imagenet21k.txt` have a line a class, in the order of the released
heads: WordNet id, tab, name. See README.md for source and licence.
"""

import functools
from collections.abc import Sequence
from importlib import resources

import numpy as np
from jaxtyping import Int

FILES = {1000: "imagenet1k.txt", 21843: "imagenet21k.txt"}


def label_names(num_classes: int) -> tuple[str, ...]:
    """Names for the outputs of a head of which nothing else is known.

    Those of ImageNet-1k for 1000 classes ("tench"), of ImageNet-21k for 21843, in the
    order of Google's heads, each name once; else "class 0", "class 1", ...
    """
    if num_classes in FILES:
        return tuple(name for _, name in read(num_classes))
    return tuple(f"class {number}" for number in range(num_classes))


def synsets(num_classes: int) -> tuple[str, ...]:
    """WordNet ids ("n01440764") of the 1000 or 21843 classes; () for other numbers.

    Folders of ImageNet and tensorflow-datasets name its classes so.
    """
    if num_classes in FILES:
        return tuple(synset for synset, _ in read(num_classes))
    return ()


@functools.cache
def read(num_classes: int) -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of each class."""
    text = resources.files(__name__).joinpath(FILES[num_classes]).read_text("utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return tuple((synset, name) for synset, name in rows)


def is_imagenet(names: Sequence[str]) -> bool:
    """Whether these are ImageNet's classes in the released order, however spelt.

    Other projects write "tench, Tinca tinca", and some of the names twice.
    """
    count = len(names)
    if count not in FILES:
        return False
    same = sum(
        given in row or given.split(",")[0] == row[1].split(",")[0]
        for given, row in zip(names, read(count), strict=True)
    )
    return same > 0.9 * count


def label_order(
    classes: tuple[str, ...],
    outputs: tuple[str, ...],
    dataset: str,
    *,
    by_index: bool = False,
) -> Int[np.ndarray, " n"]:
    """The model's class, int32, for each class of a data set, found by name.

    The data set may have fewer classes than the model. Classes of ImageNet are also
    found by WordNet id, by the names of `label_names`, and all of them by their numbers
    as text, which name the folders of ImageNet-v2 and sort as "0", "1", "10".

    Args:
        classes: names in the data set.
        outputs: names of the model's outputs.
        dataset: name of the data set, for the error.
        by_index: go by the number of the class, whatever the names, unless these are
            the numbers themselves.

    Raises:
        ValueError: a class that the model does not have, or another number of classes
            by index.
    """
    if by_index:
        if len(classes) != len(outputs):
            raise ValueError(
                f"{dataset} has {len(classes)} classes and the model {len(outputs)}: "
                "by index they must be equally many"
            )
        are_numbers = set(classes) == set(map(str, range(len(outputs))))
        return np.array(classes if are_numbers else range(len(outputs)), np.int32)
    known = [outputs]
    if is_imagenet(outputs):
        known += [synsets(len(outputs)), label_names(len(outputs))]
        if len(classes) == len(outputs):
            known.append(tuple(map(str, range(len(outputs)))))
    for names in known:
        if classes == names:
            return np.arange(len(outputs), dtype=np.int32)
        number = {name: index for index, name in enumerate(names)}
        unique = len(number) == len(names) and len(set(classes)) == len(classes)
        if unique and number.keys() >= set(classes):
            return np.array([number[name] for name in classes], np.int32)
    same = ", or --labels-by-index if they are the same classes in the same order"
    raise ValueError(
        f"{dataset} has other label names than the model: only in the data set "
        f"{only(classes, outputs)}; only in the model {only(outputs, classes)}. Give a "
        "data set with classes of the model"
        + (same if len(classes) == len(outputs) else "")
    )


def only(names: Sequence[str], others: Sequence[str]) -> str:
    """Lists the first of the names that are not among the others."""
    extra = sorted(set(names) - set(others), key=names.index)
    shown = ", ".join(map(repr, extra[:5])) or "none"
    return shown + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
