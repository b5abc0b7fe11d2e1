"""Text and numbers that both forms of the report share."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any, NamedTuple

from experiments.lab.records import expected_false, interval_level
from experiments.lab.results import ClaimRecord, StoredResult, TableRecord

SYMBOLS = {
    "supported": "✓",
    "not supported": "✗",
    "undecided": "?",
    "out of reach here": "–",
}
MEANINGS = {
    "supported": "the whole interval lies where the claim puts it",
    "not supported": "no part of the interval lies where the claim puts it",
    "undecided": "the interval lies on both sides",
    "out of reach here": "nothing that runs at this scale could decide it",
}
INTRODUCTION = (
    "“An Image is Worth 16x16 Words” (arXiv 2010.11929), run again in the form of the "
    "paper. The paper’s numbers are of other data and far larger models: compare "
    "directions and orders, not levels. Its figures are drawn again from its printed "
    "numbers, or from what could be read off them."
)
TIMES = (
    "A time is the sum of the seconds of the runs, each on the hardware named beside "
    "it, as if they ran one after another; runs side by side (--jobs) are done sooner. "
    "A run that several experiments share counts in each."
)
# Longer tables are folded, and are left out of the Markdown.
MOST_ROWS = 12
# The interval as `statistics.Interval.text` writes it, with its method in parentheses.
_INTERVAL = re.compile(r", ([\d.]+ % CI) (\[[^]]*\]) \(((?:[^()]|\([^()]*\))*)\)")


class Finding(NamedTuple):
    """A headline claim, and the result that it is from."""

    claim: ClaimRecord
    source: StoredResult


def by_experiment(results: Sequence[StoredResult]) -> list[list[StoredResult]]:
    """The results of each experiment together, as `read_report` has sorted them."""
    groups = groupby(results, key=lambda one: one.record["name"])
    return [list(group) for _, group in groups]


def findings(results: Sequence[StoredResult]) -> list[Finding]:
    """The headline claims, each at the largest scale that has it."""
    found: dict[tuple[str, str], Finding] = {}
    for one in results:
        for claim in one.record["claims"]:
            if claim.get("headline"):
                key = one.record["name"], claim["claim"]
                found.setdefault(key, Finding(claim, one))
    return list(found.values())


def verdict_counts(results: Sequence[StoredResult]) -> dict[str, int]:
    """The number of claims by verdict, in the order of `SYMBOLS`."""
    counts = Counter(c["verdict"] for one in results for c in one.record["claims"])
    return {name: counts[name] for name in SYMBOLS if counts[name]}


def count_line(results: Sequence[StoredResult]) -> str:
    """How many claims there are by verdict, and how many may be wrong by chance."""
    counts = verdict_counts(results)
    listed = ", ".join(f"{number} {name}" for name, number in counts.items())
    claims = [claim for one in results for claim in one.record["claims"]]
    judged = sum(interval_level(claim) is not None for claim in claims)
    wrong = expected_false(claims)
    corrected = (
        "; the findings are corrected for their number" if findings(results) else ""
    )
    return (
        f"{counted(sum(counts.values()), 'claim')}: {listed}. A 95 % interval misses "
        f"the truth once in 20 times, so at most about {wrong:.0f} of the "
        f"{judged} that were judged by one may be wrong by chance{corrected}."
    )


def duration(seconds: float) -> str:
    """`45 s`, `6 min 52 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def scale_lines(results: Sequence[StoredResult]) -> list[str]:
    """For each scale its experiments, runs, time, hardware and dates."""
    lines = []
    for scale in dict.fromkeys(one.record["scale"] for one in results):
        runs = [o.record["runs"] for o in results if o.record["scale"] == scale]
        hardware = "; ".join(dict.fromkeys(run["hardware"] for run in runs))
        count, spent = sum(r["count"] for r in runs), sum(r["seconds"] for r in runs)
        dates = sorted({run["date"] for run in runs})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(
            f"{scale}: {counted(len(runs), 'experiment')}, {counted(count, 'run')} of "
            f"together {duration(spent)}, each on {hardware}; {span}"
        )
    return lines


def effort(runs: Mapping[str, Any]) -> str:
    """Number of runs and seeds, and the sum of the times that they took."""
    if not runs["count"]:
        return f"no training, {duration(runs['seconds'])}"
    what = f"{counted(runs['count'], 'run')}, {counted(runs['seeds'], 'seed')}"
    return f"{what}, {duration(runs['seconds'])}"


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def parts_of(numbers: str) -> list[tuple[str, str]]:
    """Numbers of a claim as pairs of text and what is to be known of the text.

    "+2 points, 95 % CI [1, 3] (t, n = 3); the paper: +4" gives ("+2 points ", ""),
    ("[1, 3]", "95 % CI: t, n = 3"), ("; the paper: +4", "").
    """
    parts, end = [], 0
    for match in _INTERVAL.finditer(numbers):
        parts.append((f"{numbers[end : match.start()]} ", ""))
        parts.append((match[2], f"{match[1]}: {match[3]}"))
        end = match.end()
    return [*parts, (numbers[end:], "")]


def brief(numbers: str) -> str:
    """Numbers of a claim without the methods of their intervals."""
    return "".join(text for text, _ in parts_of(numbers))


def interleaved(tables: Sequence[TableRecord]) -> list[TableRecord]:
    """Tables of both sides first, then the paper's and ours in turns."""
    sides = ("paper", "ours")
    paper, ours = ([t for t in tables if t["side"] == side] for side in sides)
    both = [table for table in tables if table["side"] == "both"]
    pairs = [t for pair in zip_longest(paper, ours) for t in pair if t is not None]
    return both + pairs
