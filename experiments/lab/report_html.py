"""The report as one HTML page: style and figures inside, no script, no network."""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from html import escape
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
from experiments.lab.tables import html_table

# A larger SVG holds bitmaps, and is no sharper than its PNG.
_MAX_SVG_BYTES = 400_000
# Tables with more columns take the whole width of the page.
_MAX_HALF = 6


def page(report: Report) -> str:
    """The whole page."""
    style = Path(__file__).with_name("report.css").read_text()
    parts = [
        _head(report),
        _problems(report.problems),
        _summary(report.results),
        *(_experiment(one) for one in report.results),
        _items(report.items),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>The paper, reproduced</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    verdicts = Counter(
        claim["verdict"] for one in report.results for claim in one.record["claims"]
    )
    counts = "".join(
        f'<li class="{_slug(name)}"><strong>{verdicts[name]}</strong> {name}</li>'
        for name in SYMBOLS
    )
    made = sum(bool(item.anchors) for item in report.items)
    return (
        "<header>\n<h1>The paper, reproduced</h1>\n"
        f"<p>{INTRODUCTION}</p>\n<p>{RULE}</p>\n"
        f'<p class="quiet">{escape(scale_line(report.results))}</p>\n'
        f'<ul class="counts">{counts}<li><strong>{made}</strong> of '
        f"{len(report.items)} items of the paper with results</li></ul>\n</header>\n"
    )


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return (
        '<section class="problems"><h2>Files that could not be used</h2>'
        f"<ul>{lines}</ul></section>\n"
    )


def _summary(results: Sequence[StoredResult]) -> str:
    groups = []
    for one in results:
        record = one.record
        claims = record["claims"] or [None]
        span = f' rowspan="{len(claims)}"'
        name = (
            f'<th scope="rowgroup"{span}><a href="#{escape(one.anchor)}">'
            f"{escape(record['title'])}</a>"
            f"<small>{escape(record['item'])}, {escape(record['scale'])}, "
            f"{duration(record['runs']['seconds'])}</small>"
            f"<small><code>{escape(record['command'])}</code></small></th>"
        )
        rows = []
        for claim in claims:
            if claim is None:
                cells = f'<td></td><td class="quiet">{escape(record["status"])}</td>'
                cells += '<td class="numbers"></td>'
            else:
                cells = (
                    f"<td>{_badge(claim['verdict'])}</td>"
                    f"<td>{escape(claim['claim'])}</td>"
                    f'<td class="numbers">{escape(claim["numbers"])}</td>'
                )
            rows.append(f"<tr>{'' if rows else name}{cells}</tr>\n")
        groups.append(f"<tbody>{''.join(rows)}</tbody>\n")
    if not groups:
        return '<section><h2>Claims</h2><p class="quiet">No results.</p></section>\n'
    return (
        '<section id="summary"><h2>Claims</h2>\n<div class="table">'
        '<table class="summary"><thead><tr><th scope="col">Experiment</th>'
        '<th scope="col">Verdict</th><th scope="col">Claim</th>'
        '<th scope="col" class="numbers">Numbers</th></tr></thead>\n'
        f"{''.join(groups)}</table></div>"
        "</section>\n"
    )


def _experiment(one: StoredResult) -> str:
    record = one.record
    scale = escape(f"{record['item']} · {record['scale']}")
    status = "" if record["status"] == "done" else f" · {escape(record['status'])}"
    parts = [
        f'<article id="{escape(one.anchor)}">\n'
        f'<p class="item">{scale}{status}</p>\n'
        f"<h2>{escape(record['title'])}</h2>\n"
        f'<p class="question">{escape(record["question"])}</p>\n',
        *(_claim(claim) for claim in record["claims"]),
        *(_figure(figure, one.folder) for figure in record["figures"]),
        _tables(record["tables"]),
    ]
    if record["notes"]:
        parts.append(
            '<div class="notes"><h3>Limits, and what did not reproduce</h3>'
            f"<p>{escape(record['notes'])}</p></div>\n"
        )
    return "".join([*parts, _how(record), "</article>\n"])


def _claim(claim: dict[str, str]) -> str:
    comment = f"<p>{escape(claim['comment'])}</p>" if claim["comment"] else ""
    return (
        f'<div class="claim {_slug(claim["verdict"])}">{_badge(claim["verdict"])}'
        f"<div><p><strong>{_sentence(claim['claim'])}</strong> "
        f"{_sentence(claim['numbers'])}</p>"
        f'<p class="quiet">Criterion: {_sentence(claim["criterion"])}</p>{comment}'
        "</div></div>\n"
    )


def _figure(figure: dict[str, str], folder: Path) -> str:
    caption = figure["caption"]
    shown = [
        (side, figure[key])
        for side, key in (("The paper", "paper"), ("Ours", "ours"))
        if figure[key]
    ]
    pictures = "".join(
        f'<div><p class="side">{side}</p>'
        f"{_picture(folder / name, f'{side}: {caption}')}</div>"
        for side, name in shown
    )
    wide = " wide" if len(shown) == 1 else ""
    sources = ", ".join(
        f"<code>{escape(f'{folder.name}/{Path(name).stem}.csv')}</code>"
        for _, name in shown
    )
    return (
        f'<figure><div class="pair{wide}">{pictures}</div>'
        f"<figcaption>{_sentence(caption)} "
        f'<span class="quiet">Numbers: {sources}</span>'
        "</figcaption></figure>\n"
    )


def _picture(path: Path, text: str) -> str:
    """The SVG, or the PNG where that is missing or large, within the page."""
    svg = path.with_suffix(".svg")
    if svg.is_file() and svg.stat().st_size <= _MAX_SVG_BYTES:
        path, kind = svg, "svg+xml"
    elif path.is_file():
        kind = "png"
    else:
        return f'<p class="missing">{escape(path.name)} is missing</p>'
    data = base64.b64encode(path.read_bytes()).decode()
    # An img element, since several inline SVGs would share one namespace of ids.
    return (
        f'<img alt="{escape(text)}" loading="lazy" '
        f'src="data:image/{kind};base64,{data}">'
    )


def _tables(tables: Sequence[dict[str, Any]]) -> str:
    if not tables:
        return ""
    names = {"paper": "The paper", "ours": "Ours", "both": "The paper and ours"}
    cards = "".join(
        f"<div{' class=wide' if len(table['columns']) > _MAX_HALF else ''}>"
        f'<p class="side">{names[table["side"]]}</p>{html_table(table)}</div>\n'
        for table in interleaved(tables)
    )
    return f'<div class="tables">{cards}</div>\n'


def _how(record: dict[str, Any]) -> str:
    runs = record["runs"]
    versions = ", ".join(f"{name} {v}" for name, v in runs["versions"].items())
    facts = (
        ("Command", f"<code>{escape(record['command'])}</code>"),
        ("Runs", effort(runs)),
        ("Hardware", escape(runs["hardware"])),
        ("Versions", escape(versions)),
        ("Date", escape(runs["date"])),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    arms = [
        [
            label,
            "; ".join(f"{key} = {json.dumps(v)}" for key, v in changes.items() if v),
        ]
        for label, changes in record["overrides"].items()
    ]
    table = {"caption": "Arms", "columns": ["arm", "config and changes"], "rows": arms}
    blocks = html_table(table) if arms else ""
    if record["config"]:
        config = escape(json.dumps(record["config"], indent=1))
        blocks += f"<h4>Config of the first run</h4><pre>{config}</pre>"
    return (
        f"<details><summary>How it was run: {effort(runs)}</summary>"
        f"<dl>{listed}</dl>{blocks}</details>\n"
    )


def _items(items: Sequence[ItemStatus]) -> str:
    rows = []
    for item in items:
        name = escape(item.name)
        if item.anchors:
            name = f'<a href="#{escape(item.anchors[0])}">{name}</a>'
        mark = "supported" if item.status.startswith("done") else "undecided"
        command = f"<code>{escape(item.command)}</code>" if item.command else ""
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{escape(item.shows)}</td>'
            f'<td class="{mark}">{escape(item.status)}</td><td>{command}</td>'
            f"<td>{escape(item.needs or 'nothing more')}</td></tr>\n"
        )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Item", "Shows", "Here", "Command", "The paper’s own numbers need")
    )
    return (
        '<section id="items"><h2>Every item of the paper</h2>\n'
        "<p>With <code>--scale full --check</code> a command resolves the paper’s own "
        "setting, traces a step of each run and says what it would cost.</p>\n"
        f'<div class="table"><table class="summary"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>\n"
    )


def _badge(verdict: str) -> str:
    return f'<span class="badge {_slug(verdict)}">{SYMBOLS[verdict]} {verdict}</span>'


def _sentence(text: str) -> str:
    """The text as HTML, ending in one full stop."""
    return escape(f"{text.rstrip('. ')}.")


def _slug(text: str) -> str:
    return text.replace(" ", "-")
