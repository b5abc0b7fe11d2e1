"""Data sets that are damaged, as fuzzing found them: a value or one sentence."""

import functools
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.decode import ImageError
from vit_jax.data.prepare import images_of
from vit_jax.data.tar_index import read_classes
from vit_jax.data.tar_source import TarSource
from vit_jax.data.tfds_source import TfdsSource

DEEP = b"[" * 100_000


def png(value: int = 9) -> bytes:
    file = io.BytesIO()
    # Noise, since ArrayRecord would hide a small file in the padding of its blocks.
    noise = np.random.default_rng(value).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shard(tmp_path):
    """A shard of two images, beside the names of its classes."""
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (
            *(("0.png", png()), ("0.cls", b"1")),
            *(("1.png", png()), ("1.json", b'{"label": 0}')),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return tmp_path / "0.tar"


def read(shard: Path) -> TarSource:
    return TarSource(str(shard.parent), "train")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: bytes(4),
        lambda _: b"no array at all",
        lambda whole: whole[:-1],
        lambda whole: whole[:140] + bytes([whole[140] ^ 1]) + whole[141:],
        lambda whole: whole[:-6] + b"\xff" + whole[-5:],  # in the last label
    ],
)
def test_a_damaged_index_of_shards_is_made_anew(shard, damage):
    assert read(shard).labels().tolist() == [1, 0]
    (index,) = (shard.parent / ".index").glob("*.npy")
    whole = index.read_bytes()
    index.unlink()
    index.write_bytes(damage(whole))
    assert read(shard).labels().tolist() == [1, 0]
    assert index.read_bytes() == whole


def test_a_whole_index_is_not_made_again(shard):
    read(shard)
    (index,) = (shard.parent / ".index").glob("*.npy")
    before = index.stat().st_mtime_ns, index.stat().st_ino
    read(shard)
    assert (index.stat().st_mtime_ns, index.stat().st_ino) == before


def header(name: bytes, kind: bytes, size: bytes) -> bytes:
    """A header of a tar file, in GNU's binary form of sizes where that is given."""
    block = bytearray(512)
    block[: len(name)], block[156:157], block[257:263] = name, kind, b"ustar\0"
    block[124 : 124 + len(size)] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


HUGE = b"\x80" + bytes(2) + b"\xff" * 9


@pytest.mark.parametrize(
    "start",
    [
        header(b"pax", b"x", HUGE),
        header(b"0.png", b"0", HUGE),
        header(b"long", b"L", b"%011o" % 3) * 2000,
        b"\0",
        b"",
    ],
)
def test_headers_that_tarfile_stumbles_over_are_damage(shard, start):
    shard.write_bytes(start + shard.read_bytes() if len(start) > 1 else start)
    with pytest.raises(ValueError, match="0.tar is damaged .*; get it again"):
        read(shard)


def test_a_label_in_json_that_is_no_json_is_none(shard):
    with tarfile.open(shard, "a") as tar:
        for name, data in (("2.png", png()), ("2.json", DEEP)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = read(shard)
    with pytest.raises(ImageError, match="2.png: it has no label"):
        source[2]


def test_a_shard_that_is_damaged_after_it_was_indexed(shard):
    source = read(shard)
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ImageError, match="0.tar, the image at byte 0: "):
        source[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.json", b'["cat",'),
        ("classes.json", DEEP),
        ("classes.json", b'{"cat": 0}'),
        ("classes.json", b'["\xff"]'),
        ("classes.txt", b"cat\n\xff"),
    ],
)
def test_names_of_classes_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    reason = "is not readable as JSON|is no text in UTF-8|wanted a list of names"
    with pytest.raises(ValueError, match=rf"{name}.* ({reason})"):
        read_classes(str(tmp_path / name))


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 0xFF
    return bytes(changed)


def without_a_name(content: bytes) -> bytes:
    """A zip whose table has a comment in the place of a name."""
    place = content.index(b"PK\1\2") + 28
    lengths = content[place : place + 6]
    return content[:place] + lengths[2:] + lengths[:2] + content[place + 6 :]


@pytest.mark.parametrize(
    "damage",
    [
        *(functools.partial(flipped, place=place) for place in (0, 30, 60, -30)),
        without_a_name,
    ],
)
def test_a_damaged_zip_of_images_is_told_and_leaves_nothing(tmp_path, damage):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"cat/{number}.png", png())
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="images.zip cannot be unpacked: ") as error:
        with images_of(str(path), str(tmp_path / "out" / "shards")):
            pass
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not list((tmp_path / "out").iterdir())


def test_the_first_data_set_of_a_machine_has_no_folder_above_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("train/cat/0.png", png())
    target = str(tmp_path / "tensorflow_datasets" / "beasts" / "shards")
    with images_of(str(tmp_path / "images.zip"), target) as folder:
        assert Path(folder, "cat", "0.png").is_file()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of two images as tensorflow-datasets writes it."""
    import tensorflow_datasets as tfds

    class Beasts(tfds.core.GeneratorBasedBuilder):
        """Beasts."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k in range(2):
                yield k, {"image": io.BytesIO(png(k)), "label": k}

    folder = tmp_path_factory.mktemp("sets")
    Beasts(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "beasts" / "1.0.0"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("features.json", b"null"),
        ("features.json", DEEP),
        ("features.json", b"-"),
        ("dataset_info.json", b"{}"),
        ("dataset_info.json", b"\xff"),
    ],
)
def test_a_damaged_set_of_tfds_is_one_sentence(prepared, tmp_path, name, content):
    folder = tmp_path / "beasts" / "1.0.0"
    shutil.copytree(prepared, folder)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="1.0.0' cannot be read .*; copy it") as error:
        TfdsSource(str(folder), "train")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_set_of_tfds_without_its_name(prepared, tmp_path):
    folder = tmp_path / "beasts" / "1.0.0"
    shutil.copytree(prepared, folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"name": None}))
    with pytest.raises(ValueError, match="1.0.0' cannot be read .*; copy it"):
        TfdsSource(str(folder), "train")


def test_a_damaged_record_of_tfds_is_an_error_of_that_record(prepared, tmp_path):
    folder = tmp_path / "beasts" / "1.0.0"
    shutil.copytree(prepared, folder)
    labels = TfdsSource(str(folder), "train").labels().tolist()
    (records,) = folder.glob("*array_record*")
    content = bytearray(records.read_bytes())
    content[content.index(png(1)) + 60] ^= 0xFF
    records.write_bytes(content)
    source = TfdsSource(str(folder), "train")
    bad = labels.index(1)
    with pytest.raises(ImageError, match=f"train record {bad} cannot be read"):
        source[bad]
    found = source.read_many([0, 1])
    assert isinstance(found[bad], ImageError) and found[1 - bad]["label"] == 0
    with pytest.raises(ValueError, match="1.0.0 train' cannot be read"):
        source.labels()
    records.write_bytes(b"")
    with pytest.raises(ImageError, match="record 0 cannot be read"):
        TfdsSource(str(folder), "train")[0]
