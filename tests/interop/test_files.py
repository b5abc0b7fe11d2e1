"""Files of tensors: reading, writing, and what is refused and why."""

import json
import mmap
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vit_jax.interop import files
from vit_jax.interop.files import FileError, read_tensors
from vit_jax.storage import output

ARRAYS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2.0], np.float32),
}


def equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        files.write_npz(path, ARRAYS)
    else:
        files.write_safetensors(path, ARRAYS, {"label": "ä"})
    tensors, config = read_tensors(path)
    equal(tensors, ARRAYS)
    assert config == ({} if suffix == ".npz" else {"label": "ä"})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_any_float_is_read_as_float32(tmp_path, dtype, suffix):
    values = np.array([1.0, -0.5, 3.140625], dtype)
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, x=values)
    else:
        safetensors.numpy.save_file({"x": values}, path)
    tensors, _ = read_tensors(path)
    equal(tensors, {"x": np.array([1.0, -0.5, 3.140625], np.float32)})


def test_safetensors_are_mapped_and_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    files.write_safetensors(path, ARRAYS, {})
    tensor = read_tensors(path)[0]["a/kernel"]
    owner = tensor
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap) and not tensor.flags.writeable


def test_numbers_of_unknown_types_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    values = np.zeros(4, ml_dtypes.float8_e4m3fn)
    safetensors.numpy.save_file({"x": values}, path)
    with pytest.raises(FileError, match="tensors of type 'F8_E4M3'"):
        read_tensors(path)


def test_integers_stay(tmp_path):
    np.savez(tmp_path / "x.npz", step=np.array(3, np.int32))
    assert read_tensors(tmp_path / "x.npz")[0]["step"].dtype == np.int32


@pytest.mark.parametrize("prefix", ["img/", "params/img/"])
def test_a_subtree_is_chosen_behind_the_file(tmp_path, prefix):
    both = {f"{prefix}{name}": x for name, x in ARRAYS.items()}
    np.savez(tmp_path / "x.npz", **both, **{prefix.replace("img", "txt") + "b": 1.0})
    equal(read_tensors(f"{tmp_path}/x.npz:img")[0], ARRAYS)
    with pytest.raises(FileError, match="no tensors below 'image': wanted .*img, txt"):
        read_tensors(f"{tmp_path}/x.npz:image")


def test_a_folder_with_its_configs(tmp_path):
    config = {"hidden_size": 8, "preprocessor_config": {"image_mean": [0.5, 0.5, 0.5]}}
    files.write_folder(tmp_path / "new", ARRAYS, config)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    written = json.loads((tmp_path / "new/config.json").read_text())
    assert written == {"hidden_size": 8}
    for path in (tmp_path / "new", tmp_path / "new/model.safetensors"):
        tensors, metadata = read_tensors(path)
        equal(tensors, ARRAYS)
        assert metadata == config


def test_shards_are_put_together(tmp_path):
    shards = {"a/kernel": "one.safetensors", "b": "two.safetensors"}
    for name, shard in shards.items():
        safetensors.numpy.save_file({name: ARRAYS[name]}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    for path in (tmp_path, index):
        equal(read_tensors(path)[0], ARRAYS)
    out = f"../{tmp_path.name}/two.safetensors"
    index.write_text(json.dumps({"weight_map": {"b": out}}))
    with pytest.raises(FileError, match=f"names '{out}', which is not a plain file"):
        read_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"b": "three.safetensors"}}))
    with pytest.raises(FileError, match="three.safetensors', which is not in"):
        read_tensors(tmp_path)


class Boom:
    """Would leave a mark if it were unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def test_pickles_are_never_loaded(tmp_path):
    objects = np.array([Boom()], dtype=object)
    np.savez(tmp_path / "archive.npz", x=objects)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps({"x": Boom()}))
    for name in ("archive.npz", "bare.npz"):
        with pytest.raises(FileError, match="pickled Python objects, which can run"):
            read_tensors(tmp_path / name)


def damaged(tmp_path):
    """(file, start of the reason) of files that are no checkpoints."""
    np.savez(tmp_path / "good.npz", x=np.random.default_rng(0).normal(size=2000))
    safetensors.numpy.save_file(ARRAYS, tmp_path / "good.safetensors")
    archive = (tmp_path / "good.npz").read_bytes()
    flipped = bytearray(archive)
    flipped[3000] ^= 255
    tensors = (tmp_path / "good.safetensors").read_bytes()
    for name, content, reason in (
        ("cut.npz", archive[:9000], "is damaged or cut short"),
        ("flipped.npz", bytes(flipped), "is damaged or cut short"),
        ("cut.safetensors", tensors[:-3], "is damaged or cut short"),
        ("header.safetensors", tensors[:40], "is damaged or cut short"),
        ("other.npz", b"not an archive", "is damaged or cut short"),
        ("empty.npz", b"", "is empty"),
        ("page.npz", b"\n<!DOCTYPE html><html>", "is a web page"),
        (
            "pointer.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer",
        ),
        ("weights.h5", b"\x89HDF", "is no checkpoint: wanted .npz, .safetensors"),
    ):
        (tmp_path / name).write_bytes(content)
        yield tmp_path / name, reason


def test_each_broken_file_is_one_sentence(tmp_path):
    for path, reason in damaged(tmp_path):
        with pytest.raises(FileError) as caught:
            read_tensors(path)
        assert str(caught.value).startswith(f"{path} {reason}"), path
        assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileError, match="there is no file or folder .*absent.npz"):
        read_tensors(tmp_path / "absent.npz")
    with pytest.raises(FileError, match="no checkpoint: wanted model.safetensors"):
        read_tensors(tmp_path)
    np.savez(tmp_path / "none.npz")
    with pytest.raises(FileError, match="holds no tensors"):
        read_tensors(tmp_path / "none.npz")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileError, match="config.json is not readable as JSON"):
        files.read_configs(tmp_path)


@pytest.mark.parametrize("write", [files.write_npz, files.write_safetensors])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, write):
    path = tmp_path / "x"
    path.write_text("old")
    extra = () if write is files.write_npz else ({},)
    with pytest.raises(Exception):  # noqa: B017 - whatever the library raises
        write(path, {"a": ARRAYS["b"], "b": Boom()}, *extra)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    """The rename is the last thing: without it all is as it was."""

    def killed(*_):
        raise KeyboardInterrupt

    (tmp_path / "x.npz").write_text("old")
    monkeypatch.setattr(output.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_npz(tmp_path / "x.npz", ARRAYS)
    assert (tmp_path / "x.npz").read_text() == "old"
