"""The definition of an experiment: arms, seeds, and how results become a conclusion.

An experiment is a module with a docstring (question, item of the paper, cost) and an
`EXPERIMENT`. `grid.py` runs its arms, `command.py` is its command line, `report.py`
shows its results.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments.lab.records import Conclusion
from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.storage.run_files import read_metrics
from vit_jax.training.sections import config_sections

SCALES = ("smoke", "mini", "medium", "small", "full")
# Number of seeds by scale: of experiments that are run at medium too, and of others.
WITH_MEDIUM = {"smoke": 1, "mini": 3, "medium": 3, "small": 3, "full": 1}
WITHOUT = {scale: seeds for scale, seeds in WITH_MEDIUM.items() if scale != "medium"}
# In the order of the report; those that use others' runs come after them.
EXPERIMENTS = (
    "sizes",
    "data_size",
    "transfer",
    "compute",
    "optimizers",
    "position_embedding",
    "shapes",
    "class_token",
    "axial",
    "speed",
    "masked_patch",
    "distillation",
    "attention",
    "attention_radius",
    "head_start",
    "vtab",
    "bias_profile",
    "learned_bias",
    "border_equivariance",
    "protocol_locality",
    "bias_by_initialisation",
    "scrambled_plane",
    "positions_beyond",
)


class Arm(NamedTuple):
    """One variant: a config and what it changes.

    Attributes:
        config: the value of `--config`, as "configs/lab.py:family=vit,scale=mini".
        changes: values by key, such as {"model.positions": "none"}.
        init: label of the arm whose last checkpoint, of the same seed, this one starts
            from; "" to start from random parameters.
        teacher: label of the arm whose last checkpoint, of the same seed, is the
            teacher of this one; its config has the objective `distillation` then.
        checkpoint: name of a checkpoint that this one starts from; `--data` gives its
            folder, without which the arm is left out.
        seeds: number of seeds; 0 for the experiment's own.
        choice: number of a choice of the data, for arms where that takes the place of
            the seed; an arm is left out unless it is below the number of seeds.
        examples, classes: size of its data, needed by `--check` if the data is neither
            here nor known to `vit_jax.plan`.
    """

    config: str
    changes: Mapping[str, Any] = {}
    init: str = ""
    teacher: str = ""
    checkpoint: str = ""
    seeds: int = 0
    choice: int = 0
    examples: int = 0
    classes: int = 0


class RunResults:
    """The finished runs of an experiment, by arm.

    Attributes:
        scale: one of `SCALES`.
        folder: for the figures.
        runs: folders of the finished runs, in the order of the seeds, by label.
        configs: the resolved config of each arm's first seed, by label; arms that have
            not run are included.
        data: folders that replace data sets, and of checkpoints, by name.
    """

    def __init__(
        self,
        scale: str,
        folder: Path,
        runs: dict[str, list[Path]],
        configs: dict[str, ml_collections.ConfigDict],
        data: Mapping[str, str],
    ) -> None:
        self.scale, self.folder, self.runs = scale, folder, runs
        self.configs, self.data = configs, data

    def __contains__(self, label: str) -> bool:
        return bool(self.runs.get(label))

    def final(self, label: str, metric: str, split: str = "test") -> list[float]:
        """The last value of a metric in each finished run of an arm.

        Raises:
            KeyError: the runs have no such split or metric; names those they have.
        """
        return [rows[-1][1] for rows in self._curves(label, metric, split)]

    def accuracy(self, label: str) -> list[float]:
        """The last accuracy of each run on the first split that it evaluates."""
        return self.final(label, "accuracy", self.configs[label].eval.splits[0])

    def fewshot(self, label: str) -> list[float]:
        """The last few-shot accuracy of each run, at the largest number of shots."""
        return self.final(label, self.shots(label), "fewshot")

    def shots(self, label: str) -> str:
        """The metric of the largest number of shots, such as `25shot`."""
        return f"{max(self.configs[label].fewshot.shots)}shot"

    def curve(
        self, label: str, metric: str, split: str = "test"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n,) and the values of a metric (seeds, n) there."""
        curves = self._curves(label, metric, split)
        steps = np.array([step for step, _ in curves[0]]) if curves else np.zeros(0)
        return steps, np.array([[value for _, value in rows] for rows in curves])

    def _curves(
        self, label: str, metric: str, split: str
    ) -> list[list[tuple[int, float]]]:
        curves = []
        for folder in self.runs.get(label, []):
            rows = read_metrics(folder / "metrics.jsonl")
            points = [
                (row["step"], row[metric])
                for row in rows
                if row["split"] == split and metric in row
            ]
            if not points:
                known = sorted({f"{r['split']} {key}" for r in rows for key in r})
                raise KeyError(
                    f"{folder} has no {metric} of {split}; it has {', '.join(known)}"
                )
            curves.append(points)
        return curves


class Experiment(NamedTuple):
    """A question, the runs that answer it, and the answer.

    Attributes:
        item: the part of the paper, such as "Table 8, Fig. 10".
        title, question: as the report prints them.
        conclude: makes the conclusion from the results so far; it also measures what
            needs no training.
        arms: gives the arms of a scale by label; none if nothing is trained.
        measure: makes what `conclude` reads of a finished run, beside it in its folder,
            as `profiles.trained_profile` does. Called as soon as a run is finished, so
            that its checkpoints are not needed afterwards; a run without them raises
            `MissingMeasure`, unless all is there.
        measure_arm: the same, of what `conclude` reads of some arms only: gets the
            label of the arm too.
        criteria: the claims of a scale and their rules, a sentence each, which are
            written down before the first run; none if they may still change.
        seeds: number of seeds by scale; a scale that is not there is refused.
    """

    item: str
    title: str
    question: str
    conclude: Callable[[RunResults], Conclusion]
    arms: Callable[[str], dict[str, Arm]] = lambda _: {}
    measure: Callable[[Path], object] = lambda _: None
    measure_arm: Callable[[str, Path], object] = lambda _, __: None
    criteria: Callable[[str], Sequence[str]] = lambda _: ()
    seeds: Mapping[str, int] = WITHOUT

    def check_scale(self, scale: str) -> None:
        """Raises a ValueError for a scale that it has no arms for."""
        if scale not in self.seeds:
            raise ValueError(
                f"{self.title}: has no scale {scale!r}, only {', '.join(self.seeds)}"
            )


def load_experiment(name: str) -> Experiment:
    """The `EXPERIMENT` of a module of `experiments/`."""
    return importlib.import_module(f"experiments.{name}").EXPERIMENT


def resolve(arm: Arm) -> ml_collections.ConfigDict:
    """The config of an arm.

    Raises:
        ConfigError: no such config, or a change of a key that it does not have.
    """
    config = read_config(arm.config, [])
    for key, value in arm.changes.items():
        section, _, name = key.rpartition(".")
        place = config[section] if section in config else config
        known = name in place or name in config_sections().get(section, ())
        if not known or (section and section not in config):
            raise ConfigError(f"{arm.config} has no key {key!r} that could be changed")
        with place.ignore_type():
            place[name] = value
    return config
