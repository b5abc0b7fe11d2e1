"""How a result came about, folded at its end: command, runs, machine, configs."""

import json
from html import escape
from typing import Any

import ml_collections

from configs.base import get_config
from experiments.lab.registration import Registration
from experiments.lab.report_text import effort
from experiments.lab.results import Record
from experiments.lab.tables import html_table
from vit_jax.config import difference


def how(record: Record) -> str:
    """A folded block of HTML."""
    runs = record["runs"]
    versions = ", ".join(f"{name} {v}" for name, v in runs["versions"].items())
    facts = (
        ("Command", f"<code>{escape(record['command'])}</code>"),
        ("Runs", effort(runs)),
        ("Hardware", escape(runs["hardware"])),
        ("Versions", escape(versions)),
        ("Date", escape(runs["date"])),
    )
    if registered := record.get("registered"):
        facts += (("Criteria", escape(criteria(registered))),)
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    arms = {
        label: {key: value for key, value in changes.items() if value}
        for label, changes in record["overrides"].items()
    }
    blocks = ""
    if arms:
        rows = [[label, _listed(changes)] for label, changes in arms.items()]
        blocks += "<h4>Arms</h4>" + html_table(
            {"caption": "Arms", "columns": ["arm", "config and changes"], "rows": rows}
        )
    if record["config"]:
        blocks += (
            "<h4>Config of the first run, where it is not that of "
            "<code>configs/base.py</code></h4>"
            f"<pre>{escape(_changed(record['config']))}</pre>"
        )
    return (
        f'<details class="how"><summary>How it was run</summary><dl>{listed}</dl>'
        f"{blocks}</details>\n"
    )


def criteria(registered: Registration) -> str:
    """When the criteria were written down, and what became of them since."""
    since = " ".join(
        f"{what} since: {'; '.join(texts)}."
        for what, texts in (
            ("Changed or added", registered["changed"]),
            ("Withdrawn or replaced", registered.get("withdrawn", [])),
        )
        if texts
    )
    since = since or "Unchanged since."
    commit = f" at commit {registered['commit']}" if registered["commit"] else ""
    return f"Written down before the runs, {registered['date']}{commit}. {since}"


def _listed(changes: dict[str, Any]) -> str:
    return "; ".join(f"{key} = {json.dumps(v)}" for key, v in changes.items())


def _changed(config: dict[str, Any]) -> str:
    """A line for each value that is not the default."""
    changes = difference(get_config(), ml_collections.ConfigDict(config))
    return "\n".join(
        f"{key} = {json.dumps(new)}"
        for key, (_, new) in changes.items()
        if new != "absent"
    )
