"""Joining other processes, stop signals, and the watchdog; real ones: test_parallel."""

import argparse
import os
import signal
import subprocess
import sys
import time

import pytest

from vit_jax.parallel import distributed
from vit_jax.training.watchdog import Watchdog

KEYS = ("JAX_COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS")


def wanted(monkeypatch, *flags, **environment):
    for name in (*KEYS, *distributed.TASK_COUNTS, "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    return distributed.wanted(parser.parse_args(flags))


def test_when_other_processes_are_joined(monkeypatch):
    assert not wanted(monkeypatch)
    assert wanted(monkeypatch, "--coordinator=host:1234")
    assert wanted(monkeypatch, "--distributed=on")
    assert wanted(monkeypatch, SLURM_STEP_NUM_TASKS="8")
    # salloc or sbatch without srun: one process.
    assert not wanted(monkeypatch, SLURM_STEP_NUM_TASKS="1", SLURM_JOB_ID="7")
    assert wanted(monkeypatch, OMPI_COMM_WORLD_SIZE="2")
    assert wanted(monkeypatch, JAX_COORDINATOR_ADDRESS="job-0.svc:1234")
    assert wanted(monkeypatch, TPU_WORKER_HOSTNAMES="host-0,host-1")
    assert not wanted(monkeypatch, TPU_WORKER_HOSTNAMES="localhost")
    assert not wanted(monkeypatch, "--distributed=off", SLURM_STEP_NUM_TASKS="8")


def test_several_processes_without_an_address_are_refused(monkeypatch):
    """Each would train alone, all in one folder."""
    with pytest.raises(ValueError, match="--num-processes 2 needs --coordinator HOST:"):
        wanted(monkeypatch, "--num-processes=2", "--process-id=1")
    assert not wanted(monkeypatch, "--num-processes=2", "--distributed=off")
    assert not wanted(monkeypatch, "--num-processes=1")
    assert not wanted(monkeypatch, "--num-processes=1", "--process-id=0")
    with pytest.raises(ValueError, match="--process-id 0 needs --coordinator HOST:"):
        wanted(monkeypatch, "--process-id=0")


@pytest.mark.parametrize("address", ["nonsense", "host:", ":1", "a b:1", ""])
def test_an_address_that_is_none_is_refused(address):
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    found = parser.parse_args([f"--coordinator={address}", "--num-processes=2"])
    with pytest.raises(ValueError, match="--coordinator is .*: wanted HOST:PORT"):
        distributed.start(found)


def test_the_place_among_the_processes_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "8")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    found = parser.parse_args([])
    assert (found.num_processes, found.process_id) == (8, 0)
    assert parser.parse_args(["--process-id=3"]).process_id == 3


def test_half_of_the_flags_is_an_error():
    command = [sys.executable, "-m", "vit_jax.train", "--config=configs/digits.py"]
    command += ["--workdir=unused", "--coordinator=127.0.0.1:1234"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "--num-processes and --process-id" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_handlers_are_put_back(number, capsys):
    before = signal.getsignal(number)
    with distributed.StopSignals() as signals:
        assert signals.stop() is None
        os.kill(os.getpid(), number)
        assert signals.stop() == number
    assert signal.getsignal(number) == before
    assert "Saving before stopping" in capsys.readouterr().out


def test_the_watchdog_dumps_stacks_of_a_late_step(capfd):
    with Watchdog(0.3) as watchdog:
        time.sleep(0.7)  # the first step compiles
        assert capfd.readouterr().err == ""
        watchdog.step_begins(7)
        for _ in range(5):
            time.sleep(0.1)
            watchdog.step_begins(8)
        watchdog.pause()
        time.sleep(0.7)
        assert capfd.readouterr().err == ""
        watchdog.step_begins(9)
        time.sleep(0.5)
        error = capfd.readouterr().err
    assert "step 9 takes longer than train.step_timeout=0.3 s" in error
    assert "test_the_watchdog_dumps_stacks" in error


def test_no_watchdog_without_a_limit(capfd):
    with Watchdog(0) as watchdog:
        watchdog.step_begins(1)
        time.sleep(0.2)
    assert capfd.readouterr().err == ""
