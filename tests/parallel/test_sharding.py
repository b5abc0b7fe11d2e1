"""Rules of the shardings; that they change no number is in test_parallel.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, PartitionSpec

from vit_jax.models import create_model, init_params
from vit_jax.parallel import sharding


def spec(path, shape, *, fsdp=1, tensor=1):
    mesh = AbstractMesh((1, fsdp, tensor), sharding.AXES)
    return tuple(sharding.param_spec(path, shape, mesh))


BLOCK = "encoder/block_03/"


def test_fsdp_takes_the_largest_dimension_that_it_divides():
    assert spec("embedding/kernel", (16, 16, 3, 768), fsdp=8)[-1] == "fsdp"
    assert spec(BLOCK + "mlp/out/kernel", (3072, 768), fsdp=8) == ("fsdp", None)
    assert spec("head/kernel", (768, 21843), fsdp=8) == ("fsdp", None)
    assert spec("positions/table", (1, 197, 768), fsdp=8) == (None, None, "fsdp")
    # Small, one-dimensional, or indivisible arrays stay whole.
    assert set(spec("class_token", (1, 1, 768), fsdp=8)) == {None}
    assert spec(BLOCK + "mlp/hidden/bias", (65536,), fsdp=8) == (None,)
    assert spec("head/kernel", (771, 1001), fsdp=8) == (None, None)


def test_stacked_blocks_are_not_divided_between_layers():
    assert spec("encoder/blocks/mlp/out/kernel", (4096, 64, 64), fsdp=8)[0] is None
    assert spec("encoder/blocks/mlp/hidden/bias", (48, 8192), fsdp=8) == (None, None)


def test_tensor_parallelism_divides_heads_and_hidden_units():
    query = BLOCK + "attention/query/"
    assert spec(query + "kernel", (768, 12, 64), tensor=4) == (None, "tensor", None)
    assert spec(query + "bias", (12, 64), tensor=4) == ("tensor", None)
    out = BLOCK + "attention/out/"
    assert spec(out + "kernel", (12, 64, 768), tensor=4) == ("tensor", None, None)
    assert spec(out + "bias", (768,), tensor=4) == (None,)
    both = spec(BLOCK + "mlp/hidden/kernel", (768, 3072), fsdp=2, tensor=4)
    assert both == ("fsdp", "tensor")
    stacked = "encoder/blocks/mlp/out/kernel"
    assert spec(stacked, (24, 3072, 768), tensor=4) == (None, "tensor", None)
    with pytest.raises(ValueError, match="mesh.tensor=5 must divide the heads .* 12"):
        spec(query + "kernel", (768, 12, 64), tensor=5)


def test_every_large_parameter_of_a_vit_is_divided():
    model = create_model("ViT-B/16", num_classes=1000)
    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    mesh = AbstractMesh((1, 8, 1), sharding.AXES)
    whole = 0
    for keys, leaf in jax.tree.leaves_with_path(params):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if "fsdp" not in sharding.param_spec(path, leaf.shape, mesh):
            whole += leaf.size
    assert whole < 0.002 * 86_567_656


def test_a_model_without_heads_has_no_tensor_parallelism():
    model = create_model("BiT-R50x1", num_classes=10)
    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    mesh = AbstractMesh((1, 1, 2), sharding.AXES)
    with pytest.raises(ValueError, match="mesh.tensor=2 .* use mesh.fsdp"):
        sharding.state_shardings(params, params, mesh)


def test_wrong_meshes():
    with pytest.raises(ValueError, match="product must be the number of devices, 1"):
        sharding.make_mesh(data=2, fsdp=1, tensor=1)
    with pytest.raises(ValueError, match="one of them may be -1"):
        sharding.make_mesh(data=-1, fsdp=-1, tensor=1)
    mesh = sharding.make_mesh(data=-1, fsdp=1, tensor=1)
    with pytest.raises(ValueError, match="data.batch_size=10 must be a multiple of 4"):
        sharding.check_batch("data.batch_size", 10, mesh, accumulate_steps=4)


def devices_of(slices, each, platform="gpu"):
    """Stand-ins for GPUs, a slice a node as XLA numbers them, or TPUs in a row."""
    return [
        SimpleNamespace(
            id=each * number + place,
            slice_index=number,
            process_index=number,
            platform=platform,
            device_kind="TPU v4" if platform == "tpu" else "NVIDIA H100 80GB HBM3",
            coords=(place % 2, place // 2 % 2, place // 4),
            core_on_chip=0,
        )
        for number in range(slices)
        for place in range(each)
    ]


def slices_of(mesh):
    return np.vectorize(lambda device: device.slice_index)(mesh.devices)


@pytest.fixture
def stand_ins(monkeypatch):
    """A mesh keeps any devices, as long as nothing is put on them."""
    kept = SimpleNamespace
    monkeypatch.setattr(
        sharding, "Mesh", lambda devices, *_, **__: kept(devices=devices)
    )


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_slices_follow_each_other_along_data(platform):
    devices = devices_of(2, 8, platform)
    mesh = sharding.make_mesh(data=4, fsdp=2, tensor=2, devices=devices)
    found = slices_of(mesh)
    assert found.shape == (4, 2, 2)
    assert (found == np.array([0, 0, 1, 1])[:, None, None]).all()
    # In whatever order the processes have them, and each device once.
    other = sharding.make_mesh(data=4, fsdp=2, tensor=2, devices=devices[::-1])
    np.testing.assert_array_equal(slices_of(other), found)
    assert len({device.id for device in mesh.devices.flat}) == 16
    # Within a slice, the order is that of a mesh of this slice alone.
    alone = mesh_utils.create_device_mesh((2, 2, 2), devices[:8])
    numbers = np.vectorize(lambda device: device.id)
    np.testing.assert_array_equal(numbers(mesh.devices[:2]), numbers(alone))


@pytest.mark.usefixtures("stand_ins")
def test_slices_that_data_cannot_take_follow_along_fsdp():
    mesh = sharding.make_mesh(data=1, fsdp=16, tensor=1, devices=devices_of(2, 8))
    np.testing.assert_array_equal(slices_of(mesh)[0, :, 0], np.repeat([0, 1], 8))
    # Of six slices, two along data and three along fsdp.
    mesh = sharding.make_mesh(data=2, fsdp=-1, tensor=2, devices=devices_of(6, 4))
    assert (slices_of(mesh) == np.arange(6).reshape(2, 3).repeat(2, 1)[..., None]).all()


def test_tensor_stays_within_a_slice():
    for sizes in ((1, 1, 16), (1, -1, 16)):
        data, fsdp, tensor = sizes
        with pytest.raises(ValueError, match="mesh.tensor=16 would cross the 2 slices"):
            sharding.make_mesh(
                data=data, fsdp=fsdp, tensor=tensor, devices=devices_of(2, 8)
            )
    with pytest.raises(ValueError, match="set mesh.tensor to a divisor of 3"):
        sharding.make_mesh(data=3, fsdp=1, tensor=2, devices=devices_of(2, 3))
    with pytest.raises(ValueError, match="2 slices or nodes have 8, 4 devices"):
        sharding.make_mesh(data=-1, fsdp=1, tensor=1, devices=devices_of(2, 8)[:12])


def test_one_process_holds_all_rows():
    placement = sharding.batch_sharding(sharding.make_mesh(data=1, fsdp=1, tensor=1))
    np.testing.assert_array_equal(sharding.local_rows(placement, 6), np.arange(6))


def test_the_batch_is_divided_over_data_and_fsdp():
    assert PartitionSpec(("data", "fsdp")) == sharding.BATCH


@pytest.mark.full
def test_no_device_ever_holds_more_than_its_share(tmp_path):
    """Starts from checkpoints, evaluation and `load`, on eight devices, fsdp=8.

    What is replicated is in the share: vectors. Beside it, batches and random keys.
    """
    worker = str(Path(__file__).parent / "memory_worker.py")
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, worker, tmp_path],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 16
    for name, (peak, share) in found.items():
        # Not less either: else it was not seen.
        assert 0.95 < peak / share < 1.1, f"{name}: {peak} of {share} bytes"
