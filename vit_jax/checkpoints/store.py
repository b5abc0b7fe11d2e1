"""Checkpoints of a training run: Orbax with checksums.

A run folder holds `config.json`, `metrics.jsonl` and `checkpoints/<step>/`. Saving is
asynchronous and atomic (Orbax writes elsewhere, then renames; in a bucket it marks what
is committed). Orbax does not notice flipped bits in array data, so each step also gets
a manifest with a SHA-256 per file, and a step that fails it is put aside.

Several processes share the folder. Each writes its part of the arrays; process 0 alone
lists and verifies the steps, and tells the others what to do.
"""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
from absl import logging as absl_logging
from orbax.checkpoint import v1 as ocp

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.agreement import blind_processes, from_primary
from vit_jax.checkpoints.fingerprint import examine
from vit_jax.checkpoints.retention import Retention
from vit_jax.checkpoints.saving import Save, explain
from vit_jax.storage.lock import Hold
from vit_jax.storage.paths import absolute, as_path, medium
from vit_jax.storage.run_files import StepFacts, facts_of
from vit_jax.values import Choice, Count, Size

PATIENCE = 60  # seconds that other processes get to finish or to see a file
logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """No checkpoint could be saved or restored; the message says why and what to do."""


class Restored(NamedTuple):
    """What a checkpoint holds: its step, the state tree, and the metadata dict."""

    step: int
    state: Any
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. With several processes, all must call each method.

    Args:
        directory: where the step folders go; created if need be.
        keep_last: how many of the newest steps stay; at least 1.
        keep_best: how many of the best steps by `best_metric` stay.
        keep_every: steps that are a multiple of it stay for ever; 0 for none.
        best_metric: name of a metric given to `save`, larger is better.
        read_only: leave the folder as it is, since a training may be writing to it.
        hold: of the run folder, in the process that holds it.

    Raises:
        CheckpointError: the folder cannot be opened, or not by all processes.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: Size = 1,
        keep_best: Count = 0,
        keep_every: int = 0,
        best_metric: Annotated[str, Choice("accuracy", "top5", "map")] = "accuracy",
        read_only: bool = False,
        hold: Hold | None = None,
    ) -> None:
        # Orbax writes every decision to the log, hundreds of lines a run.
        absl_logging.get_absl_logger().setLevel(logging.CRITICAL)
        self.directory = absolute(as_path(directory))  # as Orbax wants it
        self.read_only = read_only
        self._retention = Retention(keep_last, keep_best, keep_every, best_metric)
        self._save: Save | None = None
        self._hold, self._held, self._newest = hold, None, "none"
        if read_only:
            return
        try:
            from_primary(lambda: integrity.open_folder(self.directory))
            blind = blind_processes(self.directory, PATIENCE / 6)
            self._held = medium(self.directory).Held(self.directory)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoints in {self.directory} cannot be opened: "
                f"{explain(error)}"
            ) from error
        if blind:
            raise CheckpointError(
                f"process {blind[0]} does not see what process 0 writes to "
                f"{self.directory}: --workdir must be on a file system that all "
                "processes share"
            )

    @property
    def steps(self) -> list[int]:
        """The committed steps, oldest first."""
        return integrity.steps(self.directory)

    def save(
        self,
        step: int,
        state: Any,
        metadata: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves `state` in the background; returns when its arrays may be donated.

        Args:
            metadata: content for JSON.
            metrics: metrics of this step, by which `keep_best` ranks it.

        Raises:
            CheckpointError: the state holds NaN or Inf (nothing is written then), the
                previous save failed, or the folder has vanished (the state is saved).
            FolderInUse: another process has taken the run folder over.
            ValueError: `best_metric` is not among the metrics.
        """
        best_metric = self._retention.best_metric
        if metrics and best_metric not in metrics:
            raise ValueError(
                f"checkpoint.best_metric is {best_metric!r}: wanted one of "
                f"{', '.join(metrics)}"
            )
        in_place = from_primary(self._look_at_folder)
        try:
            self.wait()
        except CheckpointError:
            if in_place:
                raise
        finite, fingerprints = examine(state)
        if not finite:
            raise CheckpointError(
                f"the state at step {step} holds NaN or Inf and was not saved; "
                f"the last good checkpoint is {self.last_good()}"
            )
        own = {integrity.FINGERPRINTS: fingerprints, integrity.METRICS: metrics}
        folder = self.directory / str(step)
        try:
            facts = integrity.sealed(metadata | own)
            self._save = Save(folder, state, facts, self._retention)
        except Exception as error:
            raise self._failed(folder, explain(error)) from error
        if not in_place:
            self.wait()
            raise CheckpointError(
                f"{self.directory} vanished during the training; step {step} was saved "
                "in a new one. Put the old one back, or start the same command again "
                f"to go on from step {step}"
            )

    def _look_at_folder(self) -> str:
        """Before a save, in process 0: "yes" if the folder is in its place.

        Raises:
            FolderInUse: another process has taken it over.
        """
        if self._hold is not None:
            self._hold.renew()
            self._hold.check()
        return "yes" if self._held.is_there() else ""

    def restore(
        self,
        abstract_state: Any | Callable[[dict[str, Any]], Any],
        *,
        partial: bool = False,
        step: int | None = None,
    ) -> Restored | None:
        """Restores the newest step that is whole, or None where there is no step.

        A damaged step is moved to `damaged/` beside the checkpoints, with a warning.

        Args:
            abstract_state: tree of ShapeDtypeStructs with the wanted shardings, of any
                mesh; or a function that gives it for the metadata of a step.
            partial: the tree is a part of the saved one.
            step: this one and no other.

        Raises:
            CheckpointError: there are steps, but none, or not this one, can be read.
        """
        self.wait()
        steps = json.loads(from_primary(lambda: json.dumps(self.steps)))
        if step is not None:
            if step not in steps:
                present = ", ".join(map(str, steps)) or "none"
                raise CheckpointError(
                    f"{self.directory} has no step {step}; it has {present}"
                )
            steps = [step]
        reasons = []
        for step in reversed(steps):
            reason = self._verify(step)
            if not reason:
                return self._load(step, abstract_state, partial)
            reasons.append(f"step {step}: {reason}")
            logger.warning("CHECKPOINT DAMAGED, trying the one before: %s", reasons[-1])
            if step != steps[0] and not self.read_only:
                from_primary(
                    lambda step=step: integrity.set_aside(self.directory / str(step))
                )
        if reasons:
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be restored; "
                f"{'; '.join(reasons)}. Start with another workdir, or delete this "
                "folder to start again"
            )
        return None

    def _verify(self, step: int) -> str:
        folder = self.directory / str(step)
        try:
            return from_primary(lambda: integrity.verify(folder))
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint {folder} cannot be read: {explain(error)}. It "
                "was left as it is; give access to it and start again"
            ) from error

    def _load(self, step: int, abstract_state: Any, partial: bool) -> Restored:
        folder = self.directory / str(step)
        metadata = integrity.read_user_metadata(folder)
        context = ocp.Context()
        context.pytree_options.loading.partial_load = partial
        if callable(abstract_state):
            abstract_state = abstract_state(metadata)
        try:
            with context:
                loaded = ocp.load_checkpointables(
                    folder,  # pyright: ignore[reportArgumentType]
                    {"state": abstract_state},
                )
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {folder} is whole but does not fit this run's model "
                f"and optimizer: {explain(error)}"
            ) from error
        self._newest = str(step)
        return Restored(step, loaded["state"], metadata)

    def newest_facts(self) -> StepFacts:
        """What the newest step says whose metadata are whole.

        Raises:
            CheckpointError: there is none.
        """
        for step in reversed(self.steps):
            folder = self.directory / str(step)
            with contextlib.suppress(ValueError):
                integrity.verify_file(folder, integrity.METADATA)
                return facts_of(integrity.read_user_metadata(folder))
        raise CheckpointError(f"there is no checkpoint in {self.directory}")

    def last_good(self) -> str:
        """The newest step that is known to be whole, for a message."""
        if self._save is not None:
            self._save.join(PATIENCE)
            if not (self._save.is_alive() or self._save.failure):
                self._newest = self._save.folder.name
        try:
            newest = str(self.steps[-1]) if self.steps else "none"
        except integrity.StoreError:
            newest = self._newest
        return newest if newest == "none" else f"step {newest} in {self.directory}"

    def wait(self) -> None:
        """Blocks until the save under way is on disk, manifest included.

        Raises:
            CheckpointError: it failed here, for example because the disk is full. Other
                processes then wait until they miss the heartbeat of this one.
        """
        if self._save is None:
            return
        self._save.join()
        save, self._save = self._save, None
        if save.failure:
            raise self._failed(save.folder, save.failure)
        self._newest = save.folder.name

    def check(self) -> None:
        """Raises as `wait` if the save under way has failed already; does not wait.

        A folder that vanished is left to `save`, which has a state for a new one.

        Raises:
            FolderInUse: another process has taken the run folder over.
        """
        if self._hold is not None:
            self._hold.check()
        save = self._save
        if save and not save.is_alive() and save.failure and self._held.is_there():
            self.wait()

    def _failed(self, folder: Path, reason: str) -> CheckpointError:
        with contextlib.suppress(integrity.StoreError):
            if jax.process_index() == 0:
                integrity.tidy(self.directory)
        return CheckpointError(
            f"the checkpoint {folder} could not be written: {reason}. The last good "
            f"checkpoint is {self.last_good()}. When the "
            f"{medium(self.directory).MEDIUM} is in order, start the same command again"
        )

    def close(self) -> None:
        """Finishes the save under way and lets go of the folder.

        It does not wait for other processes for ever: they may have gone on.
        """
        if self._held is not None:
            self._held.close()
        if self._save is not None:
            self._save.join(None if jax.process_count() == 1 else PATIENCE)
            if not self._save.is_alive():
                self.wait()
