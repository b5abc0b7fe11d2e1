"""Tar shards, prepared sets by folder, and both of them in a bucket of an emulator."""

import base64
import errno
import functools
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import pack, prepare, staging
from vit_jax.data.decode import ImageError
from vit_jax.data.pipeline import Data
from vit_jax.data.record_list import describe
from vit_jax.data.sources import make_source

gcsfs = pytest.importorskip("gcsfs")
emulator = pytest.importorskip("gcp_storage_emulator.server")


@pytest.fixture(scope="module")
def bucket():
    """The file system of an empty bucket `data`, on a server of this process."""
    with pytest.MonkeyPatch.context() as patch:
        server = emulator.create_server(
            "127.0.0.1", 0, in_memory=True, default_bucket="data"
        )
        server.start()
        port = server._api._httpd.server_port
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("NO_GCE_CHECK", "true")  # there is no server of metadata to ask
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield gcsfs.GCSFileSystem()
        server.stop()
        gcsfs.GCSFileSystem.clear_instance_cache()


def _upload(files, folder, name: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".index" not in path.parts:
            files.put_file(str(path), f"data/{name}/{path.relative_to(folder)}")


def _png(value: int, size=(6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _write_tar(path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _write_shards(root, shards=3, records=4, split="train") -> None:
    """Record k of a split is an image of red k, of class k mod 3."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("cat\ndog\neel\n")
    for shard in range(shards):
        members = {}
        for k in range(shard * records, (shard + 1) * records):
            members[f"photos.2026/{k:03}.png"] = _png(k)
            members[f"photos.2026/{k:03}.cls"] = str(k % 3).encode()
        _write_tar(root / f"pets-{split}-{shard:04}.tar", members)


def _reds(source) -> list[int]:
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_records_of_tar_shards(tmp_path):
    _write_shards(tmp_path)
    _write_shards(tmp_path, shards=1, split="validation")
    source = make_source(str(tmp_path), "train", cache="never")
    assert _reds(source) == list(range(12))
    assert source.label_names == ("cat", "dog", "eel")
    assert [source[i]["label"] for i in range(12)] == [0, 1, 2] * 4
    assert source.labels().tolist() == [0, 1, 2] * 4
    shard = tmp_path / "pets-train-0001.tar"
    assert source.record_name(5) == f"{shard}/photos.2026/005.png"
    assert _reds(make_source(str(tmp_path), "validation")) == [0, 1, 2, 3]
    assert _reds(make_source(str(tmp_path), "train[25%:50%]")) == [3, 4, 5]
    eels = make_source(str(tmp_path), "train", classes=("eel", "cat"))
    assert _reds(eels) == [k for k in range(12) if k % 3 != 1]
    assert [eels[i]["label"] for i in range(3)] == [1, 0, 1]
    assert _reds(pickle.loads(pickle.dumps(source))) == list(range(12))


def test_layouts_of_webdataset(tmp_path):
    """Other members, `json`, split folders, upper case, long names, one split."""
    folders = tmp_path / "folders"
    long = "x" * 150
    record = {"label": "dog", "fine": 2, "caption": "dog.png"}
    _write_tar(
        folders / "train" / "000.tar",
        {
            "README": b"no record",
            f"{long}/a.JPG": _png(7),
            f"{long}/a.seg.png": _png(9),
            f"{long}/a.json": json.dumps(record).encode(),
            "b.json": json.dumps({"label": 0, "fine": 1}).encode(),
            "b.png": _png(8),
        },
    )
    (folders / "classes.json").write_text('["cat", "dog", "eel"]')
    source = make_source(str(folders), "train", cache="never")
    assert [(r["label"], r["image"][0, 0, 0]) for r in source] == [(1, 7), (0, 8)]
    assert source.record_name(0).endswith(f"000.tar/{long}/a.JPG")
    fine = make_source(str(folders), "train", label="fine")
    assert fine.labels().tolist() == [2, 1]
    plain = tmp_path / "plain"
    _write_tar(plain / "000.tar", {"a.png": _png(1), "a.cls": b"0\n"})
    (plain / "classes.txt").write_text("only\n")
    assert len(make_source(str(plain), "train")) == 1
    with pytest.raises(ValueError, match="no split 'test'; .* its shards are train$"):
        make_source(str(plain), "test")


def test_bad_records_of_tar_shards_are_named(tmp_path):
    png = _png(1)
    _write_tar(
        tmp_path / "train-0.tar",
        {
            **{"a.png": png, "a.cls": b"0"},
            **{"b.png": png[:40], "b.cls": b"1"},
            **{"c.png": png, "c.cls": b"2"},
            **{"d.png": png, "d.cls": b"1.5"},
            "e.png": png,
            **{"f.cls": b"0"},
            **{"g.png": png, "g.json": b"{"},
        },
    )
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = make_source(str(tmp_path), "train", cache="never")
    for index, message in enumerate(
        [
            "",
            "b.png: the image cannot be decoded",
            r"c.png: the label is 2, not in 0\.\.1",
            "d.png: its label is neither a number nor the name of a class",
            "e.png: it has no label",
            "f.cls: there is no image beside it",
            "g.png: it has no label",
        ]
    ):
        if message:
            with pytest.raises(ImageError, match=f"train-0.tar/{message}"):
                source[index]
    options = dict(name=str(tmp_path), batch_size=2, image_size=(4, 4), cache="never")
    with Data(**options, on_error="skip").train_batches(seed=0) as batches:
        assert next(batches)["label"].tolist() == [0, 0]
        while len(batches.skipped) < 6:
            assert not next(batches)["label"].any()
    with Data(**options).train_batches(seed=0) as batches:
        with pytest.raises(ImageError, match='set data.on_error="skip"'):
            for _ in range(4):
                next(batches)


def test_mistakes_in_tar_folders(tmp_path):
    _write_shards(tmp_path)
    shard = tmp_path / "pets-train-0001.tar"
    whole = shard.read_bytes()
    for size in (len(whole) // 2, len(whole) - 9000):
        shard.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="train-0001.tar is damaged .*; get it ag"):
            make_source(str(tmp_path), "train")
    shard.write_bytes(b"<html>" + whole[6:])
    with pytest.raises(ValueError, match="train-0001.tar is damaged"):
        make_source(str(tmp_path), "train")
    _write_tar(shard, {"a.png": _png(1), "a.jpg": _png(2), "a.cls": b"0"})
    with pytest.raises(ValueError, match="train-0001.tar is damaged .a has 2 images"):
        make_source(str(tmp_path), "train")
    shard.rename(tmp_path / "more.tar")
    with pytest.raises(ValueError, match="more.tar is of no split, and other shards"):
        make_source(str(tmp_path), "train")
    (tmp_path / "more.tar").unlink()
    for text in ("cat\ncat\n", "", "cat\n\ndog\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(ValueError, match="classes.txt: .* is .*: wanted a "):
            make_source(str(tmp_path), "train")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ValueError, match="neither classes.txt nor classes.json"):
        make_source(str(tmp_path), "train")
    records = tmp_path / "records"
    records.mkdir()
    (records / "train.array_record-00000-of-00001").touch()
    with pytest.raises(ValueError, match="ArrayRecord files, but no dataset_info.json"):
        make_source(str(records), "train")


def test_index_is_made_once_and_follows_the_shards(tmp_path, monkeypatch):
    _write_shards(tmp_path)
    make_source(str(tmp_path), "train")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "next", None)
        assert len(make_source(str(tmp_path), "train", cache="never")) == 12
    one = {"a.png": _png(1), "a.cls": b"0"}
    _write_tar(tmp_path / "pets-train-0000.tar", one)
    assert len(make_source(str(tmp_path), "train", cache="never")) == 9
    _write_shards(tmp_path, shards=4)
    assert len(make_source(str(tmp_path), "train", cache="never")) == 16
    # The folder of the data cannot be written to.
    for path in (tmp_path / ".index").iterdir():
        path.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(make_source(str(tmp_path), "train", cache="never")) == 16
    assert not list((tmp_path / ".index").iterdir())
    assert len(list((tmp_path / "cache/vit_jax/tar").glob("*.npy"))) == 1


def test_a_damaged_index_is_made_anew(tmp_path):
    _write_shards(tmp_path)
    make_source(str(tmp_path), "train")
    (path,) = (tmp_path / ".index").glob("*.npy")
    good = path.read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    for damaged in (b"", good[:-1], good[:90], buffer.getvalue()):
        path.write_bytes(damaged)
        assert _reds(make_source(str(tmp_path), "train")) == list(range(12))
        assert path.read_bytes() == good
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="npy is a pipe or a device"):
        make_source(str(tmp_path), "train")


def test_an_index_that_a_full_disk_does_not_take_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    _write_shards(tmp_path)
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"npy could not be written: No space left"):
        make_source(str(tmp_path), "train")
    assert [path.name for path in (tmp_path / ".index").iterdir()] == [".staging.lock"]


def test_a_changed_shard_is_another_list_of_records(tmp_path):
    """Even where names and sizes of files are the same: other order, label, size."""

    def facts(**options):
        data = Data(name=str(tmp_path), batch_size=1, image_size=(4, 4), **options)
        return describe(data, "train[:50%]")

    _write_shards(tmp_path)
    first = facts()
    assert first == facts(cache="never") and first["images"] == 6
    _write_shards(tmp_path)  # at another time
    assert facts() == first
    shard = tmp_path / "pets-train-0002.tar"
    content = shard.read_bytes()
    label = content.index(b"photos.2026/011.cls") + 512
    shard.write_bytes(content[:label] + b"0" + content[label + 1 :])
    os.utime(shard, (9, 9))
    assert facts()["names"] != first["names"]
    shard.write_bytes(content)
    assert facts() == first
    shard.rename(tmp_path / "pets-train-zzz.tar")
    assert facts() == first  # the order of the records is the same
    shutil.copy(tmp_path / "pets-train-0000.tar", tmp_path / "pets-train-a.tar")
    assert facts()["names"] != first["names"]


def test_stream_of_tar_shards_is_that_of_the_folder_they_were_packed_from(tmp_path):
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    for k in range(40):
        path = folder / "train" / ("cat", "dog")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(k, (20, 16)))
    prepare.main([str(folder), "--output", str(shards), "--per-shard", "7"])
    assert len(list(shards.glob("train-*.tar"))) == 6
    prepared = {"data_dir": str(tmp_path / "prepared")}
    prepare.main(["pets", "--from", str(folder), "--data-dir", prepared["data_dir"]])

    def batches(name, start=0, **options):
        data = Data(name=str(name), batch_size=8, image_size=(8, 8), **options)
        with data.train_batches(seed=3, start_index=start) as stream:
            return [next(stream) for _ in range(8)]

    wanted = batches(folder)
    for found in (
        batches(shards),
        batches("pets", **prepared),
        batches(shards, cache="never", num_threads=3),
        batches(shards, cache="never", workers=2),
    ):
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["label"], other["label"])
    later = batches(shards, start=16, cache="never")
    np.testing.assert_array_equal(wanted[2]["image"], later[0]["image"])


@pytest.mark.parametrize("name", [b"caf\xe9", b"dog\n", b"a\xe2\x80\xa8b"])
def test_classes_whose_names_are_no_line_are_not_packed(tmp_path, name):
    """classes.txt could not hold them; names of images may be any bytes."""
    folder = tmp_path / "folder"
    for text in (b"c\xc3\xb6w/\xff\n.png", name + b"/1.png"):
        path = pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/" + text))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(7))
    with pytest.raises(SystemExit, match="has a name that is not a line of UTF-8"):
        prepare.main([str(folder), "--output", str(tmp_path / "shards")])
    (folder / os.fsdecode(name)).rename(folder / "dog")
    prepare.main([str(folder), "--output", str(tmp_path / "shards")])
    source = make_source(str(tmp_path / "shards"), "train", cache="never")
    assert source.label_names == ("cöw", "dog") and _reds(source) == [7, 7]
    names = [source.record_name(index) for index in range(2)]
    assert sum("/cöw/" in name and "\udcff\n" in name for name in names) == 1


def test_packing_goes_on_and_refuses_other_images(tmp_path, monkeypatch):
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    for k in range(9):
        path = folder / ("a.b", "c")[k % 2] / "deep" / f"{k}.x.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(k))
    command = [str(folder), "--output", str(shards), "--per-shard", "3"]
    real, calls = pack._add, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "_add", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.main(command)
    assert [path.name for path in shards.glob("*.tar")] == ["train-000000.tar"]
    first = (shards / "train-000000.tar").stat().st_mtime_ns
    prepare.main(command)
    assert (shards / "train-000000.tar").stat().st_mtime_ns == first
    assert not list(shards.glob("*.part"))
    source = make_source(str(shards), "train", cache="never")
    reds = _reds(source)
    assert source.label_names == ("a.b", "c") and sorted(reds) == list(range(9))
    for index, red in enumerate(reds):
        assert source[index]["label"] == red % 2
        name = f"/{('a.b', 'c')[red % 2]}/{index:08}_{red}_x.jpeg"
        assert source.record_name(index).endswith(name)
    (folder / "c" / "new.png").write_bytes(_png(1))
    with pytest.raises(SystemExit, match="begun with other images.*shards.json"):
        prepare.main(command)
    with pytest.raises(SystemExit, match="folder of images nowhere does not exist"):
        prepare.main(["nowhere", "--output", str(shards)])


# --- in a bucket ------------------------------------------------------------------


def test_tar_shards_in_a_bucket(bucket, tmp_path, capsys):
    _write_shards(tmp_path / "made")
    _write_shards(tmp_path / "made", shards=1, split="validation")
    _upload(bucket, tmp_path / "made", "pets")
    stage = tmp_path / "stage"
    options = dict(stage=str(stage), cache="never")
    source = make_source("gs://data/pets", "train", **options)
    assert _reds(source) == list(range(12))
    assert source.record_name(0).startswith(f"{stage}/data/pets/pets-train-0000.tar/")
    # Only whole files of the splits in use, each once.
    assert "copying 4 files" in capsys.readouterr().out
    copied = {path.name for path in (stage / "data/pets").glob("[!.]*")}
    assert copied == {"classes.txt", *(f"pets-train-000{k}.tar" for k in range(3))}
    make_source("gs://data/pets", "train[:50%]", **options)
    assert "copying" not in capsys.readouterr().out
    assert len(make_source("gs://data/pets", "validation", **options)) == 4
    assert "copying 1 files" in capsys.readouterr().out
    # The object was replaced by another of the same size, or the copy was cut.
    bucket.put_file(
        str(tmp_path / "made/pets-train-0000.tar"), "data/pets/pets-train-0001.tar"
    )
    os.utime(stage / "data/pets/pets-train-0001.tar", (1, 1))
    with open(stage / "data/pets/pets-train-0002.tar", "r+b") as file:
        file.truncate(512)
    source = make_source("gs://data/pets", "train", **options)
    assert "copying 2 files" in capsys.readouterr().out
    assert _reds(source) == [0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11]


def _write_tfds(folder, *, test_label: int = 1, several: bool = False) -> None:
    """Image k of "train" is of class k mod 3; with `several`, it is in a list."""
    import tensorflow_datasets as tfds

    kind = tfds.features.ClassLabel(names=["cat", "dog", "eel"])

    class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Pets."""

        VERSION = tfds.core.Version("1.0.0")
        name = "pets"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Sequence(kind) if several else kind,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {
                "train": self._generate_examples({k: k % 3 for k in range(9)}),
                "test": self._generate_examples({40: test_label}),
            }

        def _generate_examples(self, labels):
            for k, label in labels.items():
                label = [label] if several else label
                yield k, {"image": io.BytesIO(_png(k)), "label": label}

    Pets(data_dir=folder, file_format="array_record").download_and_prepare()


def test_prepared_sets_by_folder_and_in_a_bucket(bucket, tmp_path):
    _write_tfds(tmp_path / "tfds")
    local = make_source("pets", "train", data_dir=str(tmp_path / "tfds"))
    wanted = _reds(local)
    assert sorted(wanted) == list(range(9))
    folder = tmp_path / "tfds/pets/1.0.0"
    assert _reds(make_source(str(folder), "train")) == wanted
    _upload(bucket, tmp_path / "tfds", "tfds")
    stage = tmp_path / "stage"
    for name, options in (
        ("pets", {"data_dir": "gs://data/tfds/"}),
        ("gs://data/tfds/pets/1.0.0", {}),
    ):
        source = make_source(name, "train", stage=str(stage), **options)
        assert _reds(source) == wanted and source.label_names == ("cat", "dog", "eel")
        assert [source[i]["label"] for i in range(9)] == [k % 3 for k in wanted]
    assert not list(stage.rglob("*test*"))
    summed = make_source(
        "pets", "train[:4]+test", stage=str(stage), **{"data_dir": "gs://data/tfds"}
    )
    assert _reds(summed) == [*wanted[:4], 40]
    # The reader itself takes a missing file for one without records.
    next(folder.glob("pets-test*")).unlink()
    with pytest.raises(
        FileNotFoundError, match="test.* is missing, one of 1 files of sp"
    ):
        make_source(str(folder), "test")


def test_a_prepared_set_is_packed(tmp_path):
    _write_tfds(tmp_path / "tfds")
    folder, shards = tmp_path / "tfds/pets/1.0.0", tmp_path / "shards"
    prepare.main([str(folder), "--output", str(shards), "--shorter-side", "2"])
    for split in ("train", "test"):
        whole, small = (make_source(str(x), split) for x in (folder, shards))
        assert small.label_names == whole.label_names
        assert small.labels().tolist() == whole.labels().tolist()
        np.testing.assert_allclose(_reds(small), _reds(whole), atol=2)
        assert small[0]["image"].shape == (2, 3, 3)
    assert small.record_name(0).endswith("dog/00000000_record.jpg")


def test_what_of_a_prepared_set_is_not_packed(tmp_path, caplog):
    shards = tmp_path / "shards"
    command = [str(tmp_path / "pets/1.0.0"), "--output", str(shards)]
    _write_tfds(tmp_path, test_label=-1)
    with caplog.at_level("WARNING", "vit_jax"):
        prepare.main(command)
    assert "the split 'test' of" in caplog.text
    assert [path.name for path in shards.glob("*.tar")] == ["train-000000.tar"]
    shutil.rmtree(tmp_path / "pets")
    _write_tfds(tmp_path, several=True)
    with pytest.raises(SystemExit, match="several labels, which are not packed"):
        prepare.main(command)


def test_flips_by_the_name_of_a_prepared_folder():
    for name, flips in (
        ("gs://b/tfds/mnist/3.0.1", False),
        ("/data/mnist_corrupted/shear/1.0.0", False),
        ("gs://b/tfds/cifar10/3.0.2", True),
    ):
        assert Data(name=name, batch_size=1, image_size=(8, 8)).flips() is flips


def test_mistakes_with_buckets(bucket, tmp_path, monkeypatch):
    stage = str(tmp_path / "stage")
    bucket.pipe_file("data/loose/cat/1.png", _png(1))
    for name, message in (
        ("ftp://data/x", "read from gs:// and s3://, not from ftp://; mount it"),
        ("gs://none/x", "no bucket or folder gs://none/x"),
        ("gs://data/none", "no objects below gs://data/none"),
        ("gs://data/loose", "neither tar shards nor .* but cat/1.png; pack images"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make_source(name, "train", stage=stage)
    with pytest.raises(ValueError, match="give --config.data.stage=FOLDER on a disk"):
        make_source("gs://data/loose", "train")
    with pytest.raises(
        FileNotFoundError, match="no objects below gs://data/tfds2/pets"
    ):
        make_source("pets", "train", data_dir="gs://data/tfds2", stage=stage)
    assert not os.path.exists(stage)

    def refuse(*_, **__):
        raise gcsfs.retry.HttpError({"code": 401, "message": "Anonymous caller"})

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "find", refuse)
        with pytest.raises(OSError, match="cannot be listed .Anonymous.*credentials"):
            make_source("gs://data/loose", "train", stage=stage)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    known = sys.modules["fsspec.registry"]._registry
    for name in ("gs", "gcs"):
        monkeypatch.delitem(known, name, raising=False)
    with pytest.raises(ImportError, match=r'pip install "vit_jax\[gcs\]"'):
        make_source("gs://data/loose", "train", stage=stage)


def test_copies_that_fail_leave_nothing_and_go_on(bucket, tmp_path, monkeypatch):
    _write_shards(tmp_path / "made")
    _upload(bucket, tmp_path / "made", "broken")
    stage = tmp_path / "stage"
    open_train = functools.partial(
        make_source, "gs://data/broken", "train", stage=str(stage)
    )
    real = bucket.get_file

    def damaging(message, spoil):
        def get_file(remote, local, **options):
            real(remote, local, **options)
            if "0002" in remote:
                spoil(local)

        with monkeypatch.context() as patch:
            patch.setattr(bucket, "get_file", get_file)
            with pytest.raises(OSError, match=message) as caught:
                open_train()
        assert re.search(r"\d of \d files have been copied", str(caught.value))
        assert not list(stage.rglob("*0002*"))

    def flip_bit(path):
        with open(path, "r+b") as file:
            file.seek(600)
            file.write(b"x")

    def fill_disk(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    damaging("0002.tar came damaged: its checksum is not", flip_bit)
    damaging("has 10240 bytes, and 100 came", lambda path: os.truncate(path, 100))
    damaging("no space left for .*0002.tar", fill_disk)
    disk = shutil._ntuple_diskusage(10, 5, 5)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: disk)
        with pytest.raises(OSError, match="need 0.00 GiB, and .* free; make room"):
            open_train()
    # A killed copy leaves this.
    (stage / "data/broken/pets-train-0002.tar.12.part").write_bytes(b"half")
    assert _reds(open_train()) == list(range(12))
    assert not list(stage.rglob("*.part"))


def test_a_composite_object_is_checked_by_its_crc(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"123456789")
    # The check value of CRC-32C in its catalogue: e3069283.
    crc = base64.b64encode(bytes.fromhex("e3069283")).decode()
    staging._check(str(path), {"size": 9, "crc32c": crc}, "x")
    path.write_bytes(b"123456780")
    with pytest.raises(OSError, match="x came damaged"):
        staging._check(str(path), {"size": 9, "crc32c": crc}, "x")


def test_processes_of_a_host_share_one_copy(bucket, tmp_path):
    _write_shards(tmp_path / "made", shards=6)
    _upload(bucket, tmp_path / "made", "shared")
    code = (
        "import sys; from vit_jax.data.sources import (make_source);"
        "print(len(make_source('gs://data/shared', 'train', stage=sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "stage")]
    with staging.folder_lock(str(tmp_path)):
        pass
    folder = tmp_path / "stage/data/shared"
    folder.mkdir(parents=True)
    with staging.folder_lock(str(folder)):
        # Both wait, so that they set off together.
        both = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in both:
            assert "waiting for another process" in process.stdout.readline()
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(output.endswith("24\n") for output in outputs)
    assert sum("copying 7 files" in output for output in outputs) == 1
