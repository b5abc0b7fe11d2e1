"""`results.md`: the rows as a table; with Python alone."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import Job
from benchmarks.gpu.results import Journal, RowKey

TITLES = {
    "install": "0. Installation",
    "checks": "1. Against float32 on the CPU",
    "memory": "2. Memory of the training step",
    "prepare": "3a. timm compiled",
    "speed": "3. Speed",
    "resume": "4. Killed and resumed",
    "cifar": "5. CIFAR-10",
}


def write_report(
    path: Path, journal: Journal, jobs: Iterable[Job], facts: dict[str, Any]
) -> None:
    """Writes the report atomically: results, failed rows, missing rows."""
    rows = journal.rows()
    planned = [row for job in jobs for row in job.rows]
    lines = [
        f"# {facts['card']}",
        "",
        f"Driver {facts['driver'] or 'none'}, Python {facts['python']}, "
        f"{facts['cpus']} CPUs, commit {facts['commit'] or 'unknown'}, "
        f"code {journal.key['code']}.",
        "",
        *missing(planned, rows),
    ]
    for phase, title in TITLES.items():
        own = [row for row in rows.values() if row["phase"] == phase]
        if own:
            lines += ["", f"## {title}", "", "| | | | s |", "|---|---|---|---|"]
            lines += [table_row(row) for row in own]
    partial = path.with_name(path.name + ".tmp")
    partial.write_text("\n".join(lines) + "\n")
    os.replace(partial, path)


def missing(planned: list[RowKey], rows: dict[RowKey, dict[str, Any]]) -> list[str]:
    """Lines with the number of measured rows, the failed rows and the missing ones."""
    failed = [row for row in planned if row in rows and not rows[row]["ok"]]
    absent = [row for row in planned if row not in rows]
    lines = [f"{len(planned) - len(failed) - len(absent)} of {len(planned)} measured."]
    lines += [f"- failed: {' '.join(row)}: {rows[row]['error']}" for row in failed]
    if absent:
        lines.append(f"- not reached: {', '.join(' '.join(row) for row in absent)}")
    return lines


def table_row(row: dict[str, Any]) -> str:
    """Name, outcome, values and seconds of a row."""
    outcome = "ok" if row["ok"] else "FAILED"
    cells = [row["name"], outcome, formatted(row["values"]), str(row["seconds"])]
    return f"| {' | '.join(cells)} |"


def formatted(value: Any) -> str:
    """Values as `name number, ...`; a spread as `median (least-most)`."""
    if isinstance(value, dict):
        if value.keys() == {"median", "least", "most"}:
            return "{median:.4g} ({least:.4g}-{most:.4g})".format(**value)
        shown = {k: v for k, v in value.items() if k != "facts"}
        return "; ".join(f"{k} {formatted(v)}" for k, v in shown.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/")
