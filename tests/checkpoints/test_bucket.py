"""Run folders in a bucket: markers, damage, growing files, refusals of the store."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time

import bucket_server
import numpy as np
import pytest
from test_store import NOISE, abstract, state

from configs import digits
from vit_jax import evaluate as evaluate_command
from vit_jax.checkpoints import __main__ as checkpoints_command
from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.integrity import MANIFEST
from vit_jax.checkpoints.store import CheckpointError, Checkpoints
from vit_jax.figures import pictures
from vit_jax.storage import bucket, lock, paths
from vit_jax.storage.bucket import COMMITTED
from vit_jax.storage.errors import StoreError
from vit_jax.storage.lock import LOCK, FolderInUse, held
from vit_jax.storage.paths import as_path, on_disk

pytest.importorskip("gcsfs")


@pytest.fixture(scope="session")
def store():
    """An emulated store of this test process."""
    with bucket_server.running() as environment:
        os.environ.update(environment)
        yield


@pytest.fixture
def workdir(store, request):  # noqa: ARG001 - the store has to run
    """A folder of the bucket for one test."""
    name = re.sub(r"\W", "-", request.node.name)
    return as_path(f"gs://{bucket_server.BUCKET}/{name}")


@contextlib.contextmanager
def opened(folder, **options):
    with contextlib.closing(Checkpoints(folder, **options)) as checkpoints:
        yield checkpoints


def restore(folder, **options):
    with opened(folder, **options) as checkpoints:
        return checkpoints.restore(abstract(state(0)))


@pytest.fixture
def filled(workdir):
    """A folder with the steps 1 to 3."""
    with opened(workdir / "checkpoints", keep_last=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"next_index": 10 * step})
    return workdir / "checkpoints"


def read(path):
    return bucket.client().cat_file(str(path))


def write(path, data):
    bucket.client().pipe_file(str(path), data)


def largest(folder):
    sizes = {name: n for name, n in bucket.files(folder).items() if "/d/" in name}
    return folder / max(sizes, key=sizes.__getitem__)


# --- paths ---


@pytest.mark.parametrize("text", ["runs/x", "a:b", "w.npz:img", "/x/y", "~0/x"])
def test_paths_of_a_disk_stay_what_they_are(text):
    assert str(as_path(text)) == str(on_disk(text)) == text


@pytest.mark.parametrize("text", ["hdfs://x/y", "file:///x", "s3://b/x", "az://b/x"])
def test_another_scheme_is_refused(text):
    scheme = text.split(":")[0]
    with pytest.raises(ValueError, match=rf"{scheme}:// is not supported: .*gs://"):
        as_path(text)


def test_a_bucket_where_only_a_disk_will_do_is_refused():
    with pytest.raises(ValueError, match="gs:// is not supported here"):
        on_disk("gs://b/x")


def test_no_bucket_is_refused():
    with pytest.raises(ValueError, match="names no bucket"):
        as_path("gs:///x")


def test_names_that_clients_take_for_patterns_are_refused():
    with pytest.raises(ValueError, match=r"from \[1\] on"):
        as_path("gs://b/run[1]")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'gs://b/x needs: pip install "vit_jax\[gcs'):
        as_path("gs://b/x")


COMMANDS = {
    "train": ("--config", "configs/digits.py", "--workdir"),
    "evaluate": ("--checkpoint",),
    "checkpoints": (),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_another_scheme(name):
    command = [sys.executable, "-m", f"vit_jax.{name}", *COMMANDS[name], "hdfs://b/r"]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: hdfs:// is not supported")
    assert not os.path.exists("hdfs:")


# --- checkpoints ---


def test_restores_the_newest_exactly(filled):
    restored = restore(filled)
    assert restored.step == 3 and restored.metadata == {"next_index": 30}
    np.testing.assert_array_equal(restored.state["params"]["kernel"], 3 * NOISE)


def flip_a_bit(folder):
    data = bytearray(read(largest(folder)))
    data[len(data) // 2] ^= 1
    write(largest(folder), bytes(data))


def truncate(folder):
    data = read(largest(folder))
    write(largest(folder), data[: len(data) // 2])


def delete_an_object(folder):
    bucket.client().rm_file(str(largest(folder)))


def garble_the_manifest(folder):
    write(folder / MANIFEST, b"{")


def delete_the_commit_marker(folder):
    bucket.client().rm_file(str(folder / COMMITTED))


def flip_without_manifest(folder):
    flip_a_bit(folder)
    bucket.client().rm_file(str(folder / MANIFEST))


DAMAGE = (
    flip_a_bit,
    truncate,
    delete_an_object,
    garble_the_manifest,
    delete_the_commit_marker,
    flip_without_manifest,
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_falls_back_from_a_damaged_step(filled, damage, caplog):
    damage(filled / "3")
    restored = restore(filled, keep_last=3)
    assert restored.step == 2
    np.testing.assert_array_equal(restored.state["params"]["kernel"], 2 * NOISE)
    assert "CHECKPOINT DAMAGED" in caplog.text and "step 3" in caplog.text
    assert bucket.files(filled.parent / "damaged" / "3")
    with opened(filled, keep_last=3) as checkpoints:
        checkpoints.save(3, state(3), {})
    assert restore(filled).step == 3


def test_killed_before_the_manifest(filled):
    bucket.client().rm_file(str(filled / "3" / MANIFEST))
    assert restore(filled).step == 3


def test_leftovers_are_removed_by_a_training_only(filled, caplog):
    write(filled / "4" / "state" / "d" / "half", b"half")
    assert restore(filled, read_only=True).step == 3
    assert bucket.files(filled / "4")
    assert restore(filled).step == 3
    assert not bucket.files(filled / "4")
    assert "DAMAGED" not in caplog.text


def test_a_removal_that_is_cut_short_leaves_no_step(filled, monkeypatch):
    client = bucket.client()

    def killed(*_, **__):
        raise OSError("killed")

    monkeypatch.setattr(client, "rm", killed)
    with pytest.raises(StoreError, match="killed"):
        bucket.remove(filled / "3")
    assert bucket.files(filled / "3") and integrity.steps(filled) == [1, 2]


def test_which_steps_are_kept(workdir):
    accuracy = {2: 0.5, 3: 0.9, 5: 0.7}
    for steps in ((1, 2, 3, 4), (5, 6)):  # also over a restart
        with opened(workdir, keep_last=1, keep_best=1, keep_every=4) as checkpoints:
            for step in steps:
                metrics = {"accuracy": accuracy[step]} if step in accuracy else None
                checkpoints.save(step, state(step), {}, metrics)
    assert integrity.steps(workdir) == [3, 4, 6]
    names = {path.name for path in bucket.folders(workdir)}
    assert names == {"3", "4", "6", bucket.OPENED}


def test_a_folder_that_vanished_is_made_again_with_the_state(filled):
    with opened(filled) as checkpoints:
        bucket.client().rm(str(filled), recursive=True)
        with pytest.raises(CheckpointError, match=r"vanished .* step 4 was saved"):
            checkpoints.save(4, state(4), {})
    assert restore(filled).step == 4


def refuse(*_, **__):
    raise PermissionError("Forbidden")


def test_what_may_not_be_read_is_left_alone(filled, monkeypatch):
    with opened(filled) as checkpoints:
        monkeypatch.setattr(bucket.client(), "open", refuse)
        with pytest.raises(CheckpointError, match=r"3 cannot be read: .*Forbidden"):
            checkpoints.restore(abstract(state(0)))
    assert integrity.steps(filled) == [1, 2, 3]


def test_a_store_that_refuses_is_told_with_the_last_good_step(filled, monkeypatch):
    with opened(filled, keep_last=9) as checkpoints:
        checkpoints.restore(abstract(state(0)))
        for name in ("pipe_file", "open", "ls", "exists"):
            monkeypatch.setattr(bucket.client(), name, refuse)
        with pytest.raises(
            CheckpointError, match=r"Forbidden.* step 3 in .*the bucket is in order"
        ):
            checkpoints.save(4, state(4), {})
            checkpoints.wait()
        monkeypatch.undo()


def test_the_last_good_step_is_known_without_the_store(filled, monkeypatch):
    with opened(filled, keep_last=9) as checkpoints:
        # The store goes away when the manifest is written, before old steps go.
        monkeypatch.setattr(bucket.client(), "ls", refuse)
        checkpoints.save(4, state(4), {})
        assert checkpoints.last_good() == f"step 4 in {filled}"


@pytest.mark.usefixtures("store")
def test_a_missing_bucket_is_an_error():
    with pytest.raises(CheckpointError, match="FileNotFoundError: .*another-bucket"):
        Checkpoints("gs://another-bucket/run")


# --- growing files ---


def test_growing_files_are_fetched_and_pushed(workdir):
    write(workdir / "metrics.jsonl", b"1\n")
    files = bucket.Growing(workdir, ("metrics.jsonl", "skipped.txt"))
    with (files.folder / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    (files.folder / "tensorboard").mkdir()
    (files.folder / "tensorboard" / "events").write_bytes(b"\0\1")
    files.push()
    assert read(workdir / "metrics.jsonl") == b"1\n2\n"
    assert read(workdir / "tensorboard" / "events") == b"\0\1"
    (files.folder / "skipped.txt").write_text("x.jpg\n")
    files.close()
    assert read(workdir / "skipped.txt") == b"x.jpg\n"
    assert not files.folder.exists()


def test_what_a_kill_left_on_the_disk_is_removed_by_the_next_start(workdir):
    killed = bucket.Growing(workdir, ("metrics.jsonl",))
    (killed.folder / "half").write_text("of a row")
    again = bucket.Growing(workdir, ("metrics.jsonl",))
    other = bucket.Growing(workdir, ("skipped-1.txt",))  # of another process
    assert again.folder == killed.folder != other.folder
    assert list(again.folder.iterdir()) == []
    again.close()
    other.close()
    assert not again.folder.exists()


def test_a_push_that_fails_is_an_error_and_nothing_is_lost(
    workdir, monkeypatch, caplog
):
    monkeypatch.setattr(bucket, "UPLOAD_EVERY", 0.01)
    monkeypatch.setattr(bucket.client(), "pipe_file", refuse)
    files = bucket.Growing(workdir, ())
    (files.folder / "metrics.jsonl").write_text("1\n")
    while "the upload is tried again" not in caplog.text:
        time.sleep(0.01)
    with pytest.raises(StoreError, match=r"metrics.jsonl could not be written: Forb"):
        files.push()
    files.close()
    assert f"what is missing there is in {files.folder}" in caplog.text
    assert (files.folder / "metrics.jsonl").read_text() == "1\n"


# --- the lock ---


def other_lock(workdir, **changes):
    """Writes the lock of another process; returns its text."""
    holder = {"host": "elsewhere", "pid": 7, "started": "2026-11-01 10:00:00"} | changes
    write(workdir / LOCK, json.dumps(holder).encode())
    return json.dumps(holder)


def test_the_second_start_is_told_who_holds_the_bucket(workdir, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 5)
    with held(workdir):
        with pytest.raises(
            FolderInUse, match=rf"gs://.* in use by process {os.getpid()} on"
        ):
            with held(workdir):
                pass
    assert not bucket.exists(workdir / LOCK)


def test_the_lock_of_the_dead_is_taken_over(workdir, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    for changes in ({}, {"host": lock.platform.node(), "pid": os.getpid()}):
        other_lock(workdir, **changes)
        started = time.monotonic()
        with held(workdir):
            assert time.monotonic() - started >= 0.5
            assert f'"pid": {os.getpid()}' in read(workdir / LOCK).decode()
    monkeypatch.setattr(lock, "SILENCE", 999)
    other_lock(workdir, host=lock.platform.node(), pid=2**22 + 1)  # is there not
    with held(workdir):
        pass


def test_of_two_that_find_no_lock_one_makes_it(workdir, monkeypatch):
    """The other one wrote it between our look and our own writing."""
    create, theirs = bucket.client().pipe_file, "theirs"

    def too_late(path, data, **options):
        create(path, theirs.encode())
        create(path, data, **options)

    with monkeypatch.context() as patches:
        patches.setattr(bucket.client(), "pipe_file", too_late)
        assert bucket.Lock(workdir / LOCK).take("ours") == theirs
    assert read(workdir / LOCK).decode() == theirs


def test_a_run_that_lost_its_lock_saves_no_more(workdir):
    with held(workdir) as hold, opened(workdir / "checkpoints", hold=hold) as steps:
        steps.save(1, state(1), {})
        steps.wait()
        theirs = other_lock(workdir)
        steps.check()  # between two signs of life nothing is asked
        with pytest.raises(FolderInUse, match="taken over by process 7 on elsewhere"):
            steps.save(2, state(2), {})
        with pytest.raises(FolderInUse, match="it writes no more there"):
            steps.check()
    assert integrity.steps(workdir / "checkpoints") == [1]
    assert read(workdir / LOCK).decode() == theirs


def test_a_store_that_is_away_takes_no_lock_from_a_run(workdir, monkeypatch):
    with held(workdir) as hold:
        monkeypatch.setattr(bucket.client(), "cat_file", refuse)
        hold.renew()
        hold.check()
        monkeypatch.undo()
        bucket.client().rm_file(str(workdir / LOCK))  # by a user; nobody else has it
        hold.renew()
        hold.check()


# --- a run ---


def rows(text):
    """The rows of a metrics.jsonl, without the speed."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("/s")} for row in lines]


def run_command(module, *arguments):
    parser = module.make_parser()
    module.main(parser.parse_args(arguments))


@pytest.mark.full
def test_a_run_in_a_bucket_is_one_on_a_disk(workdir, digits_run, capfd):
    """Also for the commands that read it, and for a run that starts from it."""
    from vit_jax.interop.trained import load_trained
    from vit_jax.training.loop import train

    config = digits.get_config()
    stored = json.loads((digits_run / "config.json").read_text())
    for section in ("model", "data", "optim", "train", "eval"):
        for key, value in stored[section].items():
            new = tuple(value) if isinstance(value, list) else value
            config[section][key] = new
    train(config, str(workdir))
    here = json.loads(read(workdir / "checkpoints" / "4" / integrity.METADATA))
    step = digits_run / "checkpoints" / "4"
    there = json.loads((step / integrity.METADATA).read_text())
    name = integrity.FINGERPRINTS
    assert here["custom_metadata"][name] == there["custom_metadata"][name]
    metrics = (digits_run / "metrics.jsonl").read_text()
    assert rows(read(workdir / "metrics.jsonl").decode()) == rows(metrics)
    assert any(
        "/events." in f"/{path}" for path in bucket.files(workdir / "tensorboard")
    )

    curve = pictures.learning_curve(str(workdir))
    assert read(curve).startswith(b"\x89PNG")
    run_command(evaluate_command, "--checkpoint", str(workdir), "--split", "test")
    files = bucket.files(workdir / "evaluation" / "digits-test")
    assert {"metrics.json", "confusion.png", "predictions.jsonl"} <= files.keys()
    run_command(checkpoints_command, str(workdir), "--verify")
    assert " ok " in capfd.readouterr().out

    config.init = str(workdir)
    config.train.duration = "1steps"
    train(config, f"{workdir}_tuned")
    assert load_trained(f"{workdir}_tuned").step == 1
