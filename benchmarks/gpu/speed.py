"""Phase 3: images/s and MFU, ours and timm's in turns on the same card.

For each model both have processes of their own and only one works at a time (A B A B
...). `prepare` compiles timm's first, so that its kernels are in the cache. This file
needs Python alone; the workers have environments of their own.
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import end_with_parent
from benchmarks.gpu.results import Spec, in_one_line
from benchmarks.peers.worker import TIMM_WORKER, Worker

# Modes of the workers by the names in rows.
MODES = {"training": "train", "inference": "forward"}


@contextlib.contextmanager
def worker(peer: str, spec: Spec) -> Iterator[Worker]:
    """A process that takes steps.

    Args:
        peer: `ours`, `ours Triton` (products by the kernels that XLA's autotuner
            picks), or `timm` with a compile mode.
    """
    options = spec.options
    command = [sys.executable, "-m", "benchmarks.gpu.step"]
    settings: dict[str, Any] = {"device": "cpu" if spec.dry else "gpu"}
    if peer.startswith("ours"):
        settings["triton"] = peer == "ours Triton"
    else:
        command = [str(Path(spec.work) / "peers/bin/python"), TIMM_WORKER]
        settings |= {
            "num_classes": 1000,
            "clip_norm": 1.0,
            # Compiling takes longer than all else of a dry run.
            "compile_mode": "" if spec.dry else peer.removeprefix("timm "),
            # This layout makes cuDNN's convolutions faster.
            "channels_last": "+" in options["model"],
        }
    made = Worker(peer, command, options | settings, preexec_fn=end_with_parent)
    try:
        yield made
    finally:
        made.process.kill()
        made.close()


def turn_steps(peer: Worker, mode: str, seconds: float) -> int:
    """Warms up, and returns the number of steps that fills a turn."""
    peer.run(3, mode)
    taken, _ = peer.run(3, mode)
    return max(1, round(3 * seconds / taken))


def compare(
    workers: list[Worker], mode: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Times all workers in turns.

    Returns:
        `images/s` of each worker: `median`, `least`, `most` over the rounds; `ratio`,
        the same of ours to the best of the others in each round; `against`, its name.
    """
    steps = {
        one.peer: turn_steps(one, mode, options["turn_seconds"]) for one in workers
    }
    rates: dict[str, list[float]] = {one.peer: [] for one in workers}
    for _ in range(options["rounds"]):
        for one in workers:
            seconds, _ = one.run(steps[one.peer], mode)
            rates[one.peer].append(steps[one.peer] * options["batch"] / seconds)
    values: dict[str, Any] = {"images/s": {p: spread(r) for p, r in rates.items()}}
    others = [peer for peer in rates if not peer.startswith("ours")]
    if "ours" in rates and others:
        best = max(others, key=lambda peer: statistics.median(rates[peer]))
        pairs = zip(rates["ours"], rates[best], strict=True)
        values["ratio"] = spread([ours / theirs for ours, theirs in pairs])
        values["against"] = best
    return values


def spread(numbers: list[float]) -> dict[str, float]:
    """Median and range."""
    middle = statistics.median(numbers)
    return {"median": middle, "least": min(numbers), "most": max(numbers)}


def utilisation(
    values: dict[str, Any], facts: dict[str, Any], mode: str
) -> dict[str, Any]:
    """MFU of each worker: FLOP/s of the model's arithmetic over the card's peak."""
    if not facts["peak_flops"]:
        return {}
    share = facts["flops"][mode] / facts["peak_flops"]
    return {p: rate["median"] * share for p, rate in values["images/s"].items()}


def measure(spec: Spec) -> None:
    """One model, training then inference; without timm, ours alone."""
    with contextlib.ExitStack() as stack:
        started, facts, failed = {}, {}, {}
        for peer in spec.options["peers"]:
            # Popen fails if the peer is not installed, since it then has no Python.
            try:
                started[peer] = stack.enter_context(worker(peer, spec))
            except OSError as error:
                failed[peer] = in_one_line(error)
        for peer, one in started.items():
            try:
                facts[peer] = one.facts
                # All are compiled before any is timed.
                for mode in MODES.values():
                    one.run(1, mode)
            except (RuntimeError, OSError) as error:
                failed[peer] = in_one_line(error)
        workers = [one for peer, one in started.items() if peer not in failed]
        for name in spec.names:
            with spec.row(name) as values:
                mode = MODES[name.split()[-1]]
                values |= {key: spec.options[key] for key in ("batch", "dtype")}
                values["facts"] = facts
                if workers:
                    values |= compare(workers, mode, spec.options)
                if "ours" not in failed:
                    values["mfu"] = utilisation(values, facts["ours"], mode)
                sizes = {fact["parameters"] for fact in facts.values()}
                if len(sizes) > 1:
                    raise RuntimeError(f"the models differ in size: {sizes}")
                if failed:
                    raise RuntimeError(f"not all were measured: {failed}")


def prepare(spec: Spec) -> None:
    """Compiles timm's side of one model."""
    for name in spec.names:
        with spec.row(name) as values, contextlib.ExitStack() as stack:
            for peer in spec.options["peers"]:
                if peer.startswith("ours"):
                    continue
                made = stack.enter_context(worker(peer, spec))
                begun = time.monotonic()
                values["facts"] = made.facts
                for mode in MODES.values():
                    made.run(1, mode)
                values[f"{peer} seconds"] = round(time.monotonic() - begun, 1)


if __name__ == "__main__":
    spec = Spec.parse(sys.argv[1])
    (prepare if spec.phase == "prepare" else measure)(spec)
