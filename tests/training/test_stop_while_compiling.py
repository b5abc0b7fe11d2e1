"""A SIGTERM during a compilation: real processes, an empty compilation cache."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from vit_jax.interop.trained import load_trained

# Compiled for many seconds: unrolled blocks.
SLOW = (
    *("model.depth=12", "model.width=48", "model.num_heads=3", "model.mlp_dim=96"),
    *("data.batch_size=32", "train.duration=2steps", "log.tensorboard=false"),
    *("eval.every=2steps", "checkpoint.every=2steps"),
)
# With whatever else the machine does; compiling takes longer by far.
SECONDS = 12


def start(workdir, cache, log, *flags):
    command = [sys.executable, "-u", "-m", "vit_jax.train", "--workdir", str(workdir)]
    command += ["--config=configs/digits.py", *(f"--config.{text}" for text in SLOW)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_LOG_COMPILES": "1",
    }
    # A pipe that nobody reads would fill, and stop the process.
    with log.open("w") as stderr:
        return subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )


def wait_for_compilation(process, log):
    """Returns when XLA has begun with both steps, of training and of evaluation."""
    while log.read_text().count("Compiling jit(traced)") < 2:
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    time.sleep(1)


@pytest.mark.parametrize("again", [pytest.param(True, marks=pytest.mark.full), False])
def test_nothing_is_waited_for_before_the_first_step(tmp_path, again):
    log = tmp_path / "log"
    process = start(tmp_path / "run", tmp_path / "empty", log)
    wait_for_compilation(process, log)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert time.monotonic() - begin < SECONDS
    assert process.returncode == 75
    assert "Stopped by SIGTERM before the first step" in output
    assert "start the same command again" in output
    if not again:
        return
    ended = [tmp_path / "run", tmp_path / "alone"]
    for workdir in ended:
        cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
        assert start(workdir, cache, log).wait(timeout=500) == 0, log.read_text()
    first, second = (load_trained(workdir) for workdir in ended)
    assert first.step == second.step == 2
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


@pytest.mark.full
@pytest.mark.parametrize("signalled", [0, 1])
def test_one_of_two_processes_is_signalled_and_both_leave(tmp_path, signalled):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = (f"--coordinator={address}", "--num-processes=2", "--process-id")
    empty, logs = tmp_path / "empty", [tmp_path / f"log{n}" for n in "01"]
    pair = [
        start(tmp_path / "run", empty, log, *flags, str(number))
        for number, log in enumerate(logs)
    ]
    wait_for_compilation(pair[0], logs[0])
    begin = time.monotonic()
    pair[signalled].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=100) for process in pair]
    seconds = time.monotonic() - begin
    assert [process.returncode for process in pair] == [75, 75], outputs
    assert seconds < 2 * SECONDS
    assert "Stopped by SIGTERM before the first step" in outputs[0][0]
