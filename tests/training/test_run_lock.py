"""One writer a run folder: who comes second is told, and the dead hold nothing."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from vit_jax.checkpoints import __main__ as checkpoints_command
from vit_jax.storage import disk, lock
from vit_jax.storage.lock import LOCK, FolderInUse, held
from vit_jax.storage.run_files import read_metrics


def test_the_second_is_told_who_holds_the_folder(tmp_path):
    with held(tmp_path / "run"):
        with pytest.raises(
            FolderInUse, match=rf"run is in use by process {os.getpid()}"
        ):
            with held(tmp_path / "run"):
                pass
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import pathlib, sys, time; from vit_jax.storage.lock import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"process {process.pid} on"):
            with held(tmp_path):
                pass
        process.kill()
    with held(tmp_path):
        pass


def other_holder(folder, **changes):
    holder = {"host": "elsewhere", "pid": 1, "started": "2026-11-01 10:00:00"} | changes
    (folder / LOCK).write_text(json.dumps(holder))


@contextlib.contextmanager
def signs_of_life(path):
    """Another holder's, in a thread."""
    over = threading.Event()

    def beat():
        while not over.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_holder_on_another_machine_is_dead_when_it_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    other_holder(tmp_path)
    with signs_of_life(tmp_path / LOCK):
        with pytest.raises(FolderInUse, match=r"process 1 on elsewhere, since 2026-11"):
            with held(tmp_path):
                pass
    with held(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """A process with the number of the dead does not make it alive."""

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk.fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    node = lock.platform.node()
    for pid in (os.getpid(), 1):
        other_holder(tmp_path, host=node, pid=pid)
        with signs_of_life(tmp_path / LOCK):
            with pytest.raises(FolderInUse, match=f"process {pid} on"):
                with held(tmp_path):
                    pass
        with held(tmp_path):
            pass
    monkeypatch.setattr(lock, "SILENCE", 999)
    other_holder(tmp_path, host=node, pid=2**22 + 1)  # beyond the largest
    with held(tmp_path):
        pass


def test_a_lock_that_another_took_over_is_lost(tmp_path, monkeypatch):
    """As after a sleep, longer than others wait for a sign of life."""
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(tmp_path) as hold:
        hold.check()
        other_holder(tmp_path)
        end = time.monotonic() + 20
        with pytest.raises(FolderInUse, match="taken over by process 1 on elsewhere"):
            while time.monotonic() < end:
                hold.check()
                time.sleep(0.01)
    assert "elsewhere" in (tmp_path / LOCK).read_text()  # is not ours to remove


def test_signs_of_life_are_given_and_damage_takes_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(tmp_path) as hold:
        path = tmp_path / LOCK
        assert not lock.is_silent(lambda: str(os.stat(path).st_mtime_ns))
        path.write_text("12")
        hold.renew()
        path.unlink()
        hold.renew()
        hold.check()


def test_steps_are_not_pruned_while_a_training_writes(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    command = checkpoints_command.make_parser().parse_args
    with held(tmp_path):
        with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}"):
            checkpoints_command.main(command([str(tmp_path), "--prune"]))
        # What removes nothing may look.
        for flags in ([], ["--prune", "--dry-run"]):
            with contextlib.suppress(RuntimeError):  # the step is empty
                checkpoints_command.main(command([str(tmp_path), *flags]))


def test_a_damaged_lock_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.2)
    (tmp_path / LOCK).write_text("12")
    with held(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/run could not be written: Not a direct"):
        with held(tmp_path / "file" / "run"):
            pass
    (tmp_path / LOCK).mkdir()
    with pytest.raises(OSError, match=rf"{LOCK} could not be written: Is a direct"):
        with held(tmp_path):
            pass


@pytest.mark.full
def test_two_starts_of_one_command(tmp_path):
    """At the same moment: one is refused, and the other trains as if it were alone."""
    command = [sys.executable, "-m", "vit_jax.train", "--config", "configs/digits.py"]
    command += ["--workdir", str(tmp_path / "run"), "--config.model.depth=1"]
    command += ["--config.train.duration=99999steps", "--config.log.tensorboard=false"]
    command += ["--config.log.every=4steps", "--config.checkpoint.every=40steps"]
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    while (first_end := [process for process in both if process.poll()]) == []:
        time.sleep(0.05)
    (winner,) = (process for process in both if process not in first_end)
    path = tmp_path / "run" / "metrics.jsonl"
    while not read_metrics(path):
        time.sleep(0.05)
    winner.terminate()
    second, error = (process.communicate()[1] for process in (*first_end, winner))
    assert first_end[0].returncode == 1 and winner.returncode == 75, error
    assert f"{tmp_path}/run is in use by process {winner.pid} on" in second.decode()
    assert b"Traceback" not in second
    found = [row["step"] for row in read_metrics(path) if row["split"] == "train"]
    assert found == [*range(4, found[-1] + 1, 4)]
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**30])
def test_a_holder_that_is_no_process_is_none(pid):
    text = json.dumps({"host": "a", "pid": pid, "started": ""})
    assert lock.parse_holder(text) is None
    assert lock.parse_holder(text.replace(str(pid), "12")) is not None


def test_who_holds_a_lock_is_told_in_one_line():
    holder: lock.Holder = {"host": "a\nb\x1b" * 99, "pid": 12, "started": ""}
    text = lock.in_words(holder)
    assert text.isprintable() and len(text) < 400
