"""The JSON files of a run folder: what each holds, and how it is read.

Checkpoints have theirs in `checkpoints/integrity.py`, whose checksums cover the config
and the labels of a step: that config is the true one, and `config.json` is compared
with it.
"""

import logging
import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import ml_collections

from vit_jax.config import ConfigError, difference, lists_to_tuples
from vit_jax.storage.json_files import parse, read_json
from vit_jax.storage.paths import medium
from vit_jax.values import Measured, problem

CONFIG, METRICS = "config.json", "metrics.jsonl"
logger = logging.getLogger(__name__)

# Keys that do not change a single number of the run.
CHANGEABLE_KEYS = (
    "log.",
    "checkpoint.",
    "mesh.",
    "guard.",
    "model.scan",
    "model.remat",
    "train.step_timeout",
    "train.deterministic",
    "eval.batch_size",
    "fewshot.",
    "knn.",
    "data.workers",
    "data.num_threads",
    "data.cache",
    "data.data_dir",
    "data.stage",
)


class RunConfig(TypedDict):
    """What every config has had since the first run."""

    model: dict[str, Any]
    data: dict[str, Any]
    loss: dict[str, Any]
    train: dict[str, Any]
    init: str
    seed: int


class RecordList(TypedDict):
    """The records of a split, as `data/record_list.py` describes them."""

    images: int
    names: str
    bytes: int


class MeterState(TypedDict):
    """The metrics of steps that no row of `metrics.jsonl` has yet."""

    sums: dict[str, Measured]
    count: int
    late: list[dict[str, Measured] | None]


class StepFacts(TypedDict):
    """What a run says of a step besides its arrays; the first runs say less."""

    next_index: int | None
    label_names: list[str]
    config: RunConfig
    versions: NotRequired[dict[str, str]]
    records: NotRequired[dict[str, RecordList]]
    meter: NotRequired[MeterState]
    multi_label: NotRequired[bool]


class RowHead(TypedDict):
    """What a row of `metrics.jsonl` has besides its metrics; `fault` rows a reason."""

    step: int
    split: str
    reason: NotRequired[str]


def load_config(path: Path) -> ml_collections.ConfigDict:
    """Reads a saved config.

    Raises:
        ConfigError: the file is not there, not readable, or no config.
        StoreError: the bucket does not answer.
    """
    try:
        values = lists_to_tuples(read_json(path, RunConfig))
        return ml_collections.ConfigDict(values)  # refuses names with dots
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist: wanted the folder of a training run"
        ) from None
    except ValueError as error:
        place = "" if str(path) in str(error) else f"{path}: "
        raise ConfigError(f"no config of a training run: {place}{error}") from None


def facts_of(metadata: dict[str, Any]) -> StepFacts:
    """The metadata of a step as a run saves them.

    Raises:
        ValueError: they are not a run's.
    """
    if sentence := problem("", metadata, StepFacts):
        raise ValueError(f"the metadata are not those of a run: {sentence}")
    return metadata  # pyright: ignore[reportReturnType]


def config_of(facts: StepFacts) -> ml_collections.ConfigDict:
    """The config that a step was trained with."""
    return ml_collections.ConfigDict(lists_to_tuples(facts["config"]))


def changes(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """As `difference`, of the keys that may not change within a run."""
    return {
        key: values
        for key, values in difference(old, new).items()
        if not key.startswith(CHANGEABLE_KEYS)
    }


def read_metrics(path: Path, saved: int = 0) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl`; a damaged one is left out, with a warning.

    The last line is left out silently if it is cut, as by a kill.

    Args:
        saved: a step that was saved after its rows: of those, none is cut by a kill.
    """
    if not medium(path).exists(path):
        return []
    *lines, rest = medium(path).read_bytes(path).split(b"\n")
    rows = [read_row(line) for line in lines]
    begun = re.match(rb'\{"step": (\d+)', rest)
    if begun and int(begun[1]) <= saved and read_row(rest) is None:
        rows.append(None)
    if damaged := [str(number) for number, row in enumerate(rows, 1) if row is None]:
        logger.warning(
            "%s: line %s cannot be read and is left out",
            path,
            ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else ""),
        )
    return [row for row in (*rows, read_row(rest)) if row is not None]


def read_row(line: bytes) -> dict[str, Any] | None:
    """A row of metrics; None if the line is none."""
    try:
        row = parse(line, RowHead, METRICS)
    except ValueError:
        return None
    metrics = {k: x for k, x in row.items() if k not in RowHead.__annotations__}
    return None if problem("", metrics, dict[str, Measured]) else row
