"""One writer a run folder: who comes second is told, and the dead hold nothing."""

import json
import os
import subprocess
import sys
import threading

import pytest

from vit_jax.storage import disk, lock
from vit_jax.storage.lock import LOCK, FolderInUse, held


def test_the_second_is_told_who_holds_the_folder(tmp_path):
    with held(tmp_path / "run"):
        with pytest.raises(
            FolderInUse, match=rf"run is in use by process {os.getpid()}"
        ):
            with held(tmp_path / "run"):
                pass
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


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


def test_a_holder_on_another_machine_is_dead_when_it_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    other_holder(tmp_path)
    over = threading.Event()

    def beat():
        while not over.wait(0.05):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(FolderInUse, match=r"process 1 on elsewhere, since 2026-11"):
            with held(tmp_path):
                pass
    finally:
        over.set()
        thread.join()
    with held(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk.fcntl, "flock", refuse)
    node = lock.platform.node()
    other_holder(tmp_path, host=node, pid=os.getppid())
    with pytest.raises(FolderInUse, match=f"process {os.getppid()}"):
        with held(tmp_path):
            pass
    other_holder(tmp_path, host=node, pid=2**22 + 1)  # beyond the largest
    with held(tmp_path):
        pass


def test_a_damaged_lock_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.2)
    (tmp_path / LOCK).write_text("12")
    with held(tmp_path):
        pass


def test_two_starts_of_one_command(tmp_path):
    """The second is refused, and the first goes on."""
    command = [sys.executable, "-m", "vit_jax.train", "--config", "configs/digits.py"]
    command += ["--workdir", str(tmp_path), "--config.model.depth=1"]
    command += ["--config.train.duration=9steps", "--config.log.tensorboard=false"]
    with held(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"{tmp_path} is in use by process {os.getpid()}" in second.stderr
    assert "Traceback" not in second.stderr and not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**30])
def test_a_holder_that_is_no_process_is_none(pid):
    text = json.dumps({"host": "a", "pid": pid, "started": ""})
    assert lock.parse_holder(text) is None
    assert lock.parse_holder(text.replace(str(pid), "12")) is not None


def test_who_holds_a_lock_is_told_in_one_line(tmp_path):
    holder: lock.Holder = {"host": "a\nb\x1b" * 99, "pid": 12, "started": ""}
    text = lock.in_use(tmp_path, holder)
    assert text.isprintable() and len(text) < 400 + len(str(tmp_path))
