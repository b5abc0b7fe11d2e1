"""The report in Markdown; its images stay in the folders of the results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.lab.report_text import (
    INTRODUCTION,
    RULE,
    SYMBOLS,
    duration,
    effort,
    interleaved,
    scale_line,
)
from experiments.lab.results import ItemStatus, Report, StoredResult
from experiments.lab.tables import markdown_table

_SIDES = {"paper": "The paper", "ours": "Ours", "both": "The paper and ours"}


def page(report: Report, folder: Path) -> str:
    """The whole text.

    Args:
        folder: the text's own folder; images are named relative to it.
    """
    parts = ["# The paper, reproduced", INTRODUCTION, RULE]
    if report.results:
        parts.append(scale_line(report.results) + ".")
    if report.problems:
        lines = "\n".join(f"- {problem}" for problem in report.problems)
        parts += ["## Files that could not be used", lines]
    parts += ["## Claims", _summary(report.results)]
    for one in report.results:
        parts += _experiment(one, folder)
    parts += ["## Every item of the paper", _items(report.items)]
    return "\n\n".join(parts) + "\n"


def _summary(results: Sequence[StoredResult]) -> str:
    rows = [
        [
            record["item"],
            record["scale"],
            claim["claim"],
            f"{SYMBOLS[claim['verdict']]} {claim['verdict']}",
            claim["numbers"],
            duration(record["runs"]["seconds"]),
        ]
        for record in (one.record for one in results)
        for claim in record["claims"]
    ]
    columns = ["item", "scale", "claim", "verdict", "numbers", "time"]
    return markdown_table({"columns": columns, "rows": rows})


def _experiment(one: StoredResult, folder: Path) -> list[str]:
    record, runs = one.record, one.record["runs"]
    status = "" if record["status"] == "done" else f", {record['status']}"
    parts = [
        f"## {record['item']}: {record['title']} ({record['scale']}{status})",
        record["question"],
        *(_claim(claim) for claim in record["claims"]),
    ]
    for figure in record["figures"]:
        for side, key in (("The paper", "paper"), ("Ours", "ours")):
            if figure[key]:
                path = os.path.relpath(one.folder / figure[key], folder)
                name = f"{side}: {figure['caption']}".replace("]", ")")
                parts.append(f"![{name.replace('[', '(')}](<{path}>)")
        parts.append(f"*{figure['caption']}*")
    for table in interleaved(record["tables"]):
        parts.append(f"{_SIDES[table['side']]}: {table['caption']}")
        parts.append(markdown_table(table))
    if record["notes"]:
        parts.append(f"Limits, and what did not reproduce: {record['notes']}")
    parts.append(
        f"`{record['command']}`: {effort(runs)} on {runs['hardware']}, {runs['date']}."
    )
    return parts


def _claim(claim: dict[str, Any]) -> str:
    comment = f" {claim['comment']}" if claim["comment"] else ""
    return (
        f"- {SYMBOLS[claim['verdict']]} **{claim['verdict']}**: {claim['claim']}. "
        f"{claim['numbers']}. Criterion: {claim['criterion']}.{comment}"
    )


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
