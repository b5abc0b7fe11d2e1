"""Label names: the classes that others agree on, and data sets matched by name."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets

from vit_jax.data import labels
from vit_jax.data.labels import label_names, label_order, synsets


def test_imagenet_1k():
    names = label_names(1000)
    assert len(names) == len(set(names)) == 1000
    known = {
        **{0: "tench", 1: "goldfish", 134: "crane bird", 207: "golden retriever"},
        **{285: "Egyptian cat", 517: "crane", 638: "maillot", 639: "maillot tank suit"},
        **{817: "sports car", 999: "toilet tissue"},
    }
    assert {number: names[number] for number in known} == known


def test_imagenet_21k():
    names = label_names(21843)
    assert len(names) == len(set(names)) == 21843
    known = {
        **{0: "organism", 4: "person", 359: "tench", 2405: "Egyptian cat"},
        **{1932: "crane (n02012849)", 21842: "knothole"},
    }
    assert {number: names[number] for number in known} == known


def test_the_order_is_that_of_others():
    package = Path(tensorflow_datasets.__file__).parent
    order = (package / "datasets/imagenet2012/labels.txt").read_text().split()
    assert synsets(1000) == tuple(order)
    # Sorted as well; the digest keeps a class from being lost or added.
    ids = synsets(21843)
    assert list(ids) == sorted(set(ids))
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    assert digest.startswith("c03345e3490e010d")
    shared = set(synsets(1000)) & set(ids)
    assert len(shared) == 999
    number = {synset: index for index, synset in enumerate(ids)}
    same = sum(
        label_names(21843)[number[synset]] == name
        for synset, name in zip(synsets(1000), label_names(1000), strict=True)
        if synset in shared
    )
    assert same > 800  # the others have more words, or the id, to be unique


def test_heads_of_any_other_size():
    assert label_names(3) == ("class 0", "class 1", "class 2")
    assert label_names(0) == synsets(10) == ()


def test_every_line_is_an_id_and_a_name():
    for name in labels.FILES.values():
        lines = Path(labels.__file__).with_name(name).read_text("utf-8").splitlines()
        for line in lines:
            synset, tab, word = line.partition("\t")
            assert len(synset) == 9 and synset[0] == "n" and synset[1:].isdigit()
            assert tab and word == word.strip() and word.isascii()


def test_order_by_name():
    here = ("cat", "dog", "owl")
    np.testing.assert_array_equal(label_order(here, here, "pets"), [0, 1, 2])
    np.testing.assert_array_equal(label_order(here[::-1], here, "pets"), [2, 1, 0])
    np.testing.assert_array_equal(label_order(("owl", "cat"), here, "pets"), [2, 0])
    # The same names twice are fine where nothing has to be found.
    twice = ("crane", "crane")
    np.testing.assert_array_equal(label_order(twice, twice, "cranes"), [0, 1])


def test_imagenet_by_id_by_name_and_by_the_names_of_others():
    folders = tuple(reversed(synsets(1000)))
    wanted = np.arange(1000)[::-1]
    long_names = tuple(
        "crane" if number in (134, 517) else f"{name}, so to say"
        for number, name in enumerate(label_names(1000))
    )
    for here in (label_names(1000), synsets(1000), long_names):
        np.testing.assert_array_equal(label_order(folders, here, "photos"), wanted)
        few = (synsets(1000)[7], synsets(1000)[3])
        np.testing.assert_array_equal(label_order(few, here, "photos"), [7, 3])
        few = ("toilet tissue", "tench")
        np.testing.assert_array_equal(label_order(few, here, "photos"), [999, 0])
    # A thousand classes are not always ImageNet's.
    other = tuple(f"part {number}" for number in range(1000))
    with pytest.raises(ValueError, match="photos has other label names"):
        label_order(folders, other, "photos")


def test_errors_tell_what_differs():
    with pytest.raises(
        ValueError, match=r"data set 'owl'; only in the model 'dog'.*--labels-by-index"
    ):
        label_order(("cat", "owl"), ("cat", "dog"), "pets")
    many = tuple(f"class {number}" for number in range(9))
    message = r"'class 4' and 4 more; only in the model none.*classes of the model$"
    with pytest.raises(ValueError, match=message):
        label_order((*many, "cat"), ("cat",), "pets")
    with pytest.raises(ValueError, match="other label names"):
        label_order(("cat", "cat"), ("cat", "dog"), "pets")


def test_order_by_index():
    order = label_order(("a", "b"), ("cat", "dog"), "pets", by_index=True)
    np.testing.assert_array_equal(order, [0, 1])
    with pytest.raises(ValueError, match="pets has 1 classes and the model 2"):
        label_order(("a",), ("cat", "dog"), "pets", by_index=True)
