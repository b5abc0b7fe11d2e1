"""Checkpoints: what is kept, what is damaged, what is refused."""

import contextlib
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import saving
from vit_jax.checkpoint import CheckpointError, Checkpoints
from vit_jax.integrity import MANIFEST

NOISE = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def state(value: int):
    return {
        "params": {"kernel": jnp.array(value * NOISE), "half": jnp.bfloat16(value)},
        "step": jnp.int32(value),
        "ema": None,
    }


def abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


@contextlib.contextmanager
def opened(folder, **options):
    with contextlib.closing(Checkpoints(folder, **options)) as checkpoints:
        yield checkpoints


def restore(folder, tree=None, *, partial=False, **options):
    with opened(folder, **options) as checkpoints:
        return checkpoints.restore(tree or abstract(state(0)), partial=partial)


@pytest.fixture
def filled(tmp_path):
    """A folder with the steps 1 to 3."""
    with opened(tmp_path / "checkpoints", keep_last=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"next_index": 10 * step})
    return tmp_path / "checkpoints"


def largest_file(folder):
    return max(folder.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def flip_a_bit(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def delete_a_file(folder):
    largest_file(folder).unlink()


def garble_the_manifest(folder):
    (folder / MANIFEST).write_text("{")


def delete_manifest_and_truncate(folder):
    (folder / MANIFEST).unlink()
    truncate(folder)


def test_restores_the_newest_exactly(filled):
    restored = restore(filled)
    assert restored.step == 3 and restored.metadata == {"next_index": 30}
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(3))
    assert restored.state["params"]["half"].dtype == jnp.bfloat16


def test_an_empty_folder_restores_nothing(tmp_path):
    assert restore(tmp_path / "none") is None


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        truncate,
        delete_a_file,
        garble_the_manifest,
        delete_manifest_and_truncate,
    ],
)
def test_falls_back_from_a_damaged_step(filled, damage, caplog):
    damage(filled / "3")
    restored = restore(filled, keep_last=3)
    assert restored.step == 2
    np.testing.assert_array_equal(restored.state["params"]["kernel"], 2 * NOISE)
    assert "CHECKPOINT DAMAGED" in caplog.text and "step 3" in caplog.text
    # It is put aside, not deleted, and its step can be saved again.
    assert (filled.parent / "damaged" / "3").is_dir()
    with opened(filled, keep_last=3) as checkpoints:
        checkpoints.save(3, state(3), {})
    assert restore(filled).step == 3


def test_a_reader_leaves_the_folder_alone(filled):
    flip_a_bit(filled / "3")
    (filled / "4.orbax-checkpoint-tmp").mkdir()  # a save that a trainer has under way
    assert restore(filled, read_only=True).step == 2
    assert (filled / "3").is_dir()
    assert (filled / "4.orbax-checkpoint-tmp").is_dir()


def test_all_damaged_is_an_error_and_nothing_is_deleted(filled):
    for step in (1, 2, 3):
        flip_a_bit(filled / str(step))
    with pytest.raises(CheckpointError, match="step 3: .*step 2: .*step 1: "):
        restore(filled)
    assert (filled / "1").is_dir() and (filled.parent / "damaged" / "3").is_dir()


def test_killed_before_the_manifest(filled):
    (filled / "3" / MANIFEST).unlink()
    assert restore(filled).step == 3


def test_another_shape_is_an_error_not_damage(filled):
    other = state(0) | {
        "params": {"kernel": jnp.zeros((3, 3)), "half": jnp.bfloat16(0)}
    }
    with pytest.raises(CheckpointError, match=r"does not fit .*\(3, 3\)"):
        restore(filled, abstract(other))
    assert (filled / "3").is_dir()


def test_partial_restore(filled):
    wanted = {"params": {"kernel": abstract(state(0))["params"]["kernel"]}}
    restored = restore(filled, wanted, partial=True, read_only=True)
    np.testing.assert_array_equal(restored.state["params"]["kernel"], 3 * NOISE)


def test_which_steps_are_kept(tmp_path):
    options = dict(keep_last=1, keep_best=1, keep_every=4)
    accuracy = {2: 0.5, 3: 0.9, 5: 0.7}
    for steps in ((1, 2, 3, 4), (5, 6)):  # also over a restart
        with opened(tmp_path, **options) as checkpoints:
            for step in steps:
                metrics = {"accuracy": accuracy[step]} if step in accuracy else None
                checkpoints.save(step, state(step), {}, metrics)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps == [3, 4, 6]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_non_finite_is_saved(filled, value):
    bad = {"kernel": jnp.array([1.0, value]), "step": jnp.int32(4)}
    with opened(filled) as checkpoints:
        with pytest.raises(CheckpointError, match=r"NaN or Inf .*step 3"):
            checkpoints.save(4, bad, {})
        assert checkpoints.steps == [1, 2, 3]


def test_a_failed_write_is_reported_with_the_last_good_step(filled, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_manifest", full)
    with opened(filled, keep_last=9) as checkpoints:
        checkpoints.save(4, state(4), {})
        with pytest.raises(CheckpointError, match="No space left"):
            checkpoints.wait()


def test_saving_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(saving, "write_manifest", lambda _: release.wait())
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})  # would hang here if it waited
        release.set()


def test_keep_last_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match=r"keep_last is 0: wanted at least 1"):
        Checkpoints(tmp_path, keep_last=0)


def test_an_unknown_best_metric_is_named(tmp_path):
    with opened(tmp_path, keep_best=1, best_metric="acc") as checkpoints:
        with pytest.raises(ValueError, match="'acc': wanted one of loss, accuracy"):
            checkpoints.save(1, state(1), {}, {"loss": 0.1, "accuracy": 0.9})
