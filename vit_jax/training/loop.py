"""The training loop: build, take up the newest checkpoint, step, evaluate, save.

The step itself is in `training/step.py`.
"""

import contextlib
import faulthandler
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import Lengths, check_config, chosen, to_dict, without_every
from vit_jax.data.device import DevicePrefetch, prefetch_to_device
from vit_jax.evaluation.means import evaluate
from vit_jax.parallel import determinism, distributed, sharding
from vit_jax.storage.errors import StoreError
from vit_jax.storage.paths import absolute, as_path, medium
from vit_jax.training.guard import Faults, FaultyStep, Guard
from vit_jax.training.metrics import Meter, SilentWriter, Writer
from vit_jax.training.rehearsal import compile_programs, rehearse
from vit_jax.training.resume import Start, given_params, start_state
from vit_jax.training.run_folder import (
    GROWING,
    begin_folder,
    hold_folder,
    versions,
    with_absolute_paths,
    with_known_paths,
)
from vit_jax.training.sections import config_sections
from vit_jax.training.setup import Setup, build
from vit_jax.training.step import TrainState
from vit_jax.training.summary import start_block
from vit_jax.training.watchdog import Watchdog
from vit_jax.training.writer_thread import WriterThread

Results = dict[str, dict[str, float]]


class Interrupted(Exception):
    """A signal ended the run early; its state is saved."""


def evaluate_splits(
    setup: Setup,
    settings: ml_collections.ConfigDict,
    state: TrainState,
    writer: WriterThread,
) -> Results:
    """Metrics of each split, and of `<split>_ema` where parameters are averaged."""
    results = {}
    placement = sharding.batch_sharding(setup.program.mesh)
    rows = local_rows(placement, settings.batch_size)
    for split in settings.splits:
        for name, params in ((split, state.params), (f"{split}_ema", state.ema)):
            if params is None:
                continue
            batches = setup.data.eval_batches(split, settings.batch_size, rows=rows)
            with contextlib.closing(prefetch_to_device(batches, placement)) as batches:
                step = setup.program.eval_step
                results[name] = evaluate(step, params, batches)
                writer.skipped(batches.skipped)
    return results


def evaluate_frozen(setup: Setup, names: Iterable[str], state: TrainState) -> Results:
    """Metrics of the evaluators of frozen features, averages as `<name>_ema`."""
    return {
        f"{name}{suffix}": setup.evaluators[name](params)
        for name in names
        for suffix, params in (("", state.params), ("_ema", state.ema))
        if params is not None
    }


def evaluate_due(
    setup: Setup,
    settings: ml_collections.ConfigDict,
    state: TrainState,
    writer: WriterThread,
    step: int,
) -> Results:
    """Evaluates, and records, what is due after a step."""
    lengths, results = setup.lengths, {}
    if lengths.due(lengths.eval_every, step):
        results |= evaluate_splits(setup, settings, state, writer)
        writer.evaluation(step, results)
    names = [name for name, n in lengths.evaluators.items() if lengths.due(n, step)]
    if names:
        frozen = evaluate_frozen(setup, names, state)
        writer.evaluation(step, frozen)
        results |= frozen
    return results


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
    may_exit: bool = False,
) -> Results:
    """Trains to the end of the schedule, from the newest checkpoint if there is one.

    Args:
        config: as of `configs/base.py`; with `init`, `model.name` may be empty.
        workdir: the run folder, on a disk or `gs://`; made if need be, shared by all
            processes.
        allow_config_change: go on in a folder that was begun with another config.
        may_exit: a SIGTERM before the first step, when there is nothing to save, ends
            the whole process at once, with exit code 75.

    Returns:
        The last evaluation: metrics of each split, `{"test": {"accuracy": 0.98}}`, and
        of each evaluator that is on, `{"fewshot": {"5shot": 0.71}}`.

    Raises:
        ValueError: the config cannot be used; nothing was started.
        CheckpointError: no checkpoint could be restored or written.
        FolderInUse: another process trains in the folder.
        OSError: something else could not be written.
        FaultyStep: loss or gradients became NaN or Inf, or the loss jumped.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    workdir = as_path(workdir)
    check_config(config, config_sections())
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(distributed.StopSignals(may_exit=may_exit))
        config, setup = prepare(config, workdir)
        # Before the folder is begun: what training starts from may not be there.
        begun = integrity.steps(workdir / "checkpoints")
        params = None if begun else given_params(config, setup)
        hold = stack.enter_context(hold_folder(workdir))
        begin_folder(workdir, config, allow_change=allow_config_change)
        distributed.say(start_block(config, setup, workdir))
        platform = setup.program.mesh.devices.flat[0].platform
        if words := determinism.in_words(platform, config.train.deterministic):
            distributed.say(words)
        keep = chosen(config.checkpoint, Checkpoints)
        keep |= {"keep_every": setup.lengths.keep_every}
        checkpoints = Checkpoints(workdir / "checkpoints", hold=hold, **keep)
        stack.callback(checkpoints.close)
        stack.enter_context(explained(checkpoints))
        rollbacks, next_index = 0, None
        while True:
            try:
                begin = start_state(
                    config,
                    setup,
                    checkpoints,
                    params,
                    allow_change=allow_config_change,
                )
                params = None  # their memory is the state's now
                return run_steps(
                    config, setup, workdir, checkpoints, signals, begin, next_index
                )
            except FaultyStep as fault:
                rollbacks += 1
                guard = config.guard
                if guard.policy != "rollback" or rollbacks > guard.max_faults:
                    raise
                next_index = fault.next_index
                distributed.say(
                    f"ROLLBACK {rollbacks} of at most {guard.max_faults}, since {fault}"
                )


def prepare(
    config: ml_collections.ConfigDict, workdir: Path
) -> tuple[ml_collections.ConfigDict, Setup]:
    """The complete config of a run and what it describes; nothing is written yet.

    Raises:
        ValueError: as of `train`.
    """
    if not config.model.name:
        from vit_jax.training.initial_weights import complete_model

        config = complete_model(config, workdir)
    config = with_known_paths(config, workdir)
    setup = build(config)
    config = with_absolute_paths(config)
    rehearse(config, setup)
    return config, setup


def run_steps(
    config: ml_collections.ConfigDict,
    setup: Setup,
    workdir: Path,
    checkpoints: Checkpoints,
    signals: distributed.StopSignals,
    begin: Start,
    next_index: int | None,
) -> Results:
    """From `start_state` to the end; `next_index`, if any, is that of the data.

    Raises:
        FaultyStep: with the place in the data that follows the step's batch.
    """
    lengths, program = setup.lengths, setup.program
    state, saved_index, measured = begin
    first_index = saved_index if next_index is None else next_index
    start, batch_size = int(state.step), config.data.batch_size
    keys = program.make_keys()
    # Not when first needed: a SIGTERM in mid-run would have to wait for the compiler.
    compile_programs(config, setup)
    faults = Faults(Guard(**config.guard), start, first_index, batch_size)
    if start:
        distributed.say(f"Going on from step {start} of {lengths.total}")

    with contextlib.ExitStack() as stack:
        files = medium(workdir).Growing(workdir, growing_names())
        stack.callback(files.close)
        writer = make_writer(workdir, files.folder, config, lengths, start)
        stack.callback(writer.close)
        batches = training_batches(config, setup, first_index)
        stack.callback(batches.close)
        watchdog = stack.enter_context(Watchdog(config.train.step_timeout))
        meter = Meter(batch_size, faults.accept, measured)
        results: Results = {}

        @contextlib.contextmanager
        def between_steps() -> Iterator[None]:
            """What takes time here is no slow step, for the watchdog or the speed."""
            watchdog.pause()
            yield
            meter.pause()

        steps = range(start + 1, lengths.total + 1)
        for step, batch in zip(steps, batches, strict=False):
            state, metrics = program.train_step(state, batch | setup.teacher, keys)
            meter.add(step, metrics)
            writer.progress(step)
            checkpoints.check()
            watchdog.step_begins(step + 1)
            save = lengths.due(lengths.checkpoint_every, step)
            if save:
                meter.finish()  # so that a run that goes on from here logs the same
            writer.skipped(batches.skipped)
            writer.faults(faults.take())
            if lengths.due(lengths.log_every, step) and (means := meter.flush()):
                writer.train(step, means)
            if lengths.evaluation_due(step):
                with between_steps():
                    results |= evaluate_due(setup, config.eval, state, writer, step)
            if (stop := signals.stop()) or save:
                with between_steps():
                    if not save:
                        meter.settle()
                        writer.faults(faults.take())
                    # First the metrics: no committed step is without those before it.
                    writer.flush()
                    files.push()
                    evaluated = lengths.due(lengths.eval_every, step)
                    best = results[setup.ranked] if evaluated else None
                    facts = facts_to_save(config, setup, batches.next_index)
                    facts["meter"] = meter.state()
                    checkpoints.save(step, state, facts, best)
            if stop and step < lengths.total:
                checkpoints.wait()
                raise Interrupted(f"{stop.name} at step {step} of {lengths.total}")
        checkpoints.wait()
        if not results:
            results = evaluate_splits(setup, config.eval, state, writer)
            results |= evaluate_frozen(setup, lengths.evaluators, state)
        return results


def training_batches(
    config: ml_collections.ConfigDict, setup: Setup, start_index: int
) -> DevicePrefetch:
    """The batches from an example of the endless order on, on the devices."""
    placement = sharding.batch_sharding(setup.program.mesh)
    rows = local_rows(placement, config.data.batch_size)
    batches = setup.data.train_batches(
        seed=config.seed, start_index=start_index, rows=rows
    )
    return prefetch_to_device(batches, placement)


def facts_to_save(
    config: ml_collections.ConfigDict, setup: Setup, next_index: int | None
) -> dict[str, Any]:
    """What a checkpoint says besides the arrays."""
    return {
        "next_index": next_index,
        "label_names": setup.label_names,
        "versions": versions(),
        "config": to_dict(config),
        "records": setup.records,
        "multi_label": setup.labels.several,
    }


def local_rows(placement: jax.sharding.NamedSharding, batch_size: int) -> Any:
    """The rows of a batch that this process is to load; None for all."""
    if jax.process_count() == 1:
        return None
    return sharding.local_rows(placement, batch_size)


def growing_names() -> tuple[str, ...]:
    """The files of this process that it goes on with, in the run folder."""
    if distributed.is_primary():
        return GROWING
    return (f"skipped-{jax.process_index()}.txt",)


def make_writer(
    workdir: Path,
    folder: Path,
    config: ml_collections.ConfigDict,
    lengths: Lengths,
    start: int,
) -> WriterThread:
    """Process 0 writes, to `folder`; the others list what they alone see."""
    if not distributed.is_primary():
        return WriterThread(SilentWriter(folder, jax.process_index()))
    log = without_every(config.log)
    written = start - start % lengths.log_every if lengths.log_every else 0
    writer = Writer(
        *(absolute(workdir), config, lengths.total, start),
        folder=folder,
        written=written,
        **log,
    )
    return WriterThread(writer)


@contextlib.contextmanager
def explained(checkpoints: Checkpoints) -> Iterator[None]:
    """Adds to an error in mid-run what is left and what to do."""
    try:
        yield
    except FaultyStep as fault:
        raise fault.explained(
            f"training stopped, and the last good checkpoint is "
            f"{checkpoints.last_good()}. Try a lower optim.learning_rate, a longer "
            "optim.warmup, optim.clip_norm=1, or model.dtype=float32; or let "
            "guard.policy be skip or rollback"
        ) from fault
    except StoreError as error:
        raise StoreError(
            f"{error}. The last good checkpoint is {checkpoints.last_good()}. When the "
            "bucket is in order, start the same command again"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        # Not raised: on its way out it would wait for the process that is gone.
        print(
            f"error: process {jax.process_index()} lost another one, or the network: "
            f"{str(error).splitlines()[0]} The last checkpoint is "
            f"{checkpoints.last_good()}. Start all processes again to go on",
            file=sys.stderr,
        )
        faulthandler.dump_traceback(all_threads=True)
        distributed.leave(distributed.TRY_AGAIN)


@contextlib.contextmanager
def exit_on_interrupt(*started: str) -> Iterator[None]:
    """Ends an interrupted command with how to go on, and an exit code that says so.

    Args:
        started: the words between `python` and the arguments: -m and a module, a file.
    """
    try:
        yield
    except Interrupted as stop:
        command = shlex.join(["python", *started, *sys.argv[1:]])
        distributed.say(f"Stopped by {stop}; the state is saved. To go on: {command}")
        # 130 is what shells give for Ctrl-C.
        sys.exit(130 if "SIGINT" in str(stop) else distributed.TRY_AGAIN)
