"""The checkpoints of a run: sizes, state, and which can be removed."""

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.retention import Retention
from vit_jax.config import parse_duration
from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import medium
from vit_jax.storage.run_files import CONFIG

# Used where there is no config.json beside the folder.
DEFAULTS = {
    "keep_last": 1,
    "keep_best": 0,
    "keep_every": "0steps",
    "best_metric": "accuracy",
}


class Kept(TypedDict, total=False):
    """The section `checkpoint` of a config, as far as it is read here."""

    keep_last: int
    keep_best: int
    keep_every: str
    best_metric: str


class KeptConfig(TypedDict):
    """A config, as far as it is read here."""

    checkpoint: Kept


class SavedStep(NamedTuple):
    """A saved step.

    Attributes:
        bytes: size of all its files.
        date: time of the commit, ISO 8601 in local time.
        kept: why the run keeps it, such as "last"; empty if it does not.
        state: "ok"; "damaged"; "unverified", which has no manifest yet and is only
            checked by `--verify`.
        problem: what is damaged; empty if nothing is.
    """

    step: int
    bytes: int
    date: str
    metrics: dict[str, float]
    kept: list[str]
    state: str
    problem: str


def find_directory(path: Path) -> Path:
    """The folder of the steps, from that or from the folder of the run.

    Raises:
        ValueError: the path is neither.
    """
    below, exists = path / "checkpoints", medium(path).exists
    if exists(below):
        return below
    if exists(path) and (path.name == "checkpoints" or integrity.steps(path)):
        return path
    raise ValueError(
        f"{path} has no checkpoints: wanted the folder of a run or its checkpoints"
    )


def find_retention(directory: Path, arguments: argparse.Namespace) -> Retention:
    """Which steps stay by the command line, or else by the run's config.

    Raises:
        ValueError: the config is damaged; or steps are to be pruned, and `keep_every`
            is in epochs.
    """
    path, section = directory.parent / CONFIG, dict(DEFAULTS)
    if medium(path).exists(path):
        section |= read_json(path, KeptConfig)["checkpoint"]
    names = ("keep_last", "keep_best", "keep_every")
    flags = {name: getattr(arguments, name) for name in names}
    flags = {name: value for name, value in flags.items() if value is not None}
    every = section["keep_every"]
    if every.endswith(("step", "steps")):
        section["keep_every"] = parse_duration(
            every, batch_size=1, examples_per_epoch=1
        )
    elif arguments.prune and "keep_every" not in flags:
        raise ValueError(
            f"this run keeps a step every {every}, which is not counted in steps: "
            "give --keep-every in steps"
        )
    else:
        section["keep_every"] = 0
    return Retention(**{name: section[name] for name in DEFAULTS} | flags)


def look_at(folder: Path, kept: list[str], *, checksums: bool) -> SavedStep:
    """Reads the metadata of a step and checks its files."""
    unverified = not medium(folder).exists(folder / integrity.MANIFEST)
    problem = (integrity.verify if checksums else integrity.verify_sizes)(folder)
    state = "unverified" if unverified and not checksums else "ok"
    date = datetime.fromtimestamp(integrity.saved_at(folder))
    return SavedStep(
        step=int(folder.name),
        bytes=size(folder),
        date=date.isoformat(" ", "minutes"),
        metrics=integrity.read_metrics(folder),
        kept=kept,
        state="damaged" if problem else state,
        problem=problem,
    )


def look_at_all(
    directory: Path, retention: Retention, *, checksums: bool
) -> list[SavedStep]:
    """Every step, oldest first, but for those that a training removes meanwhile."""
    kept = retention.kept(directory)
    rows = []
    for step in integrity.steps(directory):
        folder = directory / str(step)
        try:
            row = look_at(folder, kept.get(step, []), checksums=checksums)
        except FileNotFoundError:
            continue
        if medium(folder).exists(folder):
            rows.append(row)
    return rows


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(medium(folder).files(folder).values())


def to_prune(rows: list[SavedStep]) -> list[int]:
    """The steps that nothing keeps; the newest whole one always stays.

    Raises:
        RuntimeError: no step is known to be whole.
    """
    whole = [row.step for row in rows if row.state == "ok"]
    if not whole:
        raise RuntimeError(
            "no step is known to be whole, so that nothing was removed; --verify also "
            "looks at those without a manifest"
        )
    return [row.step for row in rows if not row.kept and row.step != whole[-1]]


def table(rows: list[SavedStep]) -> str:
    """The steps as aligned columns."""
    lines = [("step", "size", "saved", "kept as", "state", "metrics")]
    for row in rows:
        values = (f"{name} {value:.4g}" for name, value in row.metrics.items())
        lines.append(
            (
                str(row.step),
                f"{row.bytes / 1e6:.1f} MB",
                row.date,
                ", ".join(row.kept) or "-",
                f"{row.state}: {row.problem}" if row.problem else row.state,
                "  ".join(values),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [cell.rjust(width) for cell, width in zip(line[:2], widths, strict=False)]
            + [cell.ljust(w) for cell, w in zip(line[2:], widths[2:], strict=True)]
        ).rstrip()
        for line in lines
    )


def leftovers(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Folders beside the steps: damaged ones put aside, and unfinished saves."""
    unfinished = medium(directory).unfinished(directory)
    damaged = medium(directory).folders(directory.parent / "damaged")
    return {
        kind: [{"path": str(path), "bytes": size(path)} for path in sorted(paths)]
        for kind, paths in {"damaged": damaged, "unfinished": unfinished}.items()
    }
