"""Checkpoints of a training run: Orbax behind one door, with checksums.

A run folder holds `config.json`, `metrics.jsonl` and `checkpoints/<step>/`. Saving is
asynchronous and atomic (Orbax writes elsewhere, then renames). Orbax does not notice
flipped bits in array data, so each step also gets a manifest with a SHA-256 per file,
and a step that fails it is put aside for the previous one.
"""

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging as absl_logging
from orbax.checkpoint import v1 as ocp

MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """No checkpoint could be saved or restored; the message says why and what to do."""


class Restored(NamedTuple):
    """What a checkpoint holds: its step, the state tree, and the metadata dict."""

    step: int
    state: Any
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where the step folders go; created if need be.
        keep_last: how many of the newest steps stay; at least 1.
        keep_best: how many of the best steps by `best_metric` stay.
        keep_every: steps that are a multiple of it stay for ever; 0 for none.
        best_metric: name of a metric given to `save`, larger is better.
        read_only: leave the folder as it is, since a training may be writing to it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int = 1,
        keep_best: int = 0,
        keep_every: int = 0,
        best_metric: str = "accuracy",
        read_only: bool = False,
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"checkpoint.keep_last is {keep_last}: wanted at least 1")
        # Orbax writes every decision to the log, hundreds of lines a run.
        absl_logging.get_absl_logger().setLevel(logging.ERROR)
        self.directory = Path(directory).absolute()  # Orbax refuses relative paths
        self.read_only = read_only
        self.best_metric = best_metric
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(keep_last)]
        if keep_best:
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics[best_metric],
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._orbax = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not read_only,
        )
        self._manifest_writer: threading.Thread | None = None

    @property
    def steps(self) -> list[int]:
        """The committed steps, oldest first."""
        return sorted(saved.step for saved in self._orbax.checkpoints)

    def save(
        self,
        step: int,
        state: Any,
        metadata: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves `state` in the background; returns when its arrays may be donated.

        Args:
            metadata: what JSON can hold.
            metrics: of this step; needed to rank it for `keep_best`.

        Raises:
            CheckpointError: the state holds NaN or Inf (nothing is written then), or
                the previous save failed.
            ValueError: `best_metric` is not among the metrics.
        """
        if metrics and self.best_metric not in metrics:
            raise ValueError(
                f"checkpoint.best_metric is {self.best_metric!r}: wanted one of "
                f"{', '.join(metrics)}"
            )
        if not bool(all_finite(state)):
            raise CheckpointError(
                f"the state at step {step} holds NaN or Inf and was not saved; "
                f"the last good checkpoint is {self.last_good()}"
            )
        self.wait()
        response = self._orbax.save_checkpointables_async(
            step,
            {"state": state},
            force=True,
            metrics=metrics,
            custom_metadata=metadata,
        )
        self._manifest_writer = _ManifestWriter(response, self.directory / str(step))
        self._manifest_writer.start()

    def restore(self, abstract_state: Any, *, partial: bool = False) -> Restored | None:
        """Restores the newest step that is whole, or None where there is no step.

        A damaged step is moved to `damaged/` beside the checkpoints, with a warning.

        Args:
            abstract_state: tree of ShapeDtypeStructs with the wanted shardings.
            partial: the tree is a part of the saved one.

        Raises:
            CheckpointError: there are steps, but none can be read.
        """
        steps = self.steps
        reasons = []
        for step in reversed(steps):
            folder = self.directory / str(step)
            # Killed between Orbax's commit and the manifest: likely whole, so tried.
            verified = (folder / MANIFEST).exists()
            reason = verify_manifest(folder) if verified else ""
            if not reason:
                try:
                    return self._load(step, abstract_state, partial)
                except Exception as error:
                    reason = root_cause(error)
                    if verified:
                        raise CheckpointError(
                            f"the checkpoint {folder} is whole but does not fit this "
                            f"run's model and optimizer: {reason}"
                        ) from error
            reasons.append(f"step {step}: {reason}")
            logger.warning("CHECKPOINT DAMAGED, trying the one before: %s", reasons[-1])
            if step != steps[0] and not self.read_only:
                self._set_aside(step)
        if reasons:
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be restored; "
                + "; ".join(reasons)
                + ". Start with another workdir, or delete this folder to start again"
            )
        return None

    def _load(self, step: int, abstract_state: Any, partial: bool) -> Restored:
        context = ocp.Context()
        context.pytree_options.loading.partial_load = partial
        with context:
            loaded = self._orbax.load_checkpointables(step, {"state": abstract_state})
        return Restored(step, loaded["state"], self._metadata(step))

    def _metadata(self, step: int) -> dict[str, Any]:
        return self._orbax.checkpointables_metadata(step).custom_metadata

    def newest_metadata(self) -> dict[str, Any]:
        """The metadata of the newest step.

        Raises:
            CheckpointError: there is no step, or it cannot be read.
        """
        if not self.steps:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        return self._metadata(self.steps[-1])

    def last_good(self) -> str:
        """The newest step as words for a message."""
        return f"step {self.steps[-1]} in {self.directory}" if self.steps else "none"

    def wait(self) -> None:
        """Blocks until the save under way is on disk, manifest included.

        Raises:
            CheckpointError: it failed, for example because the disk is full.
        """
        if self._manifest_writer is None:
            return
        writer, self._manifest_writer = self._manifest_writer, None
        writer.join()
        if writer.error is not None:
            raise CheckpointError(
                f"the checkpoint {writer.folder} could not be written: "
                f"{root_cause(writer.error)}; {self.last_good()} is the last good one"
            ) from writer.error

    def close(self) -> None:
        """Finishes the save under way and lets go of the folder."""
        self.wait()
        self._orbax.close()

    def _set_aside(self, step: int) -> None:
        aside = self.directory.parent / "damaged" / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "_again")
        aside.parent.mkdir(exist_ok=True)
        (self.directory / str(step)).rename(aside)
        self._orbax.reload()


class _ManifestWriter(threading.Thread):
    """Waits for a save to be committed, then writes its manifest."""

    def __init__(self, response: Any, folder: Path) -> None:
        super().__init__(daemon=True)
        self.response, self.folder = response, folder
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.response.result()
            write_manifest(self.folder)
        except BaseException as error:  # noqa: BLE001 - raised again by wait()
            self.error = error


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file in `folder` to its manifest, atomically."""
    digests = {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_atomically(folder / MANIFEST, json.dumps(digests, indent=1))


def verify_manifest(folder: Path) -> str:
    """Compares the files in `folder` with its manifest.

    Returns:
        What is wrong in words, empty if nothing is.
    """
    try:
        digests = json.loads((folder / MANIFEST).read_text())
    except ValueError:
        return f"{MANIFEST} is not readable"
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"the checksum of {name} is wrong"
    return ""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step: a killed process leaves the old one or the new."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no floating-point array of the tree holds NaN or Inf."""
    finite = [
        jnp.isfinite(leaf).all()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return jnp.array(finite).all()


def root_cause(error: BaseException) -> str:
    """The first sentence of the error at the bottom of a chain.

    Orbax wraps what users need to know, such as shapes that differ, in other errors.
    """
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0].split('. ')[0]}"
