"""The results of an experiment: tables, figures and claims, as the report has them."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from experiments.lab.statistics import Direction, Interval, Verdict, verdict


class Table(NamedTuple):
    """A table; a cell is text, a number, None, or a mean as `tables.mean_cell` has it.

    Attributes:
        side: whose numbers are in it.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    side: Literal["ours", "paper", "both"] = "ours"


class Figure(NamedTuple):
    """PNG files in the experiment's folder, "" for none; each has an SVG and a CSV."""

    caption: str
    ours: str = ""
    paper: str = ""


def pair(caption: str, stem: str) -> Figure:
    """Our figure and the paper's, in `<stem>.png` and `<stem>_paper.png`."""
    return Figure(caption, f"{stem}.png", f"{stem}_paper.png")


class Claim(NamedTuple):
    """A sentence of the paper, judged by a criterion that code evaluates."""

    claim: str
    criterion: str
    verdict: Verdict
    numbers: str
    comment: str = ""


class Conclusion(NamedTuple):
    """The outcome of an experiment.

    Attributes:
        notes: results that did not reproduce, the likely reasons, limits of the scale.
        status: "done", or what is missing.
    """

    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    claims: Sequence[Claim] = ()
    notes: str = ""
    status: str = "done"

    def record(self) -> dict[str, Any]:
        """The same as plain data, for `result.json`."""
        groups = ("tables", "figures", "claims")
        return self._asdict() | {
            group: [one._asdict() for one in getattr(self, group)] for group in groups
        }


def judged(
    claim: str,
    criterion: str,
    interval: Interval,
    direction: Direction = ">",
    bound: float = 0.0,
    *,
    unit: str = "points",
    factor: float = 100.0,
    paper: str = "",
    comment: str = "",
) -> Claim:
    """The claim that a quantity lies where the paper says, judged by its interval.

    Args:
        direction, bound: the range that is claimed, see `statistics.verdict`.
        unit, factor: of the numbers as text; by default shares are shown in points.
        paper: the paper's own number, "" if it has none.
    """
    numbers = interval.text(unit, factor, sign=True)
    numbers += f"; the paper: {paper}" if paper else ""
    return Claim(
        claim, criterion, verdict(interval, direction, bound), numbers, comment
    )
