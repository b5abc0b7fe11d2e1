"""Rules of the shardings; that they change no number is in test_parallel.py."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from vit_jax import sharding
from vit_jax.models import create_model, init_params


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


def test_one_process_holds_all_rows():
    placement = sharding.batch_sharding(sharding.make_mesh(data=1, fsdp=1, tensor=1))
    np.testing.assert_array_equal(sharding.local_rows(placement, 6), np.arange(6))


def test_the_batch_is_divided_over_data_and_fsdp():
    assert PartitionSpec(("data", "fsdp")) == sharding.BATCH
