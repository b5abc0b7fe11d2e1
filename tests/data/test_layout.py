"""Where splits and classes are in a folder of images, and what is left out of it."""

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vit_jax.data.files import Files, find_images
from vit_jax.data.layout import find_layout, split_kinds
from vit_jax.data.listing import EXTENSIONS, describe_left_out, walk
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")


def _fill(*folders: Path) -> None:
    for folder in folders:
        for name in ("cat", "dog"):
            for number in range(3):
                _write(folder / name / f"{number}.png")


def _open(root: Path, split: str = "train"):
    return make_source(str(root), split, cache="never")


def _data(root: Path) -> Data:
    return Data(name=str(root), batch_size=1, image_size=(4, 4))


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("TRAIN", "TEST", "test"),
        ("training_set", "test_set", "test"),
        ("TrainingSet", "TestSet", "test"),
        ("trn", "tst", "test"),
        ("train", "valid", "val"),
        ("train", "dev", "validation"),
        ("Train-Images", "Val-Images", "val"),
        ("train2017", "val2017", "val"),
        ("birds_train", "birds_validation", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("photos/train", "photos/test", "test"),
    ],
)
def test_usual_names_of_splits(tmp_path, train, other, split, caplog):
    _fill(tmp_path / train, tmp_path / other)
    for name, folder in (("train", train), (split, other)):
        source = _open(tmp_path, name)
        assert source.label_names == ("cat", "dog") and len(source) == 6
        assert source.record_name(0).startswith(str(tmp_path / folder))
    told = caplog.text
    assert bool(told) == ((train, other) not in {("train", "valid"), ("train", "dev")})


def test_words_of_splits_in_names_of_classes():
    assert split_kinds(["bullet_train", "test_tube", "train_station"]) == {}
    assert split_kinds(["a_train", "a_test", "a_pred"]) == {
        "a_train": "train",
        "a_test": "test",
    }
    assert split_kinds(["train_test"]) == {}


def test_one_folder_too_many_is_told(tmp_path, caplog):
    _fill(tmp_path / "outer" / "inner")
    assert _open(tmp_path).label_names == ("cat", "dog")
    assert f"looked for in {tmp_path}/outer/inner" in caplog.text


def test_a_class_alone_keeps_its_folders(tmp_path):
    _write(tmp_path / "train" / "cat" / "old" / "a.png")
    _write(tmp_path / "train" / "cat" / "b.png")
    assert _open(tmp_path).label_names == ("cat",)


def test_a_class_that_stands_alone_in_a_folder_or_in_one_split(tmp_path):
    for name in ("old/1", "new/2", "3"):
        _write(tmp_path / "a" / "cat" / f"{name}.png")
    assert _open(tmp_path / "a").label_names == ("cat",)
    _fill(tmp_path / "b" / "train")
    for name in ("old", "new"):
        _write(tmp_path / "b" / "val" / "cat" / name / "1.png")
    source = _open(tmp_path / "b", "val")
    assert source.label_names == ("cat", "dog") and source.labels().tolist() == [0, 0]


def test_a_folder_beside_the_splits_is_one_if_it_is_named(tmp_path, caplog):
    _fill(tmp_path / "train", tmp_path / "val", tmp_path / "winter")
    assert _open(tmp_path, "winter").record_name(0).startswith(f"{tmp_path}/winter/")
    assert "winter beside the splits" in caplog.text
    with pytest.raises(ValueError, match="no split 'summer'; its splits are train, v"):
        _open(tmp_path, "summer")


def test_what_can_be_read_in_two_ways_is_refused(tmp_path):
    for name in ("bus", "car", "train"):
        for view in ("front", "side"):
            _write(tmp_path / "a" / name / view / "0.png")
    with pytest.raises(ValueError, match="two ways: train is a split, or a class be"):
        _open(tmp_path / "a")
    _fill(tmp_path / "b" / "Train", tmp_path / "b" / "training")
    with pytest.raises(ValueError, match="two folders for the split 'train'"):
        _open(tmp_path / "b")
    _write(tmp_path / "c" / "train" / "0.png")
    _write(tmp_path / "c" / "test" / "0.png")
    with pytest.raises(ValueError, match="named as a split, and holds images and no"):
        _open(tmp_path / "c")


def test_a_split_without_classes_is_told(tmp_path, caplog):
    _fill(tmp_path / "train", tmp_path / "val")
    _write(tmp_path / "test" / "1.png")
    _write(tmp_path / "more" / "1.png")
    layout = find_layout(str(tmp_path))
    assert sorted(layout.splits) == ["train", "val"] and list(layout.flat) == ["test"]
    assert len(_open(tmp_path)) == 6
    assert "test has no class folders and is left out" in caplog.text
    assert "more beside the splits" in caplog.text
    with pytest.raises(ValueError, match="test has no class folders, only images"):
        _open(tmp_path, "test")


def test_a_flat_folder_beside_classes_is_told_as_a_class(tmp_path, caplog):
    _fill(tmp_path)
    _write(tmp_path / "test" / "1.png")
    assert _open(tmp_path, "all").label_names == ("cat", "dog", "test")
    assert "test of" in caplog.text and "taken as classes" in caplog.text


@pytest.mark.parametrize("parent", [".", "train"])
def test_classes_that_hold_the_same_folders_are_told(tmp_path, caplog, parent):
    _fill(tmp_path / parent / "fold1", tmp_path / parent / "fold2")
    assert _open(tmp_path, "train").label_names == ("fold1", "fold2")
    assert "taken as classes, though each holds the folders cat, dog" in caplog.text


def test_rings_of_links_are_left_out(tmp_path):
    _fill(tmp_path)
    for folder in (tmp_path, tmp_path / "cat"):
        for name, other in (("one.png", "two.png"), ("two.png", "one.png")):
            (folder / name).symlink_to(folder / other)
    source = _open(tmp_path, "all")
    assert len(source) == 6 and source.label_names == ("cat", "dog")
    (counts,) = source.left_out.values()
    assert counts == {"broken link": 4}
    assert len(find_images([str(tmp_path)])) == 6


def test_what_is_left_out_is_counted_and_predict_sees_the_same(tmp_path, caplog):
    caplog.set_level("INFO", "vit_jax")
    _fill(tmp_path / "train")
    cat = tmp_path / "train" / "cat"
    for name in ("@eaDir/0.png", ".thumbnails/0.png", "__MACOSX/0.png", "._0.png"):
        _write(cat / name)
    (cat / "notes.txt").write_text("no image")
    (cat / "x.psd").write_text("no image")
    os.mkfifo(cat / "pipe.jpg")
    (cat / "zero.jpg").symlink_to("/dev/zero")
    (cat / "gone.jpg").symlink_to(cat / "nowhere.jpg")
    (cat / "up").symlink_to(tmp_path / "train")
    (cat / "again").symlink_to(cat)
    (tmp_path / "train" / "loop").symlink_to(tmp_path)
    _write(tmp_path / "train" / "loose.png")
    source = _open(tmp_path)
    assert len(source) == 6 and source.label_names == ("cat", "dog")
    (counts,) = source.left_out.values()
    assert counts == {
        "hidden": 2,
        "folder @eaDir": 1,
        "folder __MACOSX": 1,
        ".txt": 1,
        ".psd": 1,
        "no regular file": 2,
        "broken link": 1,
        "link to a folder above it": 3,
        "in no class folder": 1,
    }
    words = _data(tmp_path).in_words(("train",))
    assert "6 images in train; 2 classes: cat, dog; 13 left out (3 link to" in words
    trained = {source.record_name(index) for index in range(len(source))}
    seen = {str(path) for path in find_images([str(tmp_path / "train")])}
    assert seen - trained == {str(tmp_path / "train" / "loose.png")}
    assert trained <= seen
    assert "left out (" in caplog.text


def test_train_and_predict_see_the_same_images(tmp_path):
    """Every ending in any case, nested and hidden folders, links, odd names."""
    cat, dog = tmp_path / "cat", tmp_path / "dog"
    _fill(tmp_path)
    for ending in (*EXTENSIONS, ".JPG", ".Png"):
        _write(cat / "deep" / "deeper" / f"a{ending}")
        _write(cat / ".hidden" / f"a{ending}")
        _write(cat / f".a{ending}")
        _write(cat / f"a{ending}.bak")
    _write(Path(os.fsdecode(bytes(dog) + b"/caf\xe9 \xff\n.png")))
    _write(Path(os.fsdecode(bytes(dog) + b"/n\xe9/b.png")))
    _write(tmp_path.parent / f"{tmp_path.name}-beside" / "linked.png")
    outside = tmp_path.parent / f"{tmp_path.name}-beside"
    (dog / "folder").symlink_to(outside)
    (dog / "file.png").symlink_to(outside / "linked.png")
    (dog / "folder.png").symlink_to(outside)
    (dog / "text.png").symlink_to(outside / "none.txt")
    source = _open(tmp_path, "all")
    trained = {source.record_name(index) for index in range(len(source))}
    assert trained == {str(path) for path in find_images([str(tmp_path)])}
    names = Counter(os.path.relpath(path, tmp_path).split("/")[0] for path in trained)
    assert names == {"cat": 3 + len(EXTENSIONS) + 2, "dog": 3 + 2 + 2}
    files = Files(find_images([str(tmp_path)]))
    assert all(files[index]["image"].shape == (4, 4, 3) for index in range(len(files)))
    # Among them, what it takes to print and to decode names that are not UTF-8.
    assert source[0]["image"].shape == (4, 4, 3)


def test_links_are_followed_in_an_order_of_their_own(tmp_path):
    """Once each, a folder before links to it, links by name, and never back up."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    _write(root / "cat" / "real" / "1.png")
    _write(root / "dog" / "2.png")
    _write(outside / "3.png")
    (outside / "back").symlink_to(root)
    for number in range(20):
        (root / "cat" / f"a{number:02}").symlink_to(root / "cat" / "real")
        (root / "cat" / f"b{number:02}").symlink_to(outside)
    found = sorted(path for path, reason in walk(str(root / "cat")) if not reason)
    assert found == ["b00/3.png", "real/1.png"]
    source = _open(root, "all")
    assert sorted(source.labels()) == [0, 0, 1]


def test_of_what_is_left_out_the_most_frequent_kinds_are_named():
    counts = {"a": 1, "b": 7, "c": 2, "d": 1, "e": 1, "f": 3, "g": 1}
    assert describe_left_out(counts) == (
        "16 left out (7 b, 3 f, 2 c, 1 a, 1 d, and 2 other kinds)"
    )
    assert describe_left_out({"a": 1_234}) == "1,234 left out (1,234 a)"


def test_a_folder_of_what_needs_a_library_says_so(tmp_path):
    _fill(tmp_path)
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "1.HEIC").write_bytes(b"no image")
    if ".heic" in EXTENSIONS:
        pytest.skip("the library is here")
    advice = 'no images .*, 1 left out .1 .heic until `pip install "vit_jax.heic'
    with pytest.raises(ValueError, match=f"eel holds {advice}"):
        _open(tmp_path, "all")
    with pytest.raises(ValueError, match=f"eel holds {advice}"):
        find_images([str(tmp_path / "eel")])


def test_held_out_splits_count_their_folder_once(tmp_path):
    _fill(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "dog").rename(tmp_path / "dog\n\udce9")
    words = _data(tmp_path).in_words(("train", "val", "train"))
    assert r"2 classes: cat, dog\n\udce9; " in words
    assert "4 images in train, 2 images in val" in words
    assert words.endswith("1 left out (1 .txt)")
