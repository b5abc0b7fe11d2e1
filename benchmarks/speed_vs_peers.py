"""Images/s of one training step: ours, timm, and a plain flax.linen ViT.

    python -m benchmarks.speed_vs_peers --torch-python torch-env/bin/python
    python -m benchmarks.speed_vs_peers --torch-python torch-env/bin/python \\
        --device gpu --dtype bfloat16 --models ViT-B/16,ViT-L/16 --batch 128 --steps 20

One step is forward, backward and AdamW update at 224 px with 1000 classes. Each peer
lives in a process of its own and only one of them works at a time, in turns (A B C A B
C ...), so that a change of the machine's load hits all alike: compare the ratios, which
are of neighbours in time. Other processes hurt torch's threads far more than XLA's, so
on Linux their load is measured and only quiet rounds count. On CPU timm runs in eager
mode, on GPU with torch.compile and autocast.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PEERS = ("ours", "timm", "linen")
# A round is quiet if other processes took less than this share of the CPUs in each of
# its turns.
QUIET = 0.1
ROOT = Path(__file__).parent.parent
TIMM_WORKER = str(ROOT / "benchmarks/peers_timm_worker.py")


def machine_ticks() -> tuple[int, int]:
    """Ticks that the CPUs worked, and all ticks; zeros where that is not known."""
    try:
        fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    except FileNotFoundError:
        return 0, 0
    ticks = [int(field) for field in fields]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def wait_for_quiet(end: float) -> None:
    """Waits until the CPUs are idle, at most until `end` by the monotonic clock."""
    while time.monotonic() < end:
        before = machine_ticks()
        time.sleep(0.5)
        busy, total = (b - a for a, b in zip(before, machine_ticks(), strict=True))
        if busy <= QUIET * total:
            return


class Worker:
    """A peer in its own process, which works only while `run` waits for it."""

    def __init__(
        self, peer: str, command: list[str], spec: dict[str, Any], **options: Any
    ) -> None:
        """Starts it.

        Args:
            peer: its name, for messages.
            command: gets the specification as JSON, its last argument.
            options: of `subprocess.Popen`.
        """
        self.peer = peer
        # Else the first JAX process would take the memory of the GPU for itself.
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
        """What it says of itself; waits until its model is built.

        Raises:
            RuntimeError: it ended; its own message is on stderr.
        """
        return self._read()

    def run(self, steps: int, mode: str = "train") -> tuple[float, float]:
        """Takes so many steps; returns the seconds and the others' share of the CPUs.

        The share is 0 where it cannot be measured.

        Raises:
            RuntimeError: it ended.
        """
        before = self._cpu_times()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{mode} {steps}\n")
            self.process.stdin.flush()
        seconds = self._read()
        busy, total = (b - a for a, b in zip(before, self._cpu_times(), strict=True))
        return seconds, max(0.0, busy / total) if total else 0.0

    def _cpu_times(self) -> tuple[int, int]:
        """Ticks that the CPUs worked for other processes, and all ticks."""
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


def compare(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all peers on one model, in turns.

    Returns:
        Per peer what it said of itself, the seconds of a step in each round, and the
        share of the CPUs that other processes took.

    Raises:
        RuntimeError: a peer failed, or their models have different sizes.
    """
    spec = {
        "model": model,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "device": arguments.device,
        "compile_mode": arguments.compile_mode,
        "image_size": 224,
        "clip_norm": 0.0,
    }
    jax_command = [sys.executable, "-m", "benchmarks.peers_jax_worker"]
    commands = dict.fromkeys(PEERS, jax_command)
    commands["timm"] = [arguments.torch_python, TIMM_WORKER]
    workers: list[Worker] = []
    try:
        for peer in PEERS:
            workers.append(Worker(peer, commands[peer], spec | {"peer": peer}))
        facts = {worker.peer: worker.facts for worker in workers}
        sizes = {peer: fact["parameters"] for peer, fact in facts.items()}
        print(f"{model}: parameters {sizes}", flush=True)
        if len(set(sizes.values())) > 1:
            raise RuntimeError(f"the peers' models differ in size: {sizes}")
        for worker in workers:
            worker.run(arguments.warmup)
        seconds = {peer: [] for peer in PEERS}
        loads = {peer: [] for peer in PEERS}
        quiet = number = 0
        end = time.monotonic() + 60 * arguments.minutes
        while not number or (quiet < arguments.rounds and time.monotonic() < end):
            wait_for_quiet(end)
            for worker in workers:
                turn, load = worker.run(arguments.steps)
                seconds[worker.peer].append(turn / arguments.steps)
                loads[worker.peer].append(load)
            last = {p: round(arguments.batch / s[-1], 2) for p, s in seconds.items()}
            load = max(shares[-1] for shares in loads.values())
            quiet, number = quiet + (load < QUIET), number + 1
            print(f"  round {number}: {last}, others {load:.0%}", flush=True)
    finally:
        for worker in workers:
            worker.close()
    return {
        "model": model,
        "batch": arguments.batch,
        "facts": facts,
        "step_seconds": seconds,
        "load_of_others": loads,
    }


def report(result: dict[str, Any], rounds: list[int]) -> dict[str, dict[str, float]]:
    """Prints and returns median images/s, and the speed as a multiple of timm's."""
    table = {}
    every = result["step_seconds"]
    seconds = {peer: [every[peer][number] for number in rounds] for peer in PEERS}
    for peer in PEERS:
        ratios = [t / s for s, t in zip(seconds[peer], seconds["timm"], strict=True)]
        table[peer] = {
            "rounds": len(rounds),
            "images/s": result["batch"] / statistics.median(seconds[peer]),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        row = table[peer]
        print(
            f"  {peer:6} {row['images/s']:8.2f} images/s   {row['ratio']:.3f} of timm "
            f"({row['ratio_min']:.3f}-{row['ratio_max']:.3f})   "
            f"{result['facts'][peer]['version']}, {result['facts'][peer]['hardware']}",
            flush=True,
        )
    return table


def quiet_rounds(result: dict[str, Any]) -> list[int]:
    """Numbers of the quiet rounds; of all rounds, with a warning, if none is."""
    loads = list(zip(*result["load_of_others"].values(), strict=True))
    quiet = [number for number, shares in enumerate(loads) if max(shares) < QUIET]
    print(f"{result['model']}: {len(quiet)} quiet rounds of {len(loads)}")
    if not quiet:
        print("  other processes used the CPUs in all rounds: do not trust the ratios")
    return quiet or list(range(len(loads)))


def main() -> None:
    """Reads the arguments, measures each model, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="ViT-Ti/16,ViT-S/16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--rounds", type=int, default=9, help="quiet ones wanted")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--minutes", type=float, default=10, help="limit a model")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    results = []
    for model in arguments.models.split(","):
        try:
            result = compare(model, arguments)
        except RuntimeError as error:
            sys.exit(f"error: {error}")
        results.append(result | {"table": report(result, quiet_rounds(result))})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
