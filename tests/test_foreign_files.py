"""Files that others made: archives that are bombs, and what is no regular file."""

import os
import zipfile

import numpy as np
import pytest

from vit_jax.data.prepare import images_of
from vit_jax.interop.files import FileError, read_file
from vit_jax.storage import archives, foreign


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(archives, "MAX_SMALL_ARCHIVE", 1 << 20)


@pytest.mark.usefixtures("small_limits")
def test_a_bomb_of_weights_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**20, np.float32))
    with pytest.raises(ValueError, match="bomb.npz unpacks from 0.0 MiB to 4 MiB,"):
        read_file(tmp_path / "bomb.npz")
    np.savez(tmp_path / "plain.npz", a=np.zeros(2**20, np.float32))
    read_file(tmp_path / "plain.npz")


@pytest.mark.usefixtures("small_limits")
def test_a_bomb_of_images_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.bmp", bytes(4 << 20))
    with pytest.raises(ValueError, match="bomb.zip unpacks from .*raise MAX_RATIO"):
        with images_of(str(path), str(tmp_path / "shards")):
            pass
    assert os.listdir(tmp_path) == ["bomb.zip"]


def test_members_that_claim_the_same_bytes_are_a_bomb(tmp_path, monkeypatch):
    """A small archive may shrink as it likes; a thousand times the same member not."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", np.random.default_rng(0).bytes(1000) + bytes(49_000))
    with zipfile.ZipFile(path) as archive:
        assert archives.check_archive(archive, path) == 50_000
        monkeypatch.setattr(archives, "MAX_RATIO", 1)
        assert archives.check_archive(archive, path) == 50_000
        monkeypatch.undo()
        archive.filelist *= 10_000
        with pytest.raises(ValueError, match="x.zip unpacks from 0.0 MiB to 477 MiB"):
            archives.check_archive(archive, path)


def test_a_member_that_is_no_array_is_told(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernel.npy", b"\x92NUMPY" + bytes(200))
    with pytest.raises(FileError, match="w.npz is damaged or cut short .kernel is no"):
        read_file(path)


def test_the_reason_why_an_archive_is_damaged_is_short_and_printable(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **{"a" * 999 + "\x1b[31m": np.zeros(3)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x1b", b"\x0a", 1))
    with pytest.raises(FileError, match="w.npz is damaged") as error:
        read_file(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pth"])
def test_weights_in_a_fifo_are_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="is a FIFO and no regular file"):
        read_file(tmp_path / name)


def test_a_regular_file_is_read_whole_and_closed(tmp_path, monkeypatch):
    path, read = tmp_path / "x", os.read
    path.write_bytes(b"0123456789")
    # A kernel gives at most 2 GiB at a time.
    monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, 3)))
    before = os.listdir("/proc/self/fd")
    assert foreign.read_regular(path, 10) == b"0123456789"
    with pytest.raises(OSError, match="x has 10 bytes, more than 9"):
        foreign.read_regular(path, 9)
    with pytest.raises(foreign.Refused, match="is a folder and no regular file"):
        foreign.check_regular(tmp_path)
    assert os.listdir("/proc/self/fd") == before
