"""ImageNet-ReaL: the validation images with all labels that are right for them.

Beyer et al. 2020, arXiv 2006.07159. The labels are `real.json` of
github.com/google-research/reassessed-imagenet: a list of 50,000 lists of class numbers;
entry i belongs to ILSVRC2012_val_<i + 1>.JPEG.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vit_jax.data.labels import is_imagenet
from vit_jax.data.source_types import Source
from vit_jax.data.tfds_source import TfdsSource
from vit_jax.storage.schema import parse

IMAGES = 50_000
CLASSES = 1000
LabelSets = Sequence[frozenset[int]]


def read_real_labels(path: str | Path) -> list[frozenset[int]]:
    """The label set of each validation image, in the order of the file numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a list of 50,000 lists of numbers in 0..999.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: wanted real.json of "
            "github.com/google-research/reassessed-imagenet"
        )
    expected = f"wanted a list of {IMAGES} lists of class numbers below {CLASSES}"
    try:
        lists = parse(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(lists, list) or len(lists) != IMAGES:
        content = f"a list of {len(lists)}" if isinstance(lists, list) else "no list"
        raise ValueError(f"{path} holds {content}: {expected}")
    for entry, labels in enumerate(lists):
        valid = isinstance(labels, list) and all(
            isinstance(label, int) and 0 <= label < CLASSES for label in labels
        )
        if not valid:
            raise ValueError(f"{path}: entry {entry} is {labels!r}; {expected}")
    return [frozenset(labels) for labels in lists]


def real_label_sets(
    path: str | Path, source: Source, label_names: Sequence[str]
) -> list[frozenset[int]]:
    """The label set of each record of ImageNet's validation set, or of part of it.

    Args:
        path: of `real.json`.
        label_names: names of the model's outputs: ImageNet's, in the released order.

    Raises:
        ValueError: another model, records of other images, or as `read_real_labels`.
    """
    if len(label_names) != CLASSES or not is_imagenet(label_names):
        raise ValueError(
            f"ReaL labels are of ImageNet's {CLASSES} classes, but the model has "
            f"{len(label_names)}, such as {', '.join(map(repr, label_names[:3]))}"
        )
    label_sets = read_real_labels(path)
    return [label_sets[number - 1] for number in file_numbers(source)]


def real_accuracy(
    predictions: Int[np.ndarray, " n"], label_sets: LabelSets
) -> dict[str, float]:
    """`accuracy`: share of the images whose predicted class is among their labels.

    Images without labels are ignored (big_vision's `classification.py`).

    Args:
        predictions: the best class of each image, in ImageNet's order.
        label_sets: label sets of the same images.

    Returns:
        `accuracy` in [0, 1], `count` of the images with labels, and `unlabelled`, the
        number of the others.

    Raises:
        ValueError: not as many predictions as label sets, or no image with labels.
    """
    if len(predictions) != len(label_sets):
        raise ValueError(
            f"there are {len(predictions)} predictions for {len(label_sets)} label "
            "sets: wanted one for each"
        )
    hits = [
        int(prediction) in labels
        for prediction, labels in zip(predictions, label_sets, strict=True)
        if labels
    ]
    if not hits:
        raise ValueError(f"none of the {len(label_sets)} images has ReaL labels")
    return {
        "accuracy": float(np.mean(hits)),
        "count": len(hits),
        "unlabelled": len(label_sets) - len(hits),
    }


def file_numbers(source: Source) -> Int[np.ndarray, " n"]:
    """The number in the file name of each record: 293 of ILSVRC2012_val_00000293.JPEG.

    Raises:
        ValueError: records without such names, or one number twice.
    """
    is_tfds = isinstance(source, TfdsSource)
    names = (
        source.file_names()
        if is_tfds
        else [source.record_name(index) for index in range(len(source))]
    )
    numbers = np.array([file_number(name) for name in names])
    if len(np.unique(numbers)) != len(numbers):
        raise ValueError("two records have the same number of a validation image")
    return numbers


def file_number(name: str) -> int:
    """1..50,000 from the name, or the path, of an image of ImageNet's validation set.

    Raises:
        ValueError: another name.
    """
    match = re.search(r"ILSVRC2012_val_(\d{8})(?=\.|$)", name)
    if not match or not 1 <= int(match[1]) <= IMAGES:
        raise ValueError(
            f"{name} is not named as an image of ImageNet's validation set, "
            "ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG, by which "
            "ReaL labels are found"
        )
    return int(match[1])
