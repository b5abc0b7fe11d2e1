"""Rows of what was compiled, a line of JSON each."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vit_jax.storage.paths import write_atomically

FOLDER = Path("docs/results")
# Of this folder's three commands: the runs of all configs, and two comparisons.
RUNS = FOLDER / "accelerators.jsonl"
BIG_VISION = FOLDER / "big_vision.jsonl"
HANDWRITTEN = FOLDER / "handwritten.jsonl"
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def save(path: Path, rows: Iterable[Row]) -> None:
    """Writes all rows of a file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
