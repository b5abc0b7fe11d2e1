"""Times of peers that work in turns, and their ratios.

Each peer lives in a process of its own and only one of them works at a time (A B C A B
C ...), so that a change of the machine's load hits all alike: ratios are those of one
round. Other processes hurt torch's threads far more than XLA's, so on Linux their load
is measured and only quiet rounds count.
"""

import argparse
import datetime
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.commit import ROOT
from benchmarks.peers.lineup import Case, Peer, missing_parameters, start
from benchmarks.peers.worker import Worker, machine_ticks

# A round is quiet if other processes use less than this share of the CPUs in each turn.
QUIET = 0.1
# The first step compiles; the second may still be slow.
WARMUP = 2
Result = dict[str, Any]


class Spread(NamedTuple):
    """Median and range over rounds."""

    median: float
    least: float
    most: float


def spread(numbers: Sequence[float]) -> Spread:
    """Median, least and most of numbers."""
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def wait_for_quiet(end: float) -> None:
    """Waits until the CPUs are idle, at most until `end` (monotonic clock)."""
    while time.monotonic() < end:
        before = machine_ticks()
        time.sleep(0.5)
        busy, total = (b - a for a, b in zip(before, machine_ticks(), strict=True))
        if busy <= QUIET * total:
            return


def turn_steps(worker: Worker, mode: str, seconds: float) -> int:
    """Warms up, and returns the number of steps that fills a turn."""
    worker.run(WARMUP, mode)
    taken, _ = worker.run(1, mode)
    return max(1, round(seconds / taken))


def compare(case: Case, peers: Sequence[Peer], arguments: argparse.Namespace) -> Result:
    """Measures all peers on one case, in turns.

    Args:
        case: what.
        peers: who; their first is ours.
        arguments: `seconds` of a turn, `rounds` that are to be quiet, `minutes` of all
            rounds at most, and what `start` wants.

    Returns:
        The case's fields, `date`, `commit`, and in `peers` for each its facts,
        `images/s` and `load_of_others` (0 to 1) in each round.

    Raises:
        RuntimeError: a peer failed, or their models have different sizes.
        ValueError: no such model.
    """
    print(case.name, flush=True)
    workers: list[Worker] = []
    rows: dict[str, dict[str, Any]] = {}
    try:
        steps = {}
        for peer in peers:
            worker = start(peer, case, arguments)
            workers.append(worker)
            rows[peer.name] = worker.facts | {"images/s": [], "load_of_others": []}
            steps[peer.name] = turn_steps(worker, case.mode, arguments.seconds)
        sizes = {name: row["parameters"] for name, row in rows.items()}
        print(f"  parameters {sizes}", flush=True)
        if len({n + missing_parameters(x, case) for x, n in sizes.items()}) > 1:
            raise RuntimeError(f"the peers' models differ in size: {sizes}")
        quiet = number = 0
        end = time.monotonic() + 60 * arguments.minutes
        while not number or (quiet < arguments.rounds and time.monotonic() < end):
            wait_for_quiet(end)
            for worker in workers:
                count, row = steps[worker.peer], rows[worker.peer]
                seconds, load = worker.run(count, case.mode)
                row["images/s"].append(float(f"{count * case.batch / seconds:.4g}"))
                row["load_of_others"].append(round(load, 3))
            last = {name: row["images/s"][-1] for name, row in rows.items()}
            load = max(row["load_of_others"][-1] for row in rows.values())
            quiet, number = quiet + (load < QUIET), number + 1
            print(f"  round {number}: {last}, others {load:.0%}", flush=True)
    finally:
        for worker in workers:
            worker.close()
    facts = {"date": datetime.date.today().isoformat(), "commit": commit()}
    return case._asdict() | facts | {"peers": rows}


def commit() -> str:
    """The commit that is checked out, with `-dirty` after it if files differ."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def loads(result: Result) -> list[float]:
    """The most that other processes used in a turn of each round, as a share."""
    peers = result["peers"].values()
    return [max(x) for x in zip(*(p["load_of_others"] for p in peers), strict=True)]


def counted_rounds(result: Result) -> list[int]:
    """Numbers of the quiet rounds; of all, if there are none."""
    shares = loads(result)
    quiet = [number for number, load in enumerate(shares) if load < QUIET]
    return quiet or list(range(len(shares)))


def rates(result: Result, peer: str) -> Spread:
    """Images/s of a peer in the rounds that count."""
    every = result["peers"][peer]["images/s"]
    return spread([every[number] for number in counted_rounds(result)])


def ratios(result: Result, ours: str, peer: str) -> Spread:
    """Speed of one as a multiple of another's, round by round."""
    a, b = (result["peers"][name]["images/s"] for name in (ours, peer))
    return spread([a[number] / b[number] for number in counted_rounds(result)])


def report(result: Result) -> str:
    """A line for each peer: images/s, and how much faster ours is."""
    shares = loads(result)
    quiet = sum(load < QUIET for load in shares)
    lines = [f"  {quiet} quiet rounds of {len(shares)}"]
    if not quiet:
        lines.append("  others used the CPUs in all rounds: do not trust the ratios")
    for name, row in result["peers"].items():
        rate, ratio = rates(result, name), ratios(result, "ours", name)
        lines.append(
            f"  {name:18} {rate.median:8.2f} images/s   ours / it {ratio.median:.3f} "
            f"({ratio.least:.3f}-{ratio.most:.3f})   {row['version']}"
        )
    return "\n".join(lines)
