"""Checkpoints: saving, retention, damage, refusals."""

import contextlib
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.checkpoints import integrity, saving
from vit_jax.checkpoints.integrity import MANIFEST
from vit_jax.checkpoints.store import CheckpointError, Checkpoints
from vit_jax.storage import disk

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


def half_copy(folder):
    """In the middle of a copy the manifest, last by name, is not there."""
    (folder / MANIFEST).unlink()
    for path in (folder / "state").rglob("*"):
        if path.is_file() and path.name != "_METADATA":
            path.unlink()


def zero_the_tail_without_manifest(folder):
    (folder / MANIFEST).unlink()
    path = largest_file(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def lose_manifest_and_metadata(folder):
    (folder / MANIFEST).unlink()
    os.truncate(folder / integrity.METADATA, 20)


def garble_orbax_metadata_without_manifest(folder):
    (folder / MANIFEST).unlink()
    os.truncate(folder / "state" / "_METADATA", 20)


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
        half_copy,
        zero_the_tail_without_manifest,
        lose_manifest_and_metadata,
        garble_orbax_metadata_without_manifest,
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


def test_folders_that_are_no_steps_are_left_alone(filled):
    names = ("007", "9.0", " 9", "\u0669", "\u00b2", "-9", "nine")
    for name in names:
        (filled / name).mkdir()
    assert integrity.steps(filled) == [1, 2, 3]
    with opened(filled) as checkpoints:
        assert checkpoints.restore(abstract(state(0))).step == 3
    assert all((filled / name).is_dir() for name in names)


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


def test_zeros_that_decode_are_noticed_without_a_manifest(filled, monkeypatch):
    """Wrong values are not restored, whether TensorStore can decode them or not."""
    (filled / "3" / MANIFEST).unlink()
    read = integrity.read_array
    monkeypatch.setattr(
        integrity,
        "read_array",
        lambda folder, name: read(folder, name) * (folder.name != "3"),
    )
    assert restore(filled).step == 2


def test_the_tree_may_depend_on_the_metadata(filled):
    seen = []

    def tree(metadata):
        seen.append(metadata)
        return abstract(state(0))

    assert restore(filled, tree).step == 3
    assert seen == [{"next_index": 30}]


def test_what_may_not_be_read_is_left_alone(filled, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(disk, "sha256", refuse)
    with pytest.raises(CheckpointError, match=r"3 cannot be read: Permission denied"):
        restore(filled)
    assert (filled / "3").is_dir()


def test_leftovers_are_removed_by_a_training(filled):
    for name in ("4.orbax-checkpoint-tmp", "1.removing"):
        (filled / name / "state").mkdir(parents=True)
    (filled / "2" / f"{MANIFEST}.tmp").write_text("{")
    restore(filled)
    names = sorted(path.name for path in filled.iterdir())
    assert names == ["1", "2", "3"]
    assert not (filled / "2" / f"{MANIFEST}.tmp").exists()


def test_a_folder_that_vanished_is_made_again_with_the_state(filled):
    with opened(filled) as checkpoints:
        shutil.rmtree(filled)
        with pytest.raises(CheckpointError, match=r"vanished .* step 4 was saved"):
            checkpoints.save(4, state(4), {})
    assert restore(filled).step == 4


def test_a_folder_that_vanished_in_mid_save_is_made_again(tmp_path, monkeypatch):
    """Also if something of its name is there by then."""

    def vanish(_):
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").mkdir()
        raise FileNotFoundError(2, "No such file or directory")

    with opened(tmp_path / "run") as checkpoints:
        monkeypatch.setattr(saving, "write_manifest", vanish)
        checkpoints.save(1, state(1), {})
        checkpoints._save.join()
        monkeypatch.undo()
        checkpoints.check()
        with pytest.raises(CheckpointError, match=r"vanished .* step 2 was saved"):
            checkpoints.save(2, state(2), {})
    assert restore(tmp_path / "run").step == 2


def test_another_shape_is_an_error_not_damage(filled):
    other = state(0) | {
        "params": {"kernel": jnp.zeros((3, 3)), "half": jnp.bfloat16(0)}
    }
    with pytest.raises(CheckpointError, match=r"does not fit .*\(3, 3\)"):
        restore(filled, abstract(other))
    assert (filled / "3").is_dir()


def test_partial_restore(filled):
    part = {"params": {"kernel": abstract(state(0))["params"]["kernel"]}}
    restored = restore(filled, part, partial=True, read_only=True)
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
        checkpoints._save.join()
        (filled / "9.orbax-checkpoint-tmp").mkdir()  # what Orbax leaves of a failure
        with pytest.raises(CheckpointError, match=r"No space left .*step 4"):
            checkpoints.check()
        assert not (filled / "9.orbax-checkpoint-tmp").exists()
        checkpoints.wait()  # told once


def test_a_folder_that_cannot_be_made_fails_at_once(filled, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(saving.ocp, "save_checkpointables_async", refuse)
    with opened(filled) as checkpoints:
        with pytest.raises(CheckpointError, match=r"Read-only .*step 3"):
            checkpoints.save(4, state(4), {})


def test_the_old_step_stays_until_the_new_one_has_its_manifest(filled, monkeypatch):
    committed, release = threading.Event(), threading.Event()
    write = saving.write_manifest

    def write_late(folder):
        committed.set()
        release.wait()
        write(folder)

    monkeypatch.setattr(saving, "write_manifest", write_late)
    with opened(filled, keep_last=1) as checkpoints:
        checkpoints.save(4, state(4), {})
        assert committed.wait(timeout=60)
        assert checkpoints.steps == [1, 2, 3, 4]
        release.set()
        checkpoints.wait()
        assert checkpoints.steps == [4]


def test_a_failed_atomic_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    integrity.write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"config.json could not be written: No space"):
        integrity.write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_saving_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(saving, "write_manifest", lambda _: release.wait())
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})  # would hang here if it waited
        release.set()


def test_an_unknown_best_metric_is_named(tmp_path):
    with opened(tmp_path, keep_best=1, best_metric="acc") as checkpoints:
        with pytest.raises(ValueError, match="'acc': wanted one of loss, accuracy"):
            checkpoints.save(1, state(1), {}, {"loss": 0.1, "accuracy": 0.9})
