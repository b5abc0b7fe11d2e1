"""The report as one HTML page: style, filter and figures inside, no network."""

from collections.abc import Container, Sequence
from html import escape
from pathlib import Path

from experiments.lab.report_how import how
from experiments.lab.report_images import data_uri
from experiments.lab.report_text import (
    INTRODUCTION,
    MEANINGS,
    MOST_ROWS,
    SYMBOLS,
    TIMES,
    by_experiment,
    count_line,
    effort,
    findings,
    interleaved,
    parts_of,
    scale_lines,
    verdict_counts,
)
from experiments.lab.results import (
    ClaimRecord,
    FigureRecord,
    ItemStatus,
    Report,
    StoredResult,
    TableRecord,
)
from experiments.lab.tables import html_table

SIDES = {"paper": "The paper", "ours": "Ours", "both": "The paper and ours"}


def page(report: Report) -> str:
    """The whole page."""
    folder = Path(__file__).parent
    groups = by_experiment(report.results)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<title>The paper, reproduced</title>\n"
        f"<style>\n{(folder / 'report.css').read_text()}</style>\n</head>\n"
        f'<body>\n<main>\n<div class="found">\n{_found(report)}</div>\n'
        f'{_contents(groups)}<div class="items">\n{_problems(report.problems)}'
        f"{''.join(map(_experiment, groups))}{_items(report.items)}</div>\n</main>\n"
        f"<script>\n{(folder / 'report.js').read_text()}</script>\n</body>\n</html>\n"
    )


def _found(report: Report) -> str:
    lines = "".join(
        f'<li>{_badge(claim["verdict"])}<div><a href="#{_anchor(source)}">'
        f"{escape(claim['claim'])}</a>: {_numbers(claim)} "
        f'<span class="quiet">{escape(source.record["item"])}, '
        f"{escape(source.record['scale'])}</span></div></li>\n"
        for claim, source in findings(report.results)
    )
    counts = count_line(report.results) if report.results else "No results."
    meanings = "".join(
        f"<dt>{_badge(name)}</dt><dd>{text}</dd>" for name, text in MEANINGS.items()
    )
    scales = "".join(f"<li>{escape(x)}</li>" for x in scale_lines(report.results))
    return (
        f"<header>\n<h1>The paper, reproduced</h1>\n<p>{INTRODUCTION}</p>\n</header>\n"
        '<section id="found">\n<h2>What was found</h2>\n'
        f"{f'<ul class=findings>{lines}</ul>' if lines else ''}"
        f"<p>{escape(counts)}</p>\n"
        "<details><summary>What the verdicts and the times mean</summary>\n"
        f"<dl>{meanings}</dl>\n<p>Code evaluates each criterion; [1, 3] is a "
        f"confidence interval over seeds, at 95 % or the level that it names.</p>\n"
        f"<p>{TIMES}</p>\n"
        f'<ul class="scales">{scales}</ul>\n</details>\n</section>\n'
    )


def _contents(groups: Sequence[Sequence[StoredResult]]) -> str:
    links = "".join(
        f'<li><a href="#{escape(group[0].record["name"])}">'
        f"{escape(group[0].record['title'])}</a> "
        f"{_tally(group[0])}</li>\n"
        for group in groups
    )
    results = [one for group in groups for one in group]
    choices = _choice("verdict", list(verdict_counts(results)))
    scales = list(dict.fromkeys(one.record["scale"] for one in results))
    if len(scales) > 1:
        choices += _choice("scale", scales)
    return (
        '<nav aria-labelledby="contents">\n<h2 id="contents">Contents</h2>\n'
        f'<form id="filter" hidden>{choices}</form>\n<ol>\n{links}</ol>\n'
        '<p><a href="#items">Every item of the paper</a></p>\n</nav>\n'
    )


def _choice(name: str, values: Sequence[str]) -> str:
    options = "".join(f'<option value="{v}">{v}</option>' for v in values)
    return (
        f'<label>{name} <select name="{name}"><option value="">all</option>{options}'
        "</select></label>\n"
    )


def _tally(one: StoredResult) -> str:
    counts = verdict_counts([one])
    listed = " ".join(
        f'<span title="{number} {name}">{number} {SYMBOLS[name]}</span>'
        for name, number in counts.items()
    )
    return f'<span class="tally">{listed}</span>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return (
        '<section class="problems"><h2>Files that could not be used</h2>'
        f"<ul>{lines}</ul></section>\n"
    )


def _experiment(group: Sequence[StoredResult]) -> str:
    """All results of an experiment: the first in full view, smaller scales folded.

    These are without figures, which would double the page's size.
    """
    record = group[0].record
    return (
        f'<article id="{escape(record["name"])}">\n'
        f'<p class="item">{escape(record["item"])}</p>\n'
        f"<h2>{escape(record['title'])}</h2>\n"
        f'<p class="question">{escape(record["question"])}</p>\n'
        f'<section class="result" {_names(group[0])}>\n{_line(group[0], "h3")}'
        f"{_claims(group[0])}{_figures(group[0])}{_rest(group[0], SIDES)}</section>\n"
        + "".join(
            f'<details class="result" {_names(one)}>\n'
            f"<summary>{_line(one, 'span')}</summary>\n"
            # The paper's own tables stand above already.
            f"{_claims(one)}{_rest(one, ('ours', 'both'))}</details>\n"
            for one in group[1:]
        )
        + "</article>\n"
    )


def _names(one: StoredResult) -> str:
    return f'id="{_anchor(one)}" data-scale="{escape(one.record["scale"])}"'


def _line(one: StoredResult, tag: str) -> str:
    record = one.record
    status = "" if record["status"] == "done" else f" · {escape(record['status'])}"
    return (
        f'<{tag} class="line">{escape(record["scale"])}{status} '
        f'<span class="quiet">{effort(record["runs"])} · {_tally(one)}</span>'
        f"</{tag}>\n"
    )


def _claims(one: StoredResult) -> str:
    return f'<div class="claims">\n{"".join(map(_claim, one.record["claims"]))}</div>\n'


def _figures(one: StoredResult) -> str:
    return "".join(_figure(figure, one.folder) for figure in one.record["figures"])


def _rest(one: StoredResult, sides: Container[str]) -> str:
    """The tables of some sides, the notes, and how it was run."""
    tables = [table for table in one.record["tables"] if table["side"] in sides]
    return (
        f'<div class="tables">{"".join(map(_table, interleaved(tables)))}</div>\n'
        f"{_notes(one.record['notes'])}{how(one.record)}"
    )


def _claim(claim: ClaimRecord) -> str:
    comment = f"<p>{escape(claim['comment'])}</p>" if claim["comment"] else ""
    tips = dict.fromkeys(tip for _, tip in parts_of(claim["numbers"]) if tip)
    return (
        f'<details class="claim" data-verdict="{claim["verdict"]}"><summary>'
        f"{_badge(claim['verdict'])}<span><strong>{_sentence(claim['claim'])}</strong> "
        f"{_numbers(claim)}</span></summary>"
        f"<p>Criterion: {_sentence(claim['criterion'])}</p>"
        f"{''.join(f'<p>{_sentence(tip)}</p>' for tip in tips)}{comment}</details>\n"
    )


def _numbers(claim: ClaimRecord) -> str:
    """The numbers, with the method of an interval as its tooltip."""
    return "".join(
        f'<span class="interval" title="{escape(tip)}">{escape(text)}</span>'
        if tip
        else escape(text)
        for text, tip in parts_of(claim["numbers"])
    )


def _figure(figure: FigureRecord, folder: Path) -> str:
    caption = figure["caption"]
    shown = [(SIDES[side], figure[side]) for side in ("paper", "ours") if figure[side]]
    pictures = "".join(
        f'<div><p class="side">{side}</p>'
        f"{_picture(folder / name, f'{side}: {caption}')}</div>"
        for side, name in shown
    )
    wide = " wide" if len(shown) == 1 else ""
    return (
        f'<figure><div class="pair{wide}">{pictures}</div>'
        f"<figcaption>{_sentence(caption)}</figcaption></figure>\n"
    )


def _picture(path: Path, text: str) -> str:
    if not path.is_file():
        return f'<p class="missing">{escape(path.name)} is missing</p>'
    return f'<img alt="{escape(text)}" loading="lazy" src="{data_uri(path)}">'


def _table(table: TableRecord) -> str:
    """A table with its caption; folded if it is long."""
    rows = len(table["rows"])
    name = f"<strong>{SIDES[table['side']]}</strong> {escape(table['caption'])}"
    if rows > MOST_ROWS:
        return (
            f"<details><summary>{name} ({rows} rows)</summary>{html_table(table)}"
            "</details>\n"
        )
    return f'<div><p class="side">{name}</p>{html_table(table)}</div>\n'


def _notes(notes: str) -> str:
    if not notes:
        return ""
    return (
        '<details class="notes"><summary>Limits, and what did not reproduce</summary>'
        f"<p>{escape(notes)}</p></details>\n"
    )


def _items(items: Sequence[ItemStatus]) -> str:
    rows = []
    for item in items:
        name = escape(item.name)
        if item.anchors:
            name = f'<a href="#{escape(item.anchors[0])}">{name}</a>'
        command = f"<code>{escape(item.command)}</code>" if item.command else ""
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{escape(item.shows)}</td>'
            f"<td>{escape(item.status)}</td><td>{command}</td>"
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
        '<div class="table" role="region" tabindex="0" aria-label="Items of the paper">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody>"
        "</table></div></section>\n"
    )


def _badge(verdict: str) -> str:
    return (
        f'<span class="badge {verdict.replace(" ", "-")}" title="{MEANINGS[verdict]}">'
        f"{SYMBOLS[verdict]} {verdict}</span>"
    )


def _sentence(text: str) -> str:
    """The text as HTML, ending in one full stop."""
    return escape(f"{text.rstrip('. ')}.")


def _anchor(one: StoredResult) -> str:
    return escape(one.anchor)
