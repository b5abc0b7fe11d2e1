"""Fingerprints of arrays: the same on any device, others for other arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vit_jax.checkpoints import fingerprint
from vit_jax.checkpoints.fingerprint import examine, host_fingerprint


def on_device(array) -> int:
    return examine({"a": jnp.asarray(array)})[1]["a"]


def test_worked_out_by_hand():
    """Bits of 1.0 are 0x3f800000; they are weighted by 1, 3, 5."""
    assert host_fingerprint(np.array([7, 2, 10], np.int32)) == 7 + 3 * 2 + 5 * 10
    one = 0x3F800000
    assert host_fingerprint(np.ones(3, np.float32)) == 9 * one % 2**32


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"]
)
@pytest.mark.parametrize("shape", [(), (1,), (5, 7, 3), (0, 4)])
def test_host_and_device_agree(dtype, shape):
    values = np.random.default_rng(0).normal(size=shape) * 100
    array = np.asarray(jnp.asarray(values).astype(dtype))
    assert host_fingerprint(array) == on_device(array)


def test_chunks_make_no_difference(monkeypatch):
    array = np.arange(1000, dtype=np.float32)
    whole = host_fingerprint(array)
    monkeypatch.setattr(fingerprint, "CHUNK", 64)
    assert host_fingerprint(array) == whole


def test_any_bit_and_any_order_matters():
    array = np.random.default_rng(0).normal(size=64).astype(np.float32)
    seen = {host_fingerprint(array), host_fingerprint(array[::-1])}
    for bit in range(32):
        changed = array.copy()
        changed.view(np.uint32)[13] ^= np.uint32(1 << bit)
        seen.add(host_fingerprint(changed))
    zeroed = array.copy()
    zeroed[40:] = 0
    assert len(seen | {host_fingerprint(zeroed)}) == 2 + 32 + 1


def test_names_are_those_of_orbax_and_sharding_does_not_matter():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    array = jnp.arange(8.0)
    placed = jax.device_put(array, jax.sharding.NamedSharding(mesh, P("d")))
    finite, fingerprints = examine({"params": {"k": placed}, "list": [array]})
    assert finite and fingerprints == dict.fromkeys(
        ("params.k", "list.0"), host_fingerprint(np.asarray(array))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite(value):
    assert not examine({"a": jnp.array([0.0, value]), "b": jnp.int32(1)})[0]
    assert examine({"a": jnp.array([0.0, 1.0]), "b": jnp.int32(1)})[0]
