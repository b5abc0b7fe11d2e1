"""Metrics on their way out: terminal, JSONL, TensorBoard, Weights & Biases."""

import hashlib
import importlib.util
import json
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from vit_jax.storage.run_files import MeterState, read_metrics

logger = logging.getLogger(__name__)
TRAIN_SHARES = {"accuracy", "precision_at_1"}  # shown in percent; a run has one


class Means:
    """Sums of the metrics of steps, which a checkpoint keeps for the next start.

    Args:
        saved: what `state` gave.
    """

    def __init__(self, saved: MeterState | None = None) -> None:
        self._sums = dict(saved["sums"]) if saved else {}
        self._count = saved["count"] if saved else 0

    def add(self, row: dict[str, float]) -> None:
        """Adds the metrics of a step."""
        for name, value in row.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means of what was added since the last call; empty if nothing was."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def state(self) -> MeterState:
        """What a checkpoint keeps."""
        return {"sums": dict(self._sums), "count": self._count, "late": []}


class Meter:
    """Collects the metrics and the speed of all steps, never waiting for the newest.

    Args:
        accept: is given the number and the metrics of a step that is done; whether it
            counts in the means.
        saved: what `state` gave in the run that is gone on with.
        max_in_flight: bounds how far the host may run ahead of the device.
    """

    def __init__(
        self,
        batch_size: int,
        accept: Callable[[int, dict[str, float]], bool],
        saved: MeterState | None = None,
        *,
        max_in_flight: int = 2,
    ) -> None:
        self.batch_size, self.accept = batch_size, accept
        self.max_in_flight = max_in_flight
        self._pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        # Done and accepted, but of steps that would still be in flight in a run that
        # was not stopped; None is a step that does not count.
        self._late = deque(saved["late"] if saved else ())
        self._means = Means(saved)
        self._steps, self._seconds, self._last = 0, 0.0, math.nan

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that was just dispatched."""
        self._pending.append((step, metrics))
        self._fetch(self.max_in_flight)
        now = time.perf_counter()
        if not math.isnan(self._last):
            self._steps += 1
            self._seconds += now - self._last
        self._last = now

    def finish(self) -> None:
        """Waits for the newest step, as is needed before a checkpoint."""
        self._fetch(0)

    def settle(self) -> None:
        """As `finish`, before a checkpoint that an undisturbed run does not have.

        The newest steps enter the means as late as they would have there.
        """
        while self._pending:
            self._late.append(self._accepted())

    def state(self) -> MeterState:
        """What a checkpoint keeps, so that the next row is an undisturbed run's."""
        return {**self._means.state(), "late": list(self._late)}

    def pause(self) -> None:
        """Leaves the time until the next `add` out of the speed."""
        self._last = math.nan

    def flush(self) -> dict[str, float]:
        """Means since the last flush over the steps that are done, and the speed.

        Empty if no step is done yet.
        """
        means = self._means.take()
        if not means:
            return {}
        if self._steps:
            means["steps/s"] = self._steps / self._seconds
            means["images/s"] = means["steps/s"] * self.batch_size
        self._steps, self._seconds = 0, 0.0
        return means

    def _fetch(self, leave: int) -> None:
        while len(self._late) + len(self._pending) > leave:
            row = self._late.popleft() if self._late else self._accepted()
            if row is not None:
                self._means.add(row)

    def _accepted(self) -> dict[str, float] | None:
        """The oldest step in flight, when it is done; None if it does not count."""
        step, metrics = self._pending.popleft()
        # Many times faster than `float` of an array of JAX's.
        row = {name: float(np.asarray(value)) for name, value in metrics.items()}
        return row if self.accept(step, row) else None


class Writer:
    """Writes the metrics of a run and shows its progress.

    Args:
        workdir: the folder of the run, absolute.
        config: the resolved config, for Weights & Biases.
        total_steps: length of the run.
        start_step: rows of later steps, left by a killed run, are removed.
        tensorboard: write TensorBoard files.
        wandb: name of a Weights & Biases project, empty for none.
        show: print what is written, with a progress line.
        folder: `metrics.jsonl` and `tensorboard/` go there; None for the workdir, which
            then is on a disk.
        written: the last step up to `start_step` of which rows were written.
    """

    def __init__(
        self,
        workdir: Path,
        config: ml_collections.ConfigDict,
        total_steps: int,
        start_step: int,
        *,
        tensorboard: bool,
        wandb: str,
        show: bool = True,
        folder: Path | None = None,
        written: int = 0,
    ) -> None:
        folder = folder or workdir
        path = folder / "metrics.jsonl"
        rows = [
            row for row in read_metrics(path, start_step) if row["step"] <= start_step
        ]
        last = max((row["step"] for row in rows), default=0)
        if last < written:
            logger.warning(
                "%s ends at step %d, and the run goes on from step %d: rows of the "
                "steps between are not in it",
                *(path, last, start_step),
            )
        kept = path.with_suffix(".tmp")
        kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept.replace(path)
        self._file = path.open("a")
        self._tensorboard = self._wandb = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(folder / "tensorboard"), purge_step=start_step + 1
            )
        if wandb:
            self._wandb = start_wandb(wandb, workdir, folder, config)
        # A live line on a terminal; without one, `train` prints plain lines.
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            disable=not (show and sys.stderr.isatty()),
            # A terminal that does not tell its width gets a bar for 80 columns.
            dynamic_ncols=terminal_width() > 0,
            ncols=None if terminal_width() else 80,
            bar_format="step {n}/{total} {percentage:3.0f}%|{bar}|  {desc}",
        )
        self._total, self._show = total_steps, show
        self._skipped: set[str] = set()
        self._skipped_path = folder / "skipped.txt"

    def progress(self, step: int) -> None:
        """Moves the bar of a terminal to a step; waits for nothing."""
        self._bar.update(step - self._bar.n)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Records the training metrics of a step and shows them."""
        self._record(step, "train", values)
        if not self._show:
            return
        text = f"loss {values['loss']:.4f}" if "loss" in values else ""
        for name in TRAIN_SHARES & values.keys():
            text += f"  {name} {100 * values[name]:.2f} %"
        if speed := values.get("images/s"):
            seconds = (self._total - step) / values["steps/s"]
            text += f"  {speed:.0f} images/s  ETA {tqdm.format_interval(seconds)}"
        if self._bar.disable:
            print(f"step {step}/{self._total}  {text}", flush=True)
        else:
            self._bar.set_description_str(text)

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Records the metrics of each split and prints a line a split."""
        for split, values in results.items():
            self._record(step, split, values)
            if not self._show:
                continue
            head = f"step {step}/{self._total}  {split}"
            self._bar.write(f"{head}: {main_metrics(values)}", sys.stdout)
        sys.stdout.flush()

    def skipped(self, names: list[str]) -> None:
        """Prints and lists in `skipped.txt` the records that could not be read."""
        for name in sorted(set(names) - self._skipped):
            self._bar.write(f"skipped, since it cannot be read: {name}", sys.stdout)
            with self._skipped_path.open("a") as file:
                file.write(name + "\n")
            self._skipped.add(name)

    def faults(self, steps: list[tuple[int, str]]) -> None:
        """Prints and records the steps that were skipped, and why."""
        for step, reason in steps:
            self._bar.write(f"skipped, since {reason}", sys.stdout)
            self._write({"step": step, "split": "fault", "reason": reason})

    def _record(self, step: int, split: str, values: dict[str, float]) -> None:
        self._write({"step": step, "split": split} | values)
        named = {f"{split}/{name}": value for name, value in values.items()}
        if self._tensorboard:
            for name, value in named.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(named, step=step)

    def _write(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            name, reason = self._file.name, error.strerror
            raise OSError(f"{name} could not be written: {reason}") from error

    def flush(self) -> None:
        """Puts everything into the files, as is needed before they are uploaded."""
        if self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


class SilentWriter(Writer):
    """The writer of every process but the first: lists the bad records that it met."""

    def __init__(self, folder: Path, process: int) -> None:
        self._bar = tqdm(disable=True)
        self._skipped: set[str] = set()
        self._skipped_path = folder / f"skipped-{process}.txt"

    def progress(self, step: int) -> None:
        pass

    def train(self, step: int, values: dict[str, float]) -> None:
        pass

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        pass

    def faults(self, steps: list[tuple[int, str]]) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def check_installed(tensorboard: bool, wandb: str) -> None:
    """Raises ImportError if what is to be written to is not installed."""
    if tensorboard and not importlib.util.find_spec("tensorboardX"):
        raise ImportError("log.tensorboard=True needs: pip install tensorboardX")
    if wandb and not importlib.util.find_spec("wandb"):
        raise ImportError(f'log.wandb={wandb!r} needs: pip install "vit_jax[wandb]"')


def start_wandb(
    project: str, workdir: Path, folder: Path, config: ml_collections.ConfigDict
) -> Any:
    """Begins or resumes the Weights & Biases run of a run folder; `folder` is local."""
    import wandb

    return wandb.init(
        project=project,
        name=workdir.name,
        id=hashlib.sha256(str(workdir).encode()).hexdigest()[:16],
        dir=folder,
        config=config.to_dict(),
        resume="allow",
    )


def terminal_width() -> int:
    """Columns of the terminal behind stderr; 0 if it does not tell, or is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # also where stderr is no file, as in a notebook
        return 0


def main_metrics(values: dict[str, float]) -> str:
    """Accuracies of an evaluation, of few shots too, or `map`, and loss, as text."""
    words = [
        f"{name} {100 * value:.2f} %"
        for name, value in values.items()
        if name in ("accuracy", "map") or name.endswith("shot")
    ]
    if "loss" in values:
        words.append(f"loss {values['loss']:.4f}")
    return "  ".join(words)
