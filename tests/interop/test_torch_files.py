"""What PyTorch trainings leave: read without torch, averages first, prefixes off."""

import argparse
import importlib.util
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_archive import Call, Storage, write_archive

from vit_jax.interop.files import FileError, read_tensors

ARRAYS = {
    "head.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "head.bias": np.array([1.5, -2.0], np.float32),
}
AVERAGE = {name: x + 1 for name, x in ARRAYS.items()}


class Options(dict):
    """A dict of a training script, as OmegaConf's and EasyDict's are."""


class Boom:
    """Would leave a mark if it were unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


def below(prefix, tensors=ARRAYS):
    return {prefix + name: x for name, x in tensors.items()}


def read(path, content, part="", **options):
    write_archive(path, content, **options)
    return read_tensors(f"{path}:{part}" if part else path)[0]


@pytest.mark.parametrize(
    "content",
    [
        ARRAYS,
        {"model": ARRAYS, "args": argparse.Namespace(lr=1)},
        {"state_dict": {"model": ARRAYS}, "epoch": 3, "optimizer": {"state": {}}},
        {"state_dict": below("module."), "arch": "x", "best": np.float64(81.2)},
        {"state_dict": below("model._orig_mod."), "hyper_parameters": Options(a=1)},
        {"student": AVERAGE, "teacher": below("backbone.")},
        {"model": ARRAYS, "args": Boom()},
        {"module": below("net.") | {"n_averaged": np.array(3)}},
        {"model": ARRAYS, "model_ema": None},
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "last.ckpt", "model_best.pth.tar"])
def test_state_dicts_of_trainings(tmp_path, name, content):
    equal(read(tmp_path / name, content), ARRAYS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_and_parameters(tmp_path, protocol):
    content = {"state_dict": ARRAYS, "args": Options(lr=[1, 2]), "set": {1}}
    for parameters in (False, True):
        options = {"protocol": protocol, "parameters": parameters}
        equal(read(tmp_path / "x.pth", content, **options), ARRAYS)


def test_views_of_one_storage(tmp_path):
    base = np.arange(24, dtype=np.float32)
    views = {"a": base[4:20].reshape(4, 4).T, "b": base[::2], "c": base[3:4]}
    equal(read(tmp_path / "x.pth", views), views)


def test_numbers_of_other_types(tmp_path):
    content = {"half": np.array([0.5, 2], np.float16), "step": np.array([7])}
    wanted = {"half": np.array([0.5, 2], np.float32), "step": np.array([7])}
    equal(read(tmp_path / "x.pth", content), wanted)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": ARRAYS, "state_dict_ema": AVERAGE},
        {"model": ARRAYS, "model_ema": below("module.", AVERAGE)},
        {"model": ARRAYS, "model_ema": AVERAGE | {"n_averaged": np.array(2)}},
        {"state_dict": below("model.") | below("model_ema.module.", AVERAGE)},
    ],
)
def test_averages_come_first_and_it_is_said(tmp_path, content, caplog):
    path = tmp_path / "x.pth"
    equal(read(path, content), AVERAGE)
    (record,) = (r for r in caplog.records if "averaged weights are" in r.message)
    assert record.levelname == "WARNING"
    # What it says leads to the others.
    _, _, other = record.message.partition("are taken; ")
    equal(read_tensors(other.removesuffix(" has the others"))[0], ARRAYS)


def test_only_an_average(tmp_path, caplog):
    caplog.set_level("INFO", "vit_jax")
    equal(read(tmp_path / "x.pth", {"model_ema": AVERAGE}), AVERAGE)
    assert "there are no others" in caplog.text


@pytest.mark.parametrize("part", ["model", "net.encoder"])
def test_a_part_is_named_behind_the_file(tmp_path, part):
    content = {"state_dict": below(f"{part}.") | below("teacher.", AVERAGE)}
    equal(read(tmp_path / "x.ckpt", content, part), ARRAYS)
    with pytest.raises(FileError, match="no tensors below 'other': wanted one of "):
        read_tensors(f"{tmp_path}/x.ckpt:other")


def test_several_models_are_refused(tmp_path):
    content = {"state_dict": below("model.") | below("net.", AVERAGE)}
    with pytest.raises(FileError, match="several models, below model and net, which"):
        read(tmp_path / "x.ckpt", content)


def test_a_head_beside_the_backbone(tmp_path):
    content = {"backbone.norm.weight": ARRAYS["head.bias"], **ARRAYS}
    wanted = {"norm.weight": ARRAYS["head.bias"], **ARRAYS}
    equal(read(tmp_path / "x.ckpt", content), wanted)


def test_what_a_training_has_beside_its_model_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO", "vit_jax")
    ones = np.ones(2, np.float32)
    beside = {"criterion.weight": ones, "val_acc.total": ones}
    state = below("model.") | below("ema_model.module.", AVERAGE)
    equal(read(tmp_path / "x.ckpt", {"state_dict": below("model.") | beside}), ARRAYS)
    assert "criterion.weight, val_acc.total left out" in caplog.text
    equal(read(tmp_path / "y.ckpt", {"state_dict": state | beside}), AVERAGE)
    # Alone, or by another name, it may be the model.
    equal(read(tmp_path / "z.pth", ARRAYS | beside), ARRAYS | beside)


def test_nothing_is_executed(tmp_path):
    with pytest.raises(FileError, match="holds no state dict: wanted tensors by name"):
        read(tmp_path / "x.pth", {"model": Boom()})
    with pytest.raises(FileError, match="holds no state dict"):
        read(tmp_path / "x.pth", [1, 2])


@pytest.mark.parametrize(
    "facts",
    [
        (2, (2, 3), (3, 1)),
        (0, (2, 3), (30, 1)),
        (-1, (2, 3), (3, 1)),
        (0, (2, 3), (-3, 1)),
        (0, (2, 3), (1,)),
    ],
)
def test_tensors_stay_inside_their_storage(tmp_path, facts):
    storage = Storage(ARRAYS["head.weight"], "0")
    tensor = Call("torch._utils", "_rebuild_tensor_v2", storage, *facts)
    content = {"other": ARRAYS["head.weight"], "head.weight": tensor}
    with pytest.raises(FileError, match="is damaged or cut short"):
        read(tmp_path / "x.pth", content)


def test_damaged_files(tmp_path):
    path = tmp_path / "x.pth"
    write_archive(path, ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="is damaged or cut short"):
        read_tensors(path)
    np.savez(tmp_path / "x.npz", **ARRAYS)
    (tmp_path / "x.npz").rename(path)
    with pytest.raises(FileError, match="zip archive without data.pkl"):
        read_tensors(path)


@pytest.mark.parametrize("bit", [0, 77, 191])
def test_a_flipped_bit_of_a_number_is_noticed(tmp_path, bit):
    path = tmp_path / "x.pth"
    write_archive(path, ARRAYS)
    content = bytearray(path.read_bytes())
    place = content.index(ARRAYS["head.weight"].tobytes())
    content[place + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(FileError, match="is damaged or cut short.*checksum"):
        read_tensors(path)


def test_the_old_format_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"x": Boom()}, 2))
    with pytest.raises(FileError, match=r"before 1\.6.*not installed: pip install"):
        read_tensors(tmp_path / "x.pth")


def test_files_that_torch_itself_writes(tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(x) for name, x in ARRAYS.items()}
    half = {name: x.to(torch.bfloat16) for name, x in state.items()}
    parameters = {name: torch.nn.Parameter(x) for name, x in state.items()}
    for content in (state, half, parameters, {"model": state, "args": Options(a=1)}):
        for new in (True, False):
            if "model" in content and not new:
                continue  # torch's loader refuses objects in the old format
            torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
            equal(read_tensors(tmp_path / "x.pth")[0], ARRAYS)
    torch.save(
        {"model": Boom()}, tmp_path / "x.pth", _use_new_zipfile_serialization=False
    )
    with pytest.raises(FileError, match="can run any code and are never loaded"):
        read_tensors(tmp_path / "x.pth")


def test_a_place_in_the_memory_of_a_pickle_takes_none(tmp_path):
    write_archive(tmp_path / "x.pth", ARRAYS)
    with zipfile.ZipFile(tmp_path / "x.pth") as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    text = content["archive/data.pkl"]
    far = b"r" + (1 << 24).to_bytes(4, "little")  # "keep this in place 2^24"
    assert text[2:5] == b"}q\0"
    content["archive/data.pkl"] = text[:3] + far + text[3:]
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    tracemalloc.start()
    try:
        equal(read_tensors(tmp_path / "x.pth")[0], ARRAYS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
