"""The results of an experiment: tables, figures and claims, as the report has them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from experiments.lab.statistics import (
    Direction,
    Interval,
    Verdict,
    all_of,
    joint_level,
    room,
    verdict,
)

# A reader quotes the headline claims, so that these are corrected for being so many:
# their intervals hold all at once with 95 %.
HEADLINES = 22
HEADLINE_LEVEL = joint_level(HEADLINES)
# Parts of a claim whose intervals are written out.
SHOWN = 2


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
    """A sentence of the paper, judged by a criterion that code evaluates.

    Attributes:
        headline: one of the `HEADLINES` that a reader may quote.
        level: at which the intervals that judge it hold, those of all its parts
            together; None if it is exact, and chance can make no error.
    """

    claim: str
    criterion: str
    verdict: Verdict
    numbers: str
    comment: str = ""
    headline: bool = False
    level: float | None = None


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


def claim_level(parts: int = 1, *, headline: bool = False) -> float:
    """The level that the interval of a claim needs, or that of each of its parts."""
    return joint_level(parts, HEADLINE_LEVEL if headline else 0.95)


def criterion(
    quantity: str,
    level: float,
    direction: Direction = ">",
    bound: float = 0.0,
    *,
    parts: int = 1,
    unit: str = "points",
    factor: float = 100.0,
) -> str:
    """The rule of `judged` in words, also for `Experiment.criteria` before the runs.

    For example `test accuracy: hybrid minus ViT: the whole 95 % interval is above 0`.

    Args:
        level: of the interval, or of that of each part.
        parts: how many the claim has.
        unit, factor: of the bound, as in `judged`.
    """
    side = {">": "above", "<": "below", "within": "within"}[direction]
    place = f"{factor * bound:.4g}"
    if unit and (bound or direction == "within"):
        place += f" {unit}"
    if direction == "within":
        place += " of 0"
    interval = f"{100 * level:.3g} % interval" + " of each part" * (parts > 1)
    return f"{quantity}: the whole {interval} is {side} {place}"


def judged(
    claim: str,
    quantity: str,
    interval: Interval | Mapping[str, Interval],
    direction: Direction = ">",
    bound: float = 0.0,
    *,
    unit: str = "points",
    factor: float = 100.0,
    sign: bool = True,
    paper: str = "",
    comment: str = "",
    headline: bool = False,
) -> Claim:
    """The claim that a quantity lies where the paper says, judged by its interval.

    Args:
        quantity: what is measured, for the words of `criterion`: which arm minus which
            other, and what the parts are.
        interval: of the quantity; for a claim of several parts those of all of them, by
            name. Levels are those of `claim_level`, or higher.
        direction, bound: the range that is claimed, see `statistics.verdict`.
        unit, factor, sign: see `Interval.text`; by default shares are shown in points.
        paper: the paper's own number, "" if it has none.

    Raises:
        ValueError: the level of an interval is too low for a headline or for so many
            parts.
    """
    parts = interval if isinstance(interval, Mapping) else {"": interval}
    wanted = claim_level(len(parts), headline=headline)
    for name, part in parts.items():
        if part.level < wanted - 1e-9:
            raise ValueError(
                f"{claim!r} {name}: the interval has level {part.level:g}, but one of "
                f"{len(parts)} parts{' of a headline' * headline} needs {wanted:g}"
            )
    weakest = sorted(parts, key=lambda name: room(parts[name], direction, bound))
    numbers = "; ".join(
        f"{name}: " * bool(name) + parts[name].text(unit, factor, sign)
        for name in weakest[:SHOWN]
    )
    numbers += f"; the weakest of {len(parts)} parts" * (len(parts) > SHOWN)
    numbers += f"; the paper: {paper}" if paper else ""
    judgement = all_of([verdict(part, direction, bound) for part in parts.values()])
    rule = criterion(
        quantity,
        min(part.level for part in parts.values()),
        direction,
        bound,
        parts=len(parts),
        unit=unit,
        factor=factor,
    )
    level = claim_level(headline=headline)
    return Claim(claim, rule, judgement, numbers, comment, headline, level)


def judged_small(
    claim: str,
    quantity: str,
    effect: Interval,
    parts: Mapping[str, Interval],
    **text: Any,
) -> Claim:
    """The claim that differences are smaller than an effect that was measured too.

    Args:
        quantity: the effect minus and plus each difference, in words.
        effect: undecided is what the claim stays unless this is above 0.
        parts: both intervals of `contrasts.margins` for each difference, by name.
        text: arguments of `judged`.
    """
    found = judged(claim, quantity, parts, **text)
    level = f"{100 * effect.level:.3g} %"
    rule = f"{found.criterion}, and so is that of the effect at {level}"
    found = found._replace(criterion=rule)
    if verdict(effect, ">") == "supported":
        return found
    numbers = f"no effect to compare with: {effect.text('points', 100, sign=True)}"
    return found._replace(verdict="undecided", numbers=numbers)


def out_of_reach(claim: str, criterion: str, needs: str) -> Claim:
    """A claim about amounts of data or compute that no run of this scale has.

    Args:
        needs: what it would take to judge it.
    """
    return Claim(claim, criterion, "out of reach here", f"it would take {needs}")


def unless_beyond(claim: Claim, needs: str) -> Claim:
    """A claim that something happens from some amount on, which may lie beyond here.

    Runs of less than that amount can support such a claim and cannot refute it: in the
    place of "not supported" the verdict is "out of reach here".

    Args:
        needs: what it would take to judge it.
    """
    if claim.verdict != "not supported":
        return claim
    comment = f"It would take {needs}. {claim.comment}".strip()
    return claim._replace(verdict="out of reach here", comment=comment)


def expected_false(claims: Iterable[Mapping[str, Any]]) -> float:
    """How many verdicts chance alone makes wrong, at most, among claims as records.

    A claim that is judged at 95 % is decided wrongly in 5 % of cases if its quantity
    lies at the bound, and in fewer if it lies elsewhere.
    """
    levels = (interval_level(claim) for claim in claims)
    return sum(1 - level for level in levels if level is not None)


def interval_level(claim: Mapping[str, Any]) -> float | None:
    """The level at which intervals judged a claim as a record; None if none did.

    Older records do not say it, and count as judged by intervals.
    """
    if claim["verdict"] == "out of reach here":
        return None
    return claim.get("level", claim_level(headline=claim.get("headline", False)))
