"""One run of a fleet: its folder, its data, its place in the schedule."""

import dataclasses
import functools
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import (
    ConfigError,
    Lengths,
    chosen,
    difference,
    lists_to_tuples,
    resolve_lengths,
    to_dict,
    without_every,
)
from vit_jax.data.in_memory import Images, examples, shared, training_images
from vit_jax.data.pipeline import Data
from vit_jax.data.record_list import describe
from vit_jax.evaluation.means import Evaluator
from vit_jax.fleet.program import FleetProgram
from vit_jax.models import AnyModel
from vit_jax.parallel import sharding
from vit_jax.storage.paths import absolute, medium, write_atomically
from vit_jax.storage.run_files import (
    CHANGEABLE_KEYS,
    config_of,
    facts_of,
    load_config,
    read_metrics,
)
from vit_jax.training.guard import Faults, FaultyStep, Guard
from vit_jax.training.labels import read_labels
from vit_jax.training.loop import Results
from vit_jax.training.metrics import Means, Writer, check_installed
from vit_jax.training.optim import make_schedule
from vit_jax.training.resume import refuse_other_classes, say_other_records
from vit_jax.training.run_folder import (
    GROWING,
    begin_folder,
    hold_folder,
    refuse_changes,
    versions,
    with_absolute_paths,
    with_known_paths,
)
from vit_jax.training.sections import evaluator_class, ranked_split

FAILURE = "failure.txt"
# Options of reading are irrelevant, as all images are read into arrays once.
IN_MEMORY = {"cache": "never", "workers": 0, "num_threads": 0}


# Shared by the runs of a grid, since it holds the images in memory.
@functools.lru_cache(maxsize=4)
def make_evaluator(
    name: str, model: AnyModel, data: Data, mesh: jax.sharding.Mesh, options: str
) -> Evaluator:
    """The evaluator of a config section; its keys but `every` are given as JSON."""
    return evaluator_class(name)(
        model, data, mesh, **lists_to_tuples(json.loads(options))
    )


class Member:
    """A run of a fleet; its folder is like that of an ordinary run.

    Attributes:
        data: opened without images in memory.
        label_names: one for each class of the data.
        lengths: durations in steps.
        failure: why the run stopped before its end; "" if it did not.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path) -> None:
        """Opens the data of a config that was checked; decodes nothing.

        Raises:
            ValueError: the config cannot be used.
        """
        config = with_known_paths(config, workdir)
        self.config, self.workdir = with_absolute_paths(config), workdir
        self.data = shared(Data(**{**config.data, **IN_MEMORY}))
        self.label_names = self.data.label_names()
        self.data.check_splits(config.eval.splits)
        if self.data.is_multi_label():
            raise ConfigError(
                f"{workdir}: a fleet learns one label an image, and one of "
                f"{self.data.name} may have several; train it with vit_jax.train"
            )
        read_labels(config, self.data)
        self.lengths: Lengths = resolve_lengths(config, self.data.num_examples())
        check_installed(**without_every(config.log))
        self._ranked = ranked_split(config, "checkpoint", config.eval.splits[0])
        self.failure = self._read_failure()
        self.results: Results = {}
        self._means = Means()

    def _read_failure(self) -> str:
        failure, begun = self.workdir / FAILURE, self.workdir / "config.json"
        if not all(medium(path).exists(path) for path in (failure, begun)):
            return ""
        # A changed config, such as another learning rate, is a new attempt.
        changed = difference(load_config(begun), self.config)
        same = all(key.startswith(CHANGEABLE_KEYS) for key in changed)
        return medium(failure).read_text(failure).strip() if same else ""

    @property
    def saved_step(self) -> int:
        """The newest checkpoint's step, 0 without one."""
        return max(integrity.steps(self.workdir / "checkpoints"), default=0)

    def finished_results(self) -> Results:
        """The last evaluation if the run is finished, else {}.

        Raises:
            ConfigError: the folder belongs to another config.
        """
        total = self.lengths.total
        if self.saved_step != total:
            return {}
        begin_folder(self.workdir, self.config, allow_change=False)
        rows = read_metrics(self.workdir / "metrics.jsonl")
        results = {
            row["split"]: {k: v for k, v in row.items() if k not in ("step", "split")}
            for row in rows
            if row["step"] == total and row["split"] not in ("train", "fault")
        }
        expected = {*self.config.eval.splits, *self.lengths.evaluators}
        return results if expected <= results.keys() else {}

    def rhythm(self) -> str:
        """A text that is equal for runs with the same evaluations at the same steps."""
        config = to_dict(self.config)
        sections = {name: config[name] for name in ("eval", *self.lengths.evaluators)}
        data = dataclasses.replace(self.data, split="any")
        return f"{self.lengths} {sections} {data}"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of the model; none if it does not classify."""
        labelled = self.config.objective.name == "classification"
        return self.label_names if labelled else ()

    def open(self, state: Any, stack: ExitStack) -> Any:
        """Opens the folder; returns the state to resume from, None for a new run.

        Args:
            state: shapes with shardings of the state to restore.
            stack: closes the folder in the end, after a save in progress.
        """
        hold = stack.enter_context(hold_folder(self.workdir))
        begin_folder(self.workdir, self.config, allow_change=False)
        (self.workdir / FAILURE).unlink(missing_ok=True)
        keep = chosen(self.config.checkpoint, Checkpoints)
        keep["keep_every"] = self.lengths.keep_every
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", hold=hold, **keep)
        stack.callback(self.checkpoints.close)
        restored = self.checkpoints.restore(state)
        splits = (self.data.split, *self.config.eval.splits)
        self._records = {split: describe(self.data, split) for split in splits}
        start = 0
        if restored is not None:
            start, facts = restored.step, facts_of(restored.metadata)
            refuse_changes(str(self.workdir), config_of(facts), self.config)
            refuse_other_classes(facts["label_names"], self.output_names)
            say_other_records(facts.get("records", {}), self._records, start)
            self._means = Means(facts.get("meter"))
        self._files = medium(self.workdir).Growing(self.workdir, GROWING)
        stack.callback(self._files.close)
        self.writer = Writer(
            absolute(self.workdir),
            self.config,
            self.lengths.total,
            start,
            show=False,
            folder=self._files.folder,
            **without_every(self.config.log),
        )
        stack.callback(self.writer.close)
        batch = self.config.data.batch_size
        self._faults = Faults(Guard(**self.config.guard), start, start * batch, batch)
        self.images: Images = training_images(self.data)
        options = chosen(self.config.optim, make_schedule)
        options |= {"warmup": self.lengths.warmup, "cooldown": self.lengths.cooldown}
        schedule = make_schedule(total_steps=self.lengths.total, **options)
        steps = np.arange(self.lengths.total)
        rates = np.asarray(jax.vmap(schedule)(steps), np.float32)
        self._rates = np.broadcast_to(rates, steps.shape)
        return None if restored is None else restored.state

    def evaluator(self, name: str, program: FleetProgram) -> Evaluator:
        """The evaluator of a section such as `fewshot`."""
        # The pipeline reads its images once, and not those of the training split.
        options = without_every(self.config[name])
        data = Data(**{**self.config.data, "split": options["train_split"]})
        return make_evaluator(
            name, program.model, data, program.mesh, json.dumps(options)
        )

    def inputs(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of examples (count, b), learning rates (count,) of the next steps."""
        batch = self.config.data.batch_size
        numbers = examples(
            step * batch,
            (step + count) * batch,
            len(self.images.label),
            self.config.seed,
        )
        return numbers.reshape(count, batch), self._rates[step : step + count]

    def accept(self, step: int, row: dict[str, float], speed: float) -> None:
        """Takes the metrics of a finished step; writes their means where due.

        Args:
            speed: steps a second, NaN if not known.

        Raises:
            FaultyStep: the step is faulty, which ends this run.
        """
        if self._faults.accept(step, row):
            self._means.add(row)
        self.writer.faults(self._faults.take())
        every = self.lengths.log_every
        due = step == self.lengths.total or (every and step % every == 0)
        if due and (means := self._means.take()):
            if np.isfinite(speed):
                means["steps/s"] = speed
                means["images/s"] = speed * self.config.data.batch_size
            self.writer.train(step, means)

    def evaluated(self, step: int, results: Results) -> None:
        """Takes and writes the results of an evaluation."""
        self.results |= results
        self.writer.evaluation(step, results)

    def save(self, step: int, state: Any, mesh: jax.sharding.Mesh) -> None:
        """Saves a state of arrays on the host, in the background."""
        evaluated = self.lengths.due(self.lengths.eval_every, step)
        best = self.results.get(self._ranked) if evaluated else None
        facts = {
            "next_index": step * self.config.data.batch_size,
            "label_names": self.output_names,
            "versions": versions(),
            "config": to_dict(self.config),
            "records": self._records,
            "meter": self._means.state(),
        }
        state = jax.device_put(state, sharding.replicated(mesh))
        self.writer.flush()
        self._files.push()
        self.checkpoints.save(step, state, facts, best)

    def fail(self, step: int, fault: FaultyStep) -> None:
        """Records why this run has stopped."""
        self.failure = (
            f"stopped by {fault}; the last good checkpoint is "
            f"{self.checkpoints.last_good()}. To go on from it, delete {FAILURE}"
        )
        self.writer.faults([(step, str(fault))])
        write_atomically(self.workdir / FAILURE, self.failure + "\n")
