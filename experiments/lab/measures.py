"""What is measured of a finished run, kept beside it as JSON.

A run that was trained elsewhere has these files and no checkpoint, so that what is not
among them cannot be measured any more.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import write_atomically


class MissingMeasure(ValueError):
    """A run has neither a measure nor a checkpoint to measure it on."""


def require_checkpoint(folder: Path, what: str) -> None:
    """Raises MissingMeasure if a run has no checkpoint to make `what` from."""
    if not (folder / "checkpoints").is_dir():
        raise MissingMeasure(
            f"{folder} has no {what}, and no checkpoint to make it from: start the "
            "experiment without this folder, and the run is trained again"
        )


def kept(path: Path, measure: Callable[[], Any], kind: Any = dict[str, float]) -> Any:
    """The content of a file, measured and written if it is not there, or damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_json(path, kind)
    found = measure()
    # Arrays on one line, since each number has a line of its own otherwise.
    style = {"indent": 1} if isinstance(found, dict) else {"separators": (",", ":")}
    write_atomically(path, json.dumps(found, **style) + "\n")
    print(f"{path.parent.parent.name}/{path.parent.name}: {path.name}", flush=True)
    return found


def of_run(path: Path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """As `kept`, of a run whose folder holds the file.

    Raises:
        MissingMeasure: the file is not there, and the run has no checkpoint.
    """
    return kept(path, _checked(path, measure))


def array_of_run(path: Path, measure: Callable[[], np.ndarray]) -> np.ndarray:
    """As `of_run`, of a small array: thousands of numbers with few digits."""
    measured = _checked(path, measure)
    return np.array(kept(path, lambda: measured().tolist(), list[Any]))


def _checked(path: Path, measure: Callable[[], Any]) -> Callable[[], Any]:
    def checked() -> Any:
        require_checkpoint(path.parent, path.name)
        return measure()

    return checked


def scale_of(folder: Path) -> str:
    """The scale of a run by its folder, `.../SCALE/runs/MODEL/SEED`."""
    return folder.parts[-4]
