"""Training from a config: build, take up the newest checkpoint, loop.

    python -m vit_jax.train --config configs/digits.py --workdir runs/digits

The step itself is in `train_step.py`.
"""

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vit_jax import plots, sharding
from vit_jax.build import Experiment, build
from vit_jax.checkpoint import Checkpoints
from vit_jax.cli import add_config_arguments, read_config, run_command
from vit_jax.config import to_dict
from vit_jax.data.pipeline import prefetch_to_device
from vit_jax.evaluate import evaluate
from vit_jax.metrics import Meter, NonFiniteError, Writer
from vit_jax.run import begin_folder, versions
from vit_jax.train_step import TrainState
from vit_jax.warm_start import complete_model

Results = dict[str, dict[str, float]]


class Interrupted(Exception):
    """A signal ended the run early; its state is saved."""


@contextlib.contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT in a list, for the loop to see, instead of dying."""
    received: list[signal.Signals] = []

    def note(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        print("Saving before stopping; Ctrl-C stops at once", flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def start_state(
    checkpoints: Checkpoints, experiment: Experiment, init: str
) -> tuple[TrainState, int]:
    """The newest saved state and its position in the data, or a new one, from `init`.

    A run that goes on does not need `init` any more.
    """
    everywhere = sharding.replicated(experiment.mesh)
    shapes = jax.eval_shape(experiment.init_state)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes
    )
    restored = checkpoints.restore(abstract)
    if restored is None:
        return experiment.init_state(init), 0
    return restored.state, restored.metadata["next_index"]


def evaluate_splits(
    experiment: Experiment,
    settings: ml_collections.ConfigDict,
    state: TrainState,
    writer: Writer,
) -> Results:
    """Metrics of each split, and of `<split>_ema` where parameters are averaged."""
    results = {}
    placement = sharding.batch_sharding(experiment.mesh)
    for split in settings.splits:
        for name, params in ((split, state.params), (f"{split}_ema", state.ema)):
            if params is None:
                continue
            batches = experiment.data.eval_batches(
                split, settings.batch_size, **processes()
            )
            with contextlib.closing(prefetch_to_device(batches, placement)) as batches:
                results[name] = evaluate(experiment.eval_step, params, batches)
                writer.skipped(batches.skipped)
    return results


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
) -> Results:
    """Trains to the end of the schedule, from the newest checkpoint if there is one.

    Args:
        config: as of `configs/base.py`; with `init`, `model.name` may be empty.
        workdir: the run folder; made if need be.
        allow_config_change: go on in a folder that was begun with another config.

    Returns:
        The last evaluation: metrics of each split, `{"test": {"accuracy": 0.98}}`.

    Raises:
        ValueError: the config cannot be used; nothing was started.
        CheckpointError: no checkpoint could be restored or written.
        NonFiniteError: loss or gradients became NaN or Inf.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    workdir = Path(workdir)
    config = complete_model(config, workdir)
    experiment = build(config)
    begin_folder(workdir, config, allow_change=allow_config_change)
    lengths = experiment.lengths
    with contextlib.ExitStack() as stack:
        keep = without_every(config.checkpoint) | {"keep_every": lengths.keep_every}
        checkpoints = Checkpoints(workdir / "checkpoints", **keep)
        stack.callback(checkpoints.close)
        state, next_index = start_state(checkpoints, experiment, config.init)
        start = int(state.step)
        if start:
            print(f"Going on from step {start} of {lengths.total}", flush=True)

        writer = Writer(
            workdir, config, lengths.total, start, **without_every(config.log)
        )
        stack.callback(writer.close)
        batches = experiment.data.train_batches(
            seed=config.seed, start_index=next_index, **processes()
        )
        batches = prefetch_to_device(batches, sharding.batch_sharding(experiment.mesh))
        stack.callback(batches.close)
        signals = stack.enter_context(catch_signals())
        stack.enter_context(explained(checkpoints))
        meter = Meter(config.data.batch_size)
        results = {}

        def due(every: int) -> bool:
            return step == lengths.total or (every > 0 and step % every == 0)

        steps = range(start + 1, lengths.total + 1)
        for step, batch in zip(steps, batches, strict=False):
            state, metrics = experiment.train_step(state, batch, experiment.keys)
            meter.add(step, metrics)
            if step == lengths.total:
                meter.finish()
            writer.skipped(batches.skipped)
            if due(lengths.log_every) and (means := meter.flush()):
                writer.train(step, means)
            if due(lengths.eval_every):
                results = evaluate_splits(experiment, config.eval, state, writer)
                writer.evaluation(step, results)
                meter.pause()
            if due(lengths.checkpoint_every) or signals:
                meter.finish()
                evaluated = due(lengths.eval_every)
                best = results[config.eval.splits[0]] if evaluated else None
                facts = {
                    "next_index": batches.next_index,
                    "label_names": experiment.label_names,
                    "versions": versions(),
                    "config": to_dict(config),
                }
                checkpoints.save(step, state, facts, best)
                meter.pause()
            if signals and step < lengths.total:
                raise Interrupted(
                    f"{signals[0].name} at step {step} of {lengths.total}"
                )
        return results or evaluate_splits(experiment, config.eval, state, writer)


def processes() -> dict[str, int]:
    """This process's number and how many there are, for its share of the data."""
    count = jax.process_count()
    return {"process_index": jax.process_index(), "process_count": count}


def without_every(section: ml_collections.ConfigDict) -> dict[str, Any]:
    """A section without its `every`, which the loop itself reads."""
    return {key: value for key, value in section.items() if key != "every"}


@contextlib.contextmanager
def explained(checkpoints: Checkpoints) -> Iterator[None]:
    """Adds to a NonFiniteError what is left and what to try."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error}; training stopped, and the last good checkpoint is "
            f"{checkpoints.last_good()}. Try a lower optim.learning_rate, a longer "
            "optim.warmup, optim.clip_norm=1, or model.dtype=float32"
        ) from error


@contextlib.contextmanager
def exit_on_interrupt(module: str) -> Iterator[None]:
    """Ends an interrupted command with how to go on, and an exit code that says so."""
    try:
        yield
    except Interrupted as stop:
        command = shlex.join(["python", "-m", module, *sys.argv[1:]])
        print(f"Stopped by {stop}; the state is saved. To go on: {command}")
        # 75 is EX_TEMPFAIL, "try again later"; 130 is what shells give for Ctrl-C.
        sys.exit(75 if "SIGTERM" in str(stop) else 130)


def main(arguments: argparse.Namespace) -> None:
    """The command: trains, then draws the learning curve."""
    config = read_config(arguments.config, arguments.overrides)
    with exit_on_interrupt("vit_jax.train"):
        results = train(
            config,
            arguments.workdir,
            allow_config_change=arguments.allow_config_change,
        )
    curve = plots.learning_curve(arguments.workdir)
    for split, metrics in results.items():
        accuracy = 100 * metrics["accuracy"]
        print(f"{split}: accuracy {accuracy:.2f} %, loss {metrics['loss']:.4f}")
    print(f"run folder: {arguments.workdir}   learning curve: {curve}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.train", description="Train, or go on with a run."
    )
    add_config_arguments(parser)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--allow_config_change",
        action="store_true",
        help="go on in a run folder that was begun with another config",
    )
    run_command(parser, main)
