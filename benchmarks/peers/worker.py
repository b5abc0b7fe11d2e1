"""A process that takes training steps on demand, timed from outside it."""

import contextlib
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMM_WORKER = str(ROOT / "benchmarks/peers/timm_worker.py")


def machine_ticks() -> tuple[int, int]:
    """Busy ticks of the CPUs, and all ticks; zeros where they are not known."""
    try:
        fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    except FileNotFoundError:
        return 0, 0
    ticks = [int(field) for field in fields]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


class Worker:
    """A peer in its own process, which works only while `run` waits for it."""

    def __init__(
        self, peer: str, command: list[str], spec: dict[str, Any], **options: Any
    ) -> None:
        """Starts the process.

        Args:
            peer: its name, for messages.
            command: its command; the specification is added as JSON.
            options: arguments of `subprocess.Popen`.
        """
        self.peer = peer
        # Otherwise the first JAX process would reserve the memory of the GPU.
        settings = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if spec["device"] == "cpu":
            settings["JAX_PLATFORMS"] = "cpu"
        self.process = subprocess.Popen(
            [*command, json.dumps(spec)],
            cwd=ROOT,
            env=settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Its own description; waits until its model is built.

        Raises:
            RuntimeError: the process ended; its message is on stderr.
        """
        return self._read()

    def run(self, steps: int, mode: str = "train") -> tuple[float, float]:
        """Takes steps; returns the seconds, and the other processes' share of the CPUs.

        The share is 0 where it cannot be measured.

        Raises:
            RuntimeError: the process ended.
        """
        before = self._cpu_times()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{mode} {steps}\n")
            self.process.stdin.flush()
        seconds = self._read()
        busy, total = (b - a for a, b in zip(before, self._cpu_times(), strict=True))
        return seconds, max(0.0, busy / total) if total else 0.0

    def _cpu_times(self) -> tuple[int, int]:
        """Busy ticks of the CPUs for other processes, and all ticks."""
        busy, total = machine_ticks()
        if total:
            own = Path(f"/proc/{self.process.pid}/stat").read_text()
            # Fields 14 and 15: user and system time; the name before may hold spaces.
            busy -= sum(int(field) for field in own.rpartition(")")[2].split()[11:13])
        return busy, total

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.peer} ended; its message is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
