"""Text and numbers that both forms of the report share."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from experiments.lab.results import StoredResult

SYMBOLS = {"supported": "✓", "not supported": "✗", "undecided": "?"}
INTRODUCTION = (
    "Experiments of “An Image is Worth 16x16 Words” (arXiv 2010.11929), run again in "
    "the form of the paper with models and data of the stated scale. The paper’s "
    "numbers are of other data and far larger models: compare directions and orders, "
    "not levels. Its figures are drawn again from its printed numbers, or from what "
    "could be read off them."
)
RULE = (
    "A claim is supported if the whole 95 % confidence interval lies on the side that "
    "it names, not supported if none of it does, and undecided otherwise. The "
    "criterion is evaluated by code."
)


def duration(seconds: float) -> str:
    """`45 s`, `6 min 52 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def scale_line(results: Sequence[StoredResult]) -> str:
    """Scales, hardware, runs and time in one line."""
    parts = []
    for scale in dict.fromkeys(one.record["scale"] for one in results):
        runs = [o.record["runs"] for o in results if o.record["scale"] == scale]
        hardware = "; ".join(dict.fromkeys(run["hardware"] for run in runs))
        count, spent = sum(r["count"] for r in runs), sum(r["seconds"] for r in runs)
        dates = sorted({run["date"] for run in runs})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        parts.append(
            f"{scale}: {len(runs)} experiment{'s' * (len(runs) > 1)}, {count} runs, "
            f"{duration(spent)} on {hardware}, {span}"
        )
    return ". ".join(parts)


def effort(runs: Mapping[str, Any]) -> str:
    """Number of runs and seeds, and the time that they took."""
    if not runs["count"]:
        return f"no training, {duration(runs['seconds'])}"
    return f"{runs['count']} runs, {runs['seeds']} seeds, {duration(runs['seconds'])}"


def interleaved(tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tables of both sides first, then the paper's and ours in turns."""
    sides = ("paper", "ours")
    paper, ours = ([t for t in tables if t["side"] == side] for side in sides)
    both = [table for table in tables if table["side"] == "both"]
    pairs = [t for pair in zip_longest(paper, ours) for t in pair if t is not None]
    return both + pairs
