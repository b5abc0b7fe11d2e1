"""What is found before a run is begun: sizes that no memory holds, and only those."""

import types

import jax
import jax.numpy as jnp
import pytest

from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.training import rehearsal
from vit_jax.training.setup import build


def device(platform="gpu", **stats):
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats or None)


def needed_by(config) -> int:
    """The least bytes with which a run is not refused, found by trying."""
    setup, low, high = build(config), 0, 1 << 40
    while low + 1 < high:
        middle = (low + high) // 2
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rehearsal, "memory_of", lambda _, x=middle: x)
                patch.setattr(rehearsal.jax, "eval_shape", lambda *_: None)
                patch.setattr(rehearsal, "lower_evaluation", lambda *_: None)
                rehearsal.rehearse(config, setup)
            high = middle
        except ConfigError:
            low = middle
    return high


def tiny(*overrides):
    words = ("model.depth=1", "model.width=16", "model.num_heads=2", "model.mlp_dim=16")
    return read_config("digits", [f"--config.{x}" for x in (*words, *overrides)])


def test_no_more_is_counted_than_is_there_at_the_same_time():
    config = tiny("data.batch_size=64", "eval.batch_size=8")
    setup = build(config)
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(setup.program.state))
    side, _ = config.data.image_size
    image = side * side * 3 + 4  # with its label
    assert needed_by(config) == state + 64 * image
    assert needed_by(tiny("eval.batch_size=640", "data.batch_size=64")) == (
        state + 640 * image
    )


def test_what_does_not_fit_is_told_with_its_sizes():
    mesh = types.SimpleNamespace(devices=types.SimpleNamespace(flat=[device()]))
    array = jax.ShapeDtypeStruct((3 << 30,), jnp.int8)
    rehearsal.check_memory(array, mesh)  # not known
    mesh.devices.flat = [device(bytes_limit=3 << 30)]
    rehearsal.check_memory(array, mesh)
    mesh.devices.flat = [device(bytes_limit=(3 << 30) - 1)]
    with pytest.raises(ConfigError, match=r"need 3\.0 GiB of each device, which has"):
        rehearsal.check_memory(array, mesh)


def test_a_device_holds_its_part_alone():
    mesh = jax.sharding.AbstractMesh((8,), ("fsdp",))
    placed = jax.sharding.NamedSharding(mesh, jax.P("fsdp"))
    array = jax.ShapeDtypeStruct((64, 3), jnp.float32, sharding=placed)
    assert rehearsal.bytes_on_a_device(array) == 64 * 3 * 4 // 8


def test_memory_of_cpus_is_that_of_the_machine_with_its_swap(monkeypatch):
    text = "MemTotal: 1000 kB\nMemFree: 1 kB\nSwapTotal: 24 kB\n"
    monkeypatch.setattr(rehearsal.Path, "read_text", lambda _: text)
    assert rehearsal.memory_of(device("cpu")) == 1 << 20

    def missing(_):
        raise FileNotFoundError

    monkeypatch.setattr(rehearsal.Path, "read_text", missing)
    assert rehearsal.memory_of(device("cpu")) == 0
