"""Training in real processes: start, wait for a step, read the log, compare the end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vit_jax.checkpoints import integrity

COMMAND = (
    *(sys.executable, "-m", "vit_jax.train", "--config", "configs/digits.py"),
    *(
        f"--config.{text}"
        for text in (
            "model.depth=1",
            "model.width=32",
            "model.mlp_dim=64",
            "model.dropout_rate=0.1",
            "mix.cutmix_alpha=1",
            "data.batch_size=32",
            "train.duration=120steps",
            "train.ema_decay=0.9",
            "eval.every=60steps",
            "checkpoint.every=10steps",
            "log.every=1steps",
            "log.tensorboard=false",
        )
    ),
)
PATIENCE = 240  # seconds; a run takes a tenth of it on an idle machine


class Training:
    """One command started in one or two processes, until they end.

    Args:
        workdir: the run folder.
        count: of processes.
        options: further arguments of the command.
        logs: beside them; None for beside the run folder.
    """

    def __init__(
        self,
        workdir: Path | str,
        count: int = 1,
        options: tuple[str, ...] = (),
        logs: Path | None = None,
    ):
        self.workdir = workdir
        self.logs = [Path(f"{logs or workdir}.{index}.log") for index in range(count)]
        for log in self.logs:
            log.unlink(missing_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes = []
        for index, log in enumerate(self.logs):
            command = [*COMMAND, "--workdir", str(workdir), *options]
            if count > 1:
                command += ["--coordinator", f"127.0.0.1:{port}", "--process-id"]
                command += [str(index), "--num-processes", str(count)]
                command += ["--heartbeat-timeout", "10"]
            with log.open("w") as file:
                environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
                self.processes.append(
                    subprocess.Popen(command, stdout=file, stderr=file, env=environment)
                )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def text(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs)

    def step(self) -> int:
        """The newest step that the log tells of."""
        return max(map(int, re.findall(r"^step (\d+)/", self.text(), re.M)), default=0)

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: self.step() >= step)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            gone = any(process.poll() is not None for process in self.processes)
            if gone or time.monotonic() > end:
                raise AssertionError(f"ended or waited too long:\n{self.text()}")
            time.sleep(0.005)

    def end(self) -> list[int]:
        """The exit codes, once all have ended."""
        end = time.monotonic() + PATIENCE
        return [p.wait(timeout=max(1, end - time.monotonic())) for p in self.processes]

    def message(self) -> str:
        """The sentence that the command ended with, without the path of the folder."""
        # Up to what differs by chance: the command, other output, network addresses.
        own = r"^(?:error: |Stopped by )(?:(?! To go on:|    | \[external).)*"
        of_jax = r"Terminating process because[^.:]*"  # where a peer is gone
        found = re.findall(f"{own}|{of_jax}", self.text(), re.M)
        return found[-1].replace(str(self.workdir), "RUN") if found else "no message"


def finish(workdir: Path, count: int) -> tuple[int, str]:
    """Runs to the end, which has to come without an error.

    Returns:
        The step that it went on from, and the log.
    """
    with Training(workdir, count) as training:
        codes, text = training.end(), training.text()
    if any(codes):
        raise AssertionError(f"exit codes {codes} when started again:\n{text}")
    found = re.search(r"^Going on from step (\d+)", text, re.M)
    return (int(found[1]) if found else 0), text


def same_end(workdir: Path, reference: Path) -> bool:
    """Whether parameters, averages and optimizer state are the same bits."""
    first, second = (final_state(folder) for folder in (workdir, reference))
    return first == second and any("params.head" in name for name in first)


def final_state(workdir: Path) -> dict[str, bytes]:
    """The bits of every array of the last checkpoint, which is checked, by its path."""
    directory = workdir / "checkpoints"
    newest = directory / str(integrity.steps(directory)[-1])
    if problem := integrity.verify(newest):
        raise AssertionError(f"{newest}: {problem}")
    names = integrity.read_metadata(newest)[integrity.FINGERPRINTS]
    return {name: integrity.read_array(newest, name).tobytes() for name in names}


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target
