"""Sources: splits, folder layouts, caching, and the message of each mistake."""

import contextlib
import os

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import prepare, sources, subsets
from vit_jax.data.decode import ImageError
from vit_jax.data.pipeline import Data
from vit_jax.data.source_types import CachedSource
from vit_jax.data.sources import ArraySource, make_source


def _write(path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
    Image.new("RGB", (6, 4), (value, 0, 0)).save(
        path, kind.get(path.suffix.lower(), "PNG")
    )


def _fill(folder, classes=("cat", "dog"), count=10) -> None:
    for number, name in enumerate(classes):
        for index in range(count):
            _write(folder / name / f"{index:02}.png", 10 * index + number)


def _names(source) -> set[str]:
    return {source.record_name(index) for index in range(len(source))}


def test_digits():
    train, test = make_source("digits", "train"), make_source("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    record = train[0]
    assert record["image"].shape == (8, 8, 3) and record["image"].dtype == np.uint8
    assert train.label_names == tuple("0123456789")
    for source in (train, test):
        counts = np.bincount([source[i]["label"] for i in range(len(source))])
        assert counts.min() > 0.9 * counts.mean()
    pixels = {
        source[i]["image"].tobytes() for source in (train, test) for i in range(9)
    }
    assert len(pixels) == 18
    assert max(train[i]["image"].max() for i in range(20)) == 255
    with pytest.raises(ValueError, match="digits has no split 'val'.*train, test"):
        make_source("digits", "val")


def test_slices():
    whole = make_source("digits", "train")
    parts = [make_source("digits", f"train[{p}]") for p in (":98%", "98%:")]
    assert sum(map(len, parts)) == len(whole) and len(parts[1]) == 29
    middle = make_source("digits", "train[100:200]")
    assert len(middle) == 100 and middle.label_names == whole.label_names
    assert middle.record_name(3) == whole.record_name(103)
    assert (middle[3]["image"] == whole[103]["image"]).all()
    assert len(make_source("digits", "train[-10:]")) == 10
    with pytest.raises(ValueError, match="'train.5:5.' of digits is empty.*1438"):
        make_source("digits", "train[5:5]")
    with pytest.raises(ValueError, match="cannot read the split 'train.5'.*train.:98%"):
        make_source("digits", "train[5")


def test_folder_with_splits(tmp_path):
    _fill(tmp_path / "train")
    _fill(tmp_path / "test", count=2)
    train, test = (make_source(str(tmp_path), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 4)
    assert train.label_names == test.label_names == ("cat", "dog")
    for source in (train, test):
        for index in range(len(source)):
            record = source[index]
            assert f"/{source.label_names[record['label']]}/" in (
                source.record_name(index)
            )
            assert record["image"].shape == (4, 6, 3)
    # A tenth of the split holds several classes, though files lie class by class.
    labels = {make_source(str(tmp_path), "train[:40%]")[i]["label"] for i in range(8)}
    assert labels == {0, 1}


def test_folder_extensions_hidden_and_nested(tmp_path):
    cat = tmp_path / "train" / "cat"
    for name in ("a.jpg", "b.JPEG", "c.Png", "d.webp", "e.BMP", "deep/er/f.jpg"):
        _write(cat / name)
    for name in (".hidden.png", ".thumbs/x.png"):
        _write(cat / name)
    (cat / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "README.md").write_text("no class")
    source = make_source(str(tmp_path), "train")
    assert len(source) == 6 and source.label_names == ("cat",)


def test_folder_without_splits(tmp_path):
    _fill(tmp_path, count=20)
    train, val = (make_source(str(tmp_path), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (36, 4)
    assert not _names(train) & _names(val)
    assert sorted(val[i]["label"] for i in range(4)) == [0, 0, 1, 1]
    assert len(make_source(str(tmp_path), "val", holdout=0.25)) == 10
    with pytest.raises(ValueError, match="no split 'test'; its splits are train, val"):
        make_source(str(tmp_path), "test")


def test_a_class_may_be_called_train(tmp_path):
    _fill(tmp_path, classes=("bus", "train"))
    assert make_source(str(tmp_path), "train").label_names == ("bus", "train")


def test_held_out_images_do_not_depend_on_other_classes_or_listing(
    tmp_path, monkeypatch
):
    _fill(tmp_path, count=20)
    before = _names(make_source(str(tmp_path), "val"))
    _fill(tmp_path, classes=("ant", "eel"), count=20)
    assert before < _names(make_source(str(tmp_path), "val"))
    order = [
        make_source(str(tmp_path), "train").record_name(index) for index in range(72)
    ]
    listing = os.scandir

    def backwards(path):
        with listing(path) as entries:
            return contextlib.nullcontext([*entries][::-1])

    monkeypatch.setattr(os, "scandir", backwards)
    again = make_source(str(tmp_path), "train")
    assert order == [again.record_name(index) for index in range(72)]


def test_folder_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="/nowhere/at/all does not exist"):
        make_source("/nowhere/at/all", "train")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no class folders, and no images.*root/CLASS"):
        make_source(str(empty), "train")
    flat = tmp_path / "flat"
    _write(flat / "a.png")
    with pytest.raises(ValueError, match="no class folders, only images.*root/CLASS"):
        make_source(str(flat), "train")
    good = tmp_path / "good"
    _fill(good / "train")
    with pytest.raises(ValueError, match="no split 'val'; its splits are train$"):
        make_source(str(good), "val")
    _fill(good / "val", classes=("cat", "eel"))
    with pytest.raises(ValueError, match="the class 'eel', which .*train does not"):
        make_source(str(good), "val")
    (good / "train" / "yak").mkdir()
    with pytest.raises(ValueError, match="class folder .*/yak holds no images"):
        make_source(str(good), "train")


def test_array_source():
    images = np.zeros((3, 4, 5), np.uint8)
    source = ArraySource(images, [0, 1, 0], ["a", "b"])
    assert len(source) == 3 and source[1]["label"] == 1
    assert source[1]["image"].shape == (4, 5, 3)
    for wrong, message in (
        ((images.astype(np.float32), [0, 1, 0]), "must be uint8.*float32"),
        ((images[0], [0, 1, 0, 0]), r"shape \(n, h, w, 3\).*\(4, 5\)"),
        ((images, [0, 1]), "labels must be 3 integers"),
        ((images, [0.0, 1.0, 0.0]), "labels must be 3 integers.*float64"),
        ((images, [0, 2, 0]), r"record 1: the label is 2, not in 0\.\.1"),
        ((images, [0, 1, -1]), r"record 2: the label is -1, not in 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            ArraySource(*wrong, ["a", "b"])


def test_cache(tmp_path, monkeypatch):
    _fill(tmp_path / "train", count=300)
    uncached = make_source(str(tmp_path), "train", cache="never")
    cached = make_source(str(tmp_path), "train")
    assert isinstance(cached, CachedSource) and len(cached) == len(uncached) == 600
    for index in (0, 255, 256, 599):
        assert cached.record_name(index) == uncached.record_name(index)
        assert cached[index]["label"] == uncached[index]["label"]
        assert (cached[index]["image"] == uncached[index]["image"]).all()
    monkeypatch.setattr(sources, "_AUTO_CACHE_BYTES", 600 * 4 * 6 * 3 - 1)
    assert not isinstance(make_source(str(tmp_path), "train"), CachedSource)
    assert isinstance(make_source(str(tmp_path), "train", cache="always"), CachedSource)


def test_cache_keeps_bad_records_as_errors(tmp_path):
    _fill(tmp_path / "train")
    bad = tmp_path / "train" / "cat" / "03.png"
    bad.write_bytes(b"broken")
    cached = make_source(str(tmp_path), "train")
    index = [cached.record_name(i) for i in range(20)].index(str(bad))
    for _ in range(2):
        with pytest.raises(ImageError, match="cat/03.png: the image cannot"):
            cached[index]
    assert "03.png" in cached.first_error()
    assert sum(isinstance(r, ImageError) for r in cached._records) == 1


def test_file_that_vanished_is_a_named_error(tmp_path):
    _fill(tmp_path / "train", count=1)
    source = make_source(str(tmp_path), "train", cache="never")
    os.remove(source.record_name(1))
    with pytest.raises(ImageError, match=f"{source.record_name(1)}: .*cannot be read"):
        source[1]


# --- some of the classes ---------------------------------------------------------


def test_classes_are_kept_and_relabelled(tmp_path):
    _fill(tmp_path / "train", classes=("cat", "dog", "eel"), count=20)
    whole = make_source(str(tmp_path), "train", cache="never")
    part = make_source(str(tmp_path), "train", classes=("eel", "cat"))
    assert part.label_names == ("eel", "cat") and isinstance(part, CachedSource)
    kept = {whole.record_name(i): whole[i] for i in range(60) if whole[i]["label"] != 1}
    assert [part.record_name(i) for i in range(40)] == list(kept)
    for index in range(40):
        old = kept[part.record_name(index)]
        assert part[index]["label"] == {2: 0, 0: 1}[old["label"]]
        np.testing.assert_array_equal(part[index]["image"], old["image"])
    # A slice is a share of the remaining records.
    tenth = make_source(str(tmp_path), "train[:50%]", classes=("eel", "cat"))
    assert [tenth.record_name(i) for i in range(20)] == list(kept)[:20]
    assert len(tenth) == 20
    numbered = make_source(str(tmp_path), "train", classes=("2", "0"))
    assert numbered.label_names == ("eel", "cat")


def test_classes_of_digits_go_by_name_and_reach_the_config():
    data = Data(
        name="digits",
        split="train[:10%]",
        classes=["7", "1"],
        batch_size=4,
        image_size=(8, 8),
    )
    assert data.label_names() == ("7", "1") and data.num_examples() == 29
    whole = make_source("digits", "test")
    wanted = [whole[i]["label"] for i in range(len(whole))]
    assert data.num_examples("test") == sum(label in (1, 7) for label in wanted)
    (batch,) = data.eval_batches("test", batch_size=100)
    expected = [[7, 1].index(label) for label in wanted if label in (1, 7)]
    assert batch["label"][batch["mask"]].tolist() == expected


def test_mistakes_in_classes_are_named(tmp_path):
    _fill(tmp_path / "train", classes=("cat", "dog"))
    for classes, message in (
        (("cta",), "'cta', which is no class of .* below 2; did you mean 'cat'"),
        (("2",), "'2', which is no class .*; its classes are cat, dog"),
        (("cat", "0"), "has the class '0' of .* twice"),
    ):
        with pytest.raises(ValueError, match=message):
            make_source(str(tmp_path), "train", classes=classes)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    only_cats = ArraySource(images, [0, 0], ("cat", "dog"))
    with pytest.raises(ValueError, match="this split of pets has no image of these"):
        subsets.with_classes(only_cats, ("dog",), "pets")


# --- tensorflow-datasets ---------------------------------------------------------


def _write_tfds(folder, labels) -> None:
    """A small prepared data set, written without TensorFlow."""
    import io

    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        """Toy."""

        VERSION = tfds.core.Version("1.0.0")
        name = "toy"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, label in enumerate(labels):
                file = io.BytesIO()
                Image.new("RGB", (3, 2), (number, 0, 0)).save(file, "PNG")
                file.seek(0)
                name = f"{number}.png"
                yield number, {"image": file, "label": label, "file_name": name}

    Toy(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def toy_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    _write_tfds(folder, [0, 1, 2, 1, 0, -1])
    return folder


def test_tfds(toy_dir):
    source = make_source("toy", "train", data_dir=toy_dir, cache="never")
    assert len(source) == 6 and source.label_names == ("cat", "dog", "eel")
    seen = {}
    for index in range(6):
        try:
            record = source[index]
        except ImageError as error:
            assert f"toy train record {index}: the label is -1" in str(error)
            assert source.record_name(index) == f"toy train record {index}"
            continue
        assert record["image"].shape == (2, 3, 3)
        seen[int(record["image"][0, 0, 0])] = record["label"]
    assert seen == {0: 0, 1: 1, 2: 2, 3: 1, 4: 0}
    for name, index in zip(source.file_names(), range(6), strict=True):
        if int(name[0]) in seen:
            assert source[index]["image"][0, 0, 0] == int(name[0])
    cached = make_source("toy", "train", data_dir=toy_dir)
    assert "label is -1" in cached.first_error()
    assert len(make_source("toy", "train[:50%]", data_dir=toy_dir)) == 3
    part = make_source("toy", "train[:75%]", classes=("dog", "cat"), data_dir=toy_dir)
    found = {int(part[i]["image"][0, 0, 0]): part[i]["label"] for i in range(3)}
    assert part.label_names == ("dog", "cat") and len(part) == 3
    assert found.items() <= {0: 1, 1: 0, 3: 0, 4: 1}.items()


def test_tfds_mistakes(toy_dir, tmp_path):
    with pytest.raises(ValueError, match="no split 'test'; its splits are train, each"):
        make_source("toy", "test", data_dir=toy_dir)
    with pytest.raises(ValueError, match="split 'train.0:0.' of data set 'toy' is emp"):
        make_source("toy", "train[0:0]", data_dir=toy_dir)
    with pytest.raises(ValueError, match="did you mean cifar10.*path of a folder"):
        make_source("cifar_10", "train", data_dir=str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match=r"'cifar10' is not prepared in .*`python -m vit_jax.data.prepare cifar10"
        rf" --data-dir {tmp_path}`",
    ):
        make_source("cifar10", "train", data_dir=str(tmp_path))


def test_missing_tensorflow_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "vit_jax\[prepare\]"'):
        make_source("cifar10", "train", data_dir=str(tmp_path))
    with pytest.raises(SystemExit, match=r'needs TensorFlow.*"vit_jax\[prepare\]"'):
        prepare.main(["cifar10"])


def test_restored_gzip_headers(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    body = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x02\x03compressed"
    names = prepare._FASHION_MNIST_TIMES
    for name in names:
        (source / f"{name}.gz").write_bytes(body)
    prepare.restore_fashion_mnist(str(source), str(target))
    for name, seconds in names.items():
        restored = (target / f"{name}.gz").read_bytes()
        assert restored[3] == 8 and restored[8:10] == b"\x00\x03"
        assert int.from_bytes(restored[4:8], "little") == seconds
        assert restored[10:] == name.encode() + b"\x00compressed"
    # Originals have the name already and are copied.
    prepare.restore_fashion_mnist(str(target), str(source))
    assert (source / f"{name}.gz").read_bytes() == restored
    os.remove(source / f"{name}.gz")
    with pytest.raises(SystemExit, match=f"{name}.gz is missing; put the four files"):
        prepare.restore_fashion_mnist(str(source), str(target))
