"""Labels in CSV files beside images, and several labels in records and shards."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.decode import ImageError
from vit_jax.data.openers import has_no_splits
from vit_jax.data.pipeline import Data
from vit_jax.data.record_list import describe
from vit_jax.data.sources import make_source
from vit_jax.data.tar_index import index_path


def write_image(path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


def write_set(root, text: str, *images: str, name: str = "labels.csv") -> str:
    """A folder of images, the k-th of red k, and a CSV file; returns its path."""
    for number, image in enumerate(images):
        write_image(root / image, number)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return str(root / name)


def labels_by_name(source) -> dict[str, object]:
    """{"a.png": {"cat"}} or {"a.png": "cat"} of all records, as they are read."""
    found = {}
    for index in range(len(source)):
        label = source[index]["label"]
        name = source.record_name(index).rpartition("/")[2]
        if np.ndim(label):
            assert label.dtype == np.uint8
            found[name] = {source.label_names[i] for i in np.flatnonzero(label)}
        else:
            found[name] = source.label_names[label]
        assert np.array_equal(source.labels()[index], label)
    return found


THREE = ("a.png", "b.png", "c.png")
SEVERAL = {"a.png": {"cat", "dog"}, "b.png": set(), "c.png": {"dog"}}


@pytest.mark.parametrize(
    "text",
    [
        "image_name,tags\na,cat dog\nb,\nc,dog\n",  # Kaggle's
        "filename, cat, dog\na.png, 1, 1\nb.png, 0, 0\nc.png, 0, 1\n",  # Roboflow's
        "file_name,labels\na.png,cat|dog\nb.png,\nc.png,dog\n",
        'path,classes\na.png,"dog, cat"\nb.png,\nc.png,dog\n',
        "\ufeff,Image,labels,age\n0,./a.png,cat;dog;cat,3\n1,b.png,,4\n2,c.png,dog,5\n",
        "labels,file name\ncat dog,a.png\n\n,b.png\ndog,c.png\n",
    ],
)
def test_forms_of_several_labels(tmp_path, text):
    table = write_set(tmp_path, text, *THREE)
    for name in (table, str(tmp_path)):
        source = make_source(name, "all")
        assert source.label_names == ("cat", "dog")
        assert labels_by_name(source) == SEVERAL
        assert source.labels().shape == (3, 2)
    source = make_source(table, "all", cache="never")
    assert labels_by_name(pickle.loads(pickle.dumps(source))) == SEVERAL


@pytest.mark.parametrize(
    "text",
    [
        'file_name,label\na.png,cat\nb.png,"dog, big"\nc.png,cat\n',
        'filename,cat,"dog, big"\na,1.0,0.0\nb,0.0,1.0\nc,1.0,0.0\n',
        'image,labels\na,cat\nb,"dog| big"\nc,cat\n'.replace("| big", "_big"),
    ],
)
def test_one_label_for_each_image_is_an_ordinary_set(tmp_path, text):
    source = make_source(write_set(tmp_path, text, *THREE), "all")
    dog = "dog_big" if "_big" in text else "dog, big"
    assert labels_by_name(source) == {"a.png": "cat", "b.png": dog, "c.png": "cat"}
    assert source.labels().dtype.kind == "i" and source.labels().shape == (3,)


def test_classes_that_are_numbers_are_ordered_by_value(tmp_path):
    text = "image,label\na,10\nb,9\nc,x\n"
    source = make_source(write_set(tmp_path, text, *THREE), "all")
    assert source.label_names == ("9", "10", "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na,cat\n", "has the columns 'name', 'label', and 1 rows: wanted"),
        ("image,path,label\na,a,cat\n", "wanted a column file_name"),
        ("image,label,labels\na,cat,cat\n", "wanted a column file_name"),
        ("image\na\n", "wanted a column file_name"),
        ("image,cat,cat\na,1,0\n", "wanted a column file_name"),
        ("image,label\n", "and 0 rows"),
        ("", "is empty: wanted a column"),
        ("image,cat,Age\na,1,68\n", "line 2: the column 'Age' holds '68', wanted 0 or"),
        ("image,cat\na,\n", "line 2: the column 'cat' holds '', wanted 0 or 1"),
        ("image,label\na,cat|dog\n", "line 2: the label is 'cat|dog', wanted the name"),
        ("image,label\na,\n", "line 2: the label is '', wanted the name of one class"),
        ("image,label\na,tench, fish\n", "line 2 has 3 cells, and the first line 2"),
        ("image,label,split\na,cat,tran\n", "line 2: the split is 'tran', wanted"),
        ("image,labels\na,cat\na.png,dog\n", "lines 2 and 3 are both of a.png: keep"),
        ("image,labels\nx,cat\ny,dog\n", "names 'x' and 1 others, none of which is am"),
        ("image,labels\nd,cat\n", "'d' may be "),
        ("image,label\na,\x00\xff", "is no text in UTF-8"),
    ],
)
def test_refused(tmp_path, text, message):
    table = write_set(tmp_path, "", *THREE, "x1/d.png", "x2/d.png")
    with open(table, "wb") as file:
        file.write(text.encode("latin-1"))
    with pytest.raises(ValueError, match="labels.csv") as error:
        make_source(table, "all")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_left_out_is_counted(tmp_path):
    text = "image_id,labels,age\na,cat dog,3\nb,dog,4\ngone,cat,5\n"
    table = write_set(tmp_path, text, *THREE, "deep/d.png", "notes.txt.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "other.csv").write_text("")
    data = Data(name=table, batch_size=1, image_size=(4, 4))
    assert data.in_words(["train"]).endswith(
        "2 classes: cat, dog; any number of labels an image, 2 on average; 6 left out "
        "(3 images without a row, 1 .csv, 1 .txt, 1 rows without an image)"
    )
    assert data.num_examples("all") == 2


def test_labels_count_in_what_a_resumed_run_compares(tmp_path):
    def described(text):
        table = write_set(tmp_path, text, *THREE)
        data = Data(name=table, batch_size=1, image_size=(4, 4), split="all")
        return describe(data, "all")

    first = described("image,label\na,cat\nb,dog\nc,dog\n")
    assert first == described("image,label\nc,dog\na,cat\nb,dog\n")
    assert first != described("image,label\na,dog\nb,cat\nc,dog\n")


def names(source) -> set[str]:
    return {source.record_name(i).rpartition("/")[2] for i in range(len(source))}


def test_a_held_out_share(tmp_path):
    images = [f"{i}.png" for i in range(40)]
    rows = [f"{i},{'cat dog' if i % 4 else 'cat'}" for i in range(40)]
    table = write_set(tmp_path / "s", "image,tags\n" + "\n".join(rows), *images)
    train, val = (make_source(table, x, holdout=0.25) for x in ("train", "val"))
    assert len(val) == 10 and not names(train) & names(val)
    assert names(train) | names(val) == set(images)
    assert has_no_splits(table) and has_no_splits(str(tmp_path / "s"))
    with pytest.raises(ValueError, match="no split 'test'; its splits are train, val"):
        make_source(table, "test")
    # The choice and the order go with the folder.
    (tmp_path / "s").rename(tmp_path / "moved")
    moved = make_source(str(tmp_path / "moved"), "val", holdout=0.25)
    order = [val.record_name(i).rpartition("/")[2] for i in range(10)]
    assert [moved.record_name(i).rpartition("/")[2] for i in range(10)] == order
    # Of one label an image, a share of each class.
    single = "image,label\n" + "\n".join(f"{i},{i % 4}" for i in range(40))
    table = write_set(tmp_path / "one", single, *images)
    assert np.bincount(make_source(table, "val").labels()).tolist() == [1] * 4


@pytest.mark.parametrize("layout", ["files", "folders", "column", "paths"])
def test_splits(tmp_path, layout):
    train, val = "x.png,cat dog\ny.png,dog\n", "z.png,dog\n"
    head = "file_name,labels\n"
    if layout == "files":
        write_set(tmp_path, head + train, "i/x.png", "i/y.png", name="train.csv")
        write_set(tmp_path, head + val, "i/z.png", name="valid.csv")
    elif layout == "folders":
        write_set(
            tmp_path, head + train, "train/x.png", "train/y.png", name="train/_.csv"
        )
        write_set(tmp_path, head + val, "valid/z.png", name="valid/_.csv")
    elif layout == "column":
        text = (
            "file_name,labels,Split\nx.png,cat dog,Train\nz.png,dog,valid\ny,dog,train"
        )
        write_set(tmp_path, text, "x.png", "y.png", "z.png")
    else:
        text = f"{head}train/x.png,cat dog\ntrain/y.png,dog\nval/z.png,dog\n"
        write_set(tmp_path, text, "train/x.png", "train/y.png", "val/z.png")
    root = str(tmp_path)
    found = {"x.png": {"cat", "dog"}, "y.png": {"dog"}}
    assert labels_by_name(make_source(root, "train")) == found
    for split in ("val", "validation"):
        assert labels_by_name(make_source(root, split)) == {"z.png": {"dog"}}
    with pytest.raises(ValueError, match="no split 'test'; its splits are train, val"):
        make_source(root, "test")
    assert not has_no_splits(root)
    data = Data(name=root, batch_size=1, image_size=(4, 4))
    assert "left out" not in data.in_words(["train", "val"])


def test_a_split_has_the_classes_of_the_training(tmp_path):
    head = "file_name,labels\n"
    write_set(tmp_path, head + "x,cat\ny,dog\n", "x.png", "y.png", name="train.csv")
    write_set(tmp_path, head + "z,owl\n", "z.png", name="val.csv")
    with pytest.raises(ValueError, match=r"val.csv has the class 'owl', which .*train"):
        make_source(str(tmp_path), "train")
    (tmp_path / "val.csv").write_text(head + "z,cat dog\n")
    with pytest.raises(ValueError, match="z.png of .* has 2 labels, and each image of"):
        make_source(str(tmp_path), "val")


def test_which_file_is_meant(tmp_path, caplog):
    """A folder of classes stays one; several files are refused; one named is taken."""
    rows = "image,label\nx.png,sea\ny.png,sky\n"
    table = write_set(tmp_path, rows, "cat/x.png", "dog/y.png")
    assert make_source(str(tmp_path), "all").label_names == ("cat", "dog")
    assert f"labels.csv is left out unless it is named, as data.name={table}" in (
        caplog.text
    )
    assert make_source(table, "all").label_names == ("sea", "sky")
    write_set(tmp_path / "b", rows, "x.png", "y.png", name="one.csv")
    write_set(tmp_path / "b", rows, name="two.csv")
    with pytest.raises(
        ValueError, match="has several CSV files, one.csv, two.csv: nam"
    ):
        make_source(str(tmp_path / "b"), "all")
    with pytest.raises(FileNotFoundError, match="no.csv does not exist"):
        make_source(str(tmp_path / "no.csv"), "all")
    with pytest.raises(ValueError, match="data.label='x' is for"):
        make_source(table, "all", label="x")


def test_some_classes_of_several(tmp_path):
    text = "image,labels\na,cat dog\nb,\nc,dog owl\n"
    table = write_set(tmp_path, text, *THREE)
    source = make_source(table, "all", classes=("owl", "cat"))
    assert source.label_names == ("owl", "cat")
    wanted = {"a.png": {"cat"}, "b.png": set(), "c.png": {"owl"}}
    assert labels_by_name(source) == wanted
    half = make_source(table, "all[:2]", classes=("owl",))
    assert half.labels().shape == (2, 1)


def test_batches_of_several_labels(tmp_path):
    text = "image,labels\na,cat dog\nb,\nc,dog\n"
    table = write_set(tmp_path, text, *THREE)
    options = {"batch_size": 2, "image_size": (4, 4), "split": "all", "crop": "resize"}
    data = Data(name=table, cache="never", repeated_augmentation=2, **options)
    wanted = {0: [1, 1], 1: [0, 0], 2: [0, 1]}
    with data.train_batches(seed=0) as batches:
        for _ in range(6):
            batch = next(batches)
            assert batch["label"].dtype == np.uint8
            for image, label in zip(batch["image"], batch["label"], strict=True):
                assert label.tolist() == wanted[int(image[0, 0, 0])]
    batches = list(data.eval_batches("all", 2))
    labels = np.concatenate([b["label"][b["mask"]] for b in batches])
    np.testing.assert_array_equal(labels, data.source("all").labels())
    with pytest.raises(
        ValueError, match="data.sampling='balanced' levels classes, and"
    ):
        Data(name=table, sampling="balanced", **options).check_splits(())


def test_several_labels_in_tar_shards(tmp_path):
    from tests.data.test_shards import _png, _write_tar

    (tmp_path / "classes.txt").write_text("cat\ndog\neel\n")
    members = {}
    for number, labels in enumerate((["cat", 2], [], ["dog"])):
        members[f"{number}.png"] = _png(number)
        members[f"{number}.json"] = json.dumps({"labels": labels}).encode()
    _write_tar(tmp_path / "train-0.tar", members)
    cls = {"0": b"0 2\n", "1": b"1", "2": b"2,0", "3": b"0 7", "4": b"0 x"}
    members = {f"{key}.cls": text for key, text in cls.items()}
    members |= {f"{key}.png": _png(int(key)) for key in cls}
    _write_tar(tmp_path / "val-0.tar", dict(sorted(members.items())))
    source = make_source(str(tmp_path), "train", label="labels", cache="never")
    assert source.labels().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    copy = pickle.loads(pickle.dumps(source))
    assert [r["label"].tolist() for r in copy] == source.labels().tolist()
    assert [r["image"][0, 0, 0] for r in copy] == [0, 1, 2]
    val = make_source(str(tmp_path), "val", cache="never")
    assert [val[i]["label"].tolist() for i in range(3)] == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 1],
    ]
    with pytest.raises(ImageError, match=r"3.png: the label is 7, not in 0..2"):
        val[3]
    with pytest.raises(ImageError, match="4.png: its label is neither a number nor"):
        val[4]
    assert index_path(str(tmp_path), ["val-0.tar"], "label", source.label_names)


def test_several_labels_in_records_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tagged(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            names = ["cat", "dog", "eel"]
            features = {
                "image": tfds.features.Image(),
                "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=names)),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, labels in enumerate(([0, 2], [], [-1])):
                write_image(tmp_path / f"{number}.png", number)
                path = str(tmp_path / f"{number}.png")
                yield number, {"image": path, "labels": labels}

    builder = Tagged(data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    source = make_source(str(builder.data_dir), "train", label="labels", cache="never")
    order = [source._data[i]["image"] for i in range(3)]
    place = [order.index((tmp_path / f"{n}.png").read_bytes()) for n in range(3)]
    assert source.label_names == ("cat", "dog", "eel")
    assert source[place[0]]["label"].tolist() == [1, 0, 1]
    assert source[place[1]]["label"].tolist() == [0, 0, 0]
    with pytest.raises(ImageError, match="the label is -1, not in 0..2"):
        source[place[2]]
    assert source.labels()[place].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="a class field 'image' are needed"):
        make_source(str(builder.data_dir), "train", label="image")
