"""The results that experiments left in folders, read and checked for the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict, get_args

from experiments.lab.frame import EXPERIMENTS, SCALES, load_experiment
from experiments.lab.items import ITEMS, item_names
from experiments.lab.registration import Registration
from experiments.lab.statistics import Verdict
from vit_jax.storage.json_files import read_json
from vit_jax.values import Choice, Condition

VERDICTS = get_args(Verdict)
SIDES = ("ours", "paper", "both")


class TableRecord(TypedDict):
    """A `records.Table`."""

    caption: str
    side: Annotated[str, Choice(*SIDES)]
    columns: list[str]
    rows: list[list[Any]]


def has_all_cells(table: TableRecord) -> bool:
    """Whether each row has a cell in each column."""
    return all(len(row) == len(table["columns"]) for row in table["rows"])


WholeTable = Annotated[TableRecord, Condition("a cell in each column", has_all_cells)]


class FigureRecord(TypedDict):
    """A `records.Figure`."""

    caption: str
    ours: str
    paper: str


class ClaimRecord(TypedDict):
    """A `records.Claim`."""

    claim: str
    criterion: str
    verdict: Annotated[str, Choice(*VERDICTS)]
    numbers: str
    comment: str
    headline: NotRequired[bool]  # one of the few that the report begins with
    level: NotRequired[float | None]  # older results do not have it


class RunsRecord(TypedDict):
    """What the runs were, and what they took."""

    count: int
    seeds: int
    seconds: float
    hardware: str
    versions: dict[str, str]
    date: str


class Record(TypedDict):
    """The content of a `result.json`, as far as the report shows it."""

    name: str
    item: str
    title: str
    question: str
    scale: Annotated[str, Choice(*SCALES)]
    status: str
    tables: list[WholeTable]
    figures: list[FigureRecord]
    claims: list[ClaimRecord]
    runs: RunsRecord
    config: dict[str, Any]
    overrides: dict[str, dict[str, Any]]
    command: str
    notes: str
    registered: NotRequired[Registration | None]


class StoredResult(NamedTuple):
    """The content of a `result.json`, and its folder."""

    record: Record
    folder: Path

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return f"{self.record['name']}-{self.record['scale']}"


class ItemStatus(NamedTuple):
    """Whether an item of the paper was reproduced, and by which command."""

    name: str
    shows: str
    status: str  # "done (mini, small)", "not run", "no experiment"
    command: str  # that runs it, "" if none does
    needs: str  # for the paper's own numbers
    anchors: Sequence[str]  # of its results


class Report(NamedTuple):
    """The contents of the page."""

    results: Sequence[StoredResult]
    items: Sequence[ItemStatus]
    problems: Sequence[str]  # files that could not be used, one sentence each


def read_report(folders: Sequence[Path]) -> Report:
    """Reads the results, in the order of `EXPERIMENTS`, and others behind them.

    Of the results of one experiment that of the largest scale comes first.

    Raises:
        ValueError: a folder that is not there.
    """
    results, problems = [], []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"no folder {folder}: wanted one that holds <experiment>/result.json, "
                "as `python -m experiments.all` leaves it"
            )
        for path in sorted(folder.glob("*/result.json")):
            try:
                results.append(StoredResult(read_json(path, Record), path.parent))
            except (OSError, ValueError) as error:
                problems.append(f"a result cannot be used: {error}")
                continue
            problems += missing_figures(results[-1])
    order = {name: number for number, name in enumerate(EXPERIMENTS)}
    results.sort(
        key=lambda one: (
            order.get(one.record["name"], len(order)),
            one.record["name"],
            -SCALES.index(one.record["scale"]),
        )
    )
    return Report(results, item_statuses(results), problems)


def missing_figures(one: StoredResult) -> list[str]:
    """A sentence for each figure that the result names but that does not exist."""
    return [
        f"{one.folder / figure[side]} is not there: named in {one.folder}/result.json"
        for figure in one.record["figures"]
        for side in ("paper", "ours")
        if figure[side] and not (one.folder / figure[side]).is_file()
    ]


def item_statuses(results: Sequence[StoredResult]) -> list[ItemStatus]:
    """A line for each item of the paper, run or not."""
    planned: dict[str, str] = {}
    for name in EXPERIMENTS:
        try:
            experiment = load_experiment(name)
        except (ImportError, AttributeError):
            continue  # Its items are then listed as having no experiment.
        for item in item_names(experiment.item):
            planned.setdefault(item, f"python -m experiments.{name}")
    statuses = []
    for item in ITEMS:
        ours = [one for one in results if item.name in item_names(one.record["item"])]
        if ours:
            parts = [f"{one.record['status']} ({one.record['scale']})" for one in ours]
            status, command = ", ".join(parts), ours[0].record["command"]
        else:
            command = planned.get(item.name, "")
            status = "not run" if command else "no experiment"
        anchors = [one.anchor for one in ours]
        statuses.append(
            ItemStatus(item.name, item.shows, status, command, item.needs, anchors)
        )
    return statuses
