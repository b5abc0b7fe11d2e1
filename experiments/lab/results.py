"""The results that experiments left in folders, read and checked for the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from experiments.lab.frame import EXPERIMENTS, load_experiment
from experiments.lab.items import ITEMS, item_names
from experiments.lab.statistics import Verdict
from experiments.lab.tables import written

VERDICTS = get_args(Verdict)
SIDES = ("ours", "paper", "both")
_KEYS = {
    "": "name item title question scale status tables figures claims runs config "
    "overrides command notes",
    "tables": "caption side columns rows",
    "figures": "caption ours paper",
    "claims": "claim criterion verdict numbers comment",
    "runs": "count seeds seconds hardware versions date",
}


class StoredResult(NamedTuple):
    """The content of a `result.json`, and its folder."""

    record: dict[str, Any]
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
    """Reads the results, in the order of `EXPERIMENTS`.

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
                record = json.loads(path.read_text())
                check_record(record)
            except (OSError, ValueError) as error:
                problems.append(f"{path} cannot be used: {error}")
                continue
            results.append(StoredResult(record, path.parent))
            problems += missing_figures(results[-1])
    order = {name: number for number, name in enumerate(EXPERIMENTS)}
    # The sort is stable: results of one experiment stay in the order of the folders.
    results.sort(key=lambda one: order.get(one.record["name"], len(order)))
    return Report(results, item_statuses(results), problems)


def check_record(record: Any) -> None:
    """Raises ValueError unless a result has everything that the report shows."""
    check_keys(record, "", "the result")
    for group in ("tables", "figures", "claims"):
        for number, entry in enumerate(record[group]):
            check_keys(entry, group, f"{group}[{number}]")
    check_keys(record["runs"], "runs", "runs")
    for table in record["tables"]:
        check_choice(table["side"], SIDES, f"side of table {table['caption']!r}")
        written(table)
    for claim in record["claims"]:
        check_choice(claim["verdict"], VERDICTS, f"verdict of {claim['claim']!r}")


def check_keys(entry: Any, group: str, place: str) -> None:
    """Raises ValueError unless the entry is a dict with the keys of its group."""
    if not isinstance(entry, dict):
        raise ValueError(f"{place} is no object: got {type(entry).__name__}")
    if missing := set(_KEYS[group].split()) - entry.keys():
        raise ValueError(f"{place} has no {', '.join(sorted(missing))}")


def check_choice(value: Any, choices: Sequence[str], place: str) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{place} is {value!r}: wanted {', '.join(choices)}")


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
