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
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import TIMM_WORKER, Worker, machine_ticks

PEERS = ("ours", "timm", "linen")
# A round is quiet if other processes use less than this share of the CPUs in each turn.
QUIET = 0.1


def wait_for_quiet(end: float) -> None:
    """Waits until the CPUs are idle, at most until `end` (monotonic clock)."""
    while time.monotonic() < end:
        before = machine_ticks()
        time.sleep(0.5)
        busy, total = (b - a for a, b in zip(before, machine_ticks(), strict=True))
        if busy <= QUIET * total:
            return


def compare(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all peers on one model, in turns.

    Returns:
        For each peer its facts, the seconds of a step in each round, and the share of
        the CPUs that other processes used.

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
    jax_command = [sys.executable, "-m", "benchmarks.peers.jax_worker"]
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
    """Numbers of the quiet rounds; if there are none, of all, with a warning."""
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
