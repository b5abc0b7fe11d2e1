"""The checkpoints of a run as they lie on the disk: sizes, state, what can go."""

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.retention import Retention
from vit_jax.storage.paths import medium

# Without a config.json beside the folder.
UNSAID = {
    "keep_last": 1,
    "keep_best": 0,
    "keep_every": "0steps",
    "best_metric": "accuracy",
}


class SavedStep(NamedTuple):
    """A saved step.

    Attributes:
        bytes: of all its files.
        date: of the commit, ISO 8601 in local time.
        kept: why the run keeps it, such as "last"; empty if it does not.
        state: "ok"; "damaged"; "unverified", which is without a manifest, as between
            the commit and the checksums, and is only checked by `--verify`.
        problem: what is damaged, in words.
    """

    step: int
    bytes: int
    date: str
    metrics: dict[str, float]
    kept: list[str]
    state: str
    problem: str


def find_directory(path: Path) -> Path:
    """The folder of the steps, given that or the folder of the run.

    Raises:
        ValueError: it is neither.
    """
    below, there = path / "checkpoints", medium(path).exists
    if there(below):
        return below
    if there(path) and (path.name == "checkpoints" or integrity.steps(path)):
        return path
    raise ValueError(
        f"{path} has no checkpoints: wanted the folder of a run or its checkpoints"
    )


def find_retention(directory: Path, arguments: argparse.Namespace) -> Retention:
    """What the command line says about what stays, and else the run's config.

    Raises:
        ValueError: pruning, and the config counts `keep_every` in epochs.
    """
    config = integrity.read_json(directory.parent / "config.json")
    section = UNSAID | (config["checkpoint"] if config else {})
    names = ("keep_last", "keep_best", "keep_every")
    said = {name: getattr(arguments, name) for name in names}
    said = {name: value for name, value in said.items() if value is not None}
    every, unit = section["keep_every"], "steps"
    if every.endswith(unit):
        section["keep_every"] = int(every.removesuffix(unit))
    elif arguments.prune and "keep_every" not in said:
        raise ValueError(
            f"this run keeps a step every {every}, which is not counted in steps: "
            "give --keep-every in steps"
        )
    else:
        section["keep_every"] = 0
    return Retention(**{name: section[name] for name in UNSAID} | said)


def look_at(folder: Path, kept: list[str], *, checksums: bool) -> SavedStep:
    """Reads what a step tells of itself and checks its files."""
    unverified = not medium(folder).exists(folder / integrity.MANIFEST)
    problem = (integrity.verify if checksums else integrity.verify_sizes)(folder)
    state = "unverified" if unverified and not checksums else "ok"
    saved = integrity.read_json(folder / integrity.METADATA)
    seconds = saved.get("commit_timestamp_nsecs", 0) / 1e9
    seconds = seconds or medium(folder).modified(folder)
    return SavedStep(
        step=int(folder.name),
        bytes=size(folder),
        date=datetime.fromtimestamp(seconds).isoformat(" ", "minutes"),
        metrics=integrity.read_metrics(folder),
        kept=kept,
        state="damaged" if problem else state,
        problem=problem,
    )


def look_at_all(
    directory: Path, retention: Retention, *, checksums: bool
) -> list[SavedStep]:
    """Every step, oldest first; one that a training removes meanwhile is left out."""
    kept = retention.kept(directory)
    found = []
    for step in integrity.steps(directory):
        folder = directory / str(step)
        try:
            row = look_at(folder, kept.get(step, []), checksums=checksums)
        except FileNotFoundError:
            continue
        if medium(folder).exists(folder):
            found.append(row)
    return found


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(medium(folder).files(folder).values())


def to_prune(found: list[SavedStep]) -> list[int]:
    """The steps that nothing keeps; the newest whole one always stays.

    Raises:
        RuntimeError: no step is known to be whole.
    """
    whole = [row.step for row in found if row.state == "ok"]
    if not whole:
        raise RuntimeError(
            "no step is known to be whole, so that nothing was removed; --verify also "
            "looks at those without a manifest"
        )
    return [row.step for row in found if not row.kept and row.step != whole[-1]]


def table(found: list[SavedStep]) -> str:
    """The steps as aligned columns."""
    lines = [("step", "size", "saved", "kept as", "state", "metrics")]
    for row in found:
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
