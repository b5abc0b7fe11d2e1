"""Tables of results as Markdown and as HTML.

A table is a dict of `caption`, `columns` and `rows`; a cell is text, a number, None
(nothing there) or `{"mean": x, "std": s, "n": seeds}`. The digits of a
column follow from its spread over seeds, so that numbers can be compared by eye.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?( ± [\d.]+)?( ?%)?")


def mean_cell(values: Sequence[float], factor: float = 1.0) -> dict[str, Any] | None:
    """The cell of a metric over seeds; None without values.

    Args:
        factor: multiplies the values, such as 100 for percent.
    """
    if not values:
        return None
    mean = sum(values) / len(values)
    std = None
    if len(values) > 1:
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        std *= factor
    return {"mean": factor * mean, "std": std, "n": len(values)}


def markdown_table(table: Mapping[str, Any]) -> str:
    """The table in Markdown, numbers to the right; without its caption."""
    columns = [_escape(column) for column in table["columns"]]
    rows = [[_escape(cell) for cell in row] for row in written(table)]
    marks = ["--:" if right else "---" for right in _numeric(table)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, marks, *rows])


def html_table(table: Mapping[str, Any]) -> str:
    """The table in HTML, its caption told to screen readers only; text is escaped."""
    right = [' class="number"' if numeric else "" for numeric in _numeric(table)]
    head = "".join(
        f'<th scope="col"{mark}>{html.escape(str(column))}</th>'
        for column, mark in zip(table["columns"], right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{mark}>{html.escape(cell)}</td>"
            for cell, mark in zip(row, right, strict=True)
        )
        + "</tr>\n"
        for row in written(table)
    )
    # A box that scrolls, and that a keyboard reaches.
    return (
        '<div class="table" role="region" tabindex="0" '
        f'aria-label="{html.escape(table["caption"])}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def written(table: Mapping[str, Any]) -> list[list[str]]:
    """The cells as text.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    columns, rows = table["columns"], table["rows"]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"table {table.get('caption', '')!r} has {len(columns)} columns and a "
                f"row of {len(row)} cells: {row}"
            )
    digits = [column_digits([row[k] for row in rows]) for k in range(len(columns))]
    return [
        [cell_text(cell, d) for cell, d in zip(row, digits, strict=True)]
        for row in rows
    ]


def cell_text(cell: Any, digits: int) -> str:
    """`64.2 ± 0.3` for a mean over seeds, without spread for one seed."""
    if cell is None:
        return NOTHING
    if isinstance(cell, Mapping):
        mean, std = cell["mean"], cell.get("std")
        spread = "" if std is None or math.isnan(std) else f" ± {std:.{digits}f}"
        return _number(mean, digits) + spread
    return _number(cell, digits) if _is_number(cell) else str(cell)


def column_digits(cells: Sequence[Any]) -> int:
    """Decimals for a column: one significant digit of the pooled spread.

    Two if that digit is a 1. Without spreads three significant digits of the largest
    number, and none where all are whole.
    """
    spreads = [
        cell["std"]
        for cell in cells
        if isinstance(cell, Mapping) and cell.get("std") and cell["std"] > 0
    ]
    numbers = [
        cell["mean"] if isinstance(cell, Mapping) else cell
        for cell in cells
        if isinstance(cell, Mapping) or _is_number(cell)
    ]
    numbers = [abs(number) for number in numbers if math.isfinite(number)]
    most = max(numbers, default=0.0)
    if spreads:
        # Pooled, so that one pair of close seeds does not give the column many digits.
        spread = math.sqrt(sum(s**2 for s in spreads) / len(spreads))
        first = math.floor(math.log10(spread))
        # At least one where numbers are as small as percentages.
        digits = max(-first + (spread < 2 * 10.0**first), int(most < 100))
    elif all(float(number).is_integer() for number in numbers):
        return 0
    else:
        digits = 2 - math.floor(math.log10(most))
    return min(max(digits, 0), 6)


def _number(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "diverged" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    return f"{value:,.{digits}f}"


def _numeric(table: Mapping[str, Any]) -> list[bool]:
    """Whether a column holds numbers, also as text, in half of its rows or more."""
    rows = table["rows"]
    counts = [
        sum(
            isinstance(row[k], Mapping)
            or bool(_NUMBER.fullmatch(str(row[k])) or _is_number(row[k]))
            for row in rows
        )
        for k in range(len(table["columns"]))
    ]
    return [0 < len(rows) <= 2 * count for count in counts]


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _escape(cell: Any) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")
