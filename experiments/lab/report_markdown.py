"""The report in Markdown: findings, then claims, figures and short tables by item.

Its images stay in the folders of the results. Criteria, methods, long tables and how it
was run are in the page alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.lab.report_text import (
    INTRODUCTION,
    MEANINGS,
    MOST_ROWS,
    SYMBOLS,
    TIMES,
    brief,
    by_experiment,
    count_line,
    effort,
    findings,
    interleaved,
    scale_lines,
)
from experiments.lab.results import ClaimRecord, ItemStatus, Report, StoredResult
from experiments.lab.tables import markdown_table

_SIDES = {"paper": "The paper", "ours": "Ours", "both": "The paper and ours"}


def page(report: Report, folder: Path) -> str:
    """The whole text.

    Args:
        folder: the text's own folder; images are named relative to it.
    """
    meanings = "; ".join(f"{SYMBOLS[x]} {x}: {text}" for x, text in MEANINGS.items())
    parts = ["# The paper, reproduced", INTRODUCTION, "## What was found"]
    lines = "\n".join(
        f"{_claim(claim)} ({source.record['item']}, {source.record['scale']})"
        for claim, source in findings(report.results)
    )
    parts += [lines] if lines else []
    parts += [count_line(report.results)] if report.results else ["No results."]
    parts += [f"{meanings}.", TIMES]
    parts += ["\n".join(f"- {line}" for line in scale_lines(report.results))]
    if report.problems:
        lines = "\n".join(f"- {problem}" for problem in report.problems)
        parts += ["## Files that could not be used", lines]
    for group in by_experiment(report.results):
        parts += _experiment(group, folder)
    parts += ["## Every item of the paper", _items(report.items)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _experiment(group: Sequence[StoredResult], folder: Path) -> list[str]:
    record = group[0].record
    parts = [f"## {record['item']}: {record['title']}", record["question"]]
    parts += [*_claims(group[0]), *_pictures(group[0], folder)]
    # Smaller scales are their claims alone.
    for one in group[1:]:
        parts += _claims(one)
    return parts


def _claims(one: StoredResult) -> list[str]:
    record, runs = one.record, one.record["runs"]
    status = "" if record["status"] == "done" else f", {record['status']}"
    return [
        f"### {record['scale']}{status}",
        f"`{record['command']}`: {effort(runs)} on {runs['hardware']}, {runs['date']}.",
        "\n".join(f"{_claim(claim)}." for claim in record["claims"]),
    ]


def _pictures(one: StoredResult, folder: Path) -> list[str]:
    """The figures, the tables that are not long, and the notes."""
    record, parts = one.record, []
    for figure in record["figures"]:
        for side in ("paper", "ours"):
            if figure[side]:
                path = os.path.relpath(one.folder / figure[side], folder)
                name = f"{_SIDES[side]}: {figure['caption']}".replace("]", ")")
                parts.append(f"![{name.replace('[', '(')}](<{path}>)")
        parts.append(f"*{figure['caption']}*")
    for table in interleaved(record["tables"]):
        if len(table["rows"]) <= MOST_ROWS:
            parts.append(f"{_SIDES[table['side']]}: {table['caption']}")
            parts.append(markdown_table(table))
    if record["notes"]:
        parts.append(f"Limits, and what did not reproduce: {record['notes']}")
    return parts


def _claim(claim: ClaimRecord) -> str:
    verdict, numbers = claim["verdict"], brief(claim["numbers"]).rstrip(". ")
    return f"- {SYMBOLS[verdict]} **{verdict}**: {claim['claim']}: {numbers}"


def _items(items: Sequence[ItemStatus]) -> str:
    columns = ["item", "shows", "here", "command", "the paper's own numbers need"]
    rows = [
        [
            item.name,
            item.shows,
            item.status,
            f"`{item.command}`" if item.command else "",
            item.needs or "nothing more",
        ]
        for item in items
    ]
    return markdown_table({"columns": columns, "rows": rows})
