"""Criteria written down before the runs, so that no rule is chosen by its result.

The first start of an experiment that states its `criteria` writes them into a file,
with the commit; every later one compares. With `--keep` the file is in the repository.
"""

import datetime
import json
import subprocess
from pathlib import Path
from typing import NotRequired, TypedDict

from experiments.lab.frame import Experiment
from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import write_atomically


class Criteria(TypedDict):
    """The content of the file; the commit is "" outside of a repository."""

    date: str
    commit: str
    criteria: list[str]


class Registration(TypedDict):
    """What the report says of it.

    Attributes:
        changed: criteria that are not in the file: they were changed or added.
        withdrawn: those in the file that are no longer stated, also in these words.
    """

    date: str
    commit: str
    changed: list[str]
    withdrawn: NotRequired[list[str]]  # older results do not have it


def register(
    name: str, experiment: Experiment, scale: str, folder: Path
) -> Registration | None:
    """Writes the criteria if there is no file yet, else compares with it.

    Args:
        folder: of all scales; the file is `<folder>/<scale>/criteria/<name>.json`.

    Returns:
        None for an experiment that states none.

    Raises:
        ValueError: the file is damaged.
    """
    wanted = list(experiment.criteria(scale))
    if not wanted:
        return None
    path = folder / scale / "criteria" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        today = datetime.date.today().isoformat()
        written = Criteria(date=today, commit=commit(), criteria=wanted)
        write_atomically(path, json.dumps(written, indent=1) + "\n")
    found = read_json(path, Criteria)
    return Registration(
        date=found["date"],
        commit=found["commit"],
        changed=[one for one in wanted if one not in found["criteria"]],
        withdrawn=[one for one in found["criteria"] if one not in wanted],
    )


def commit() -> str:
    """The commit of the code, "+" behind it if files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=10"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
