"""Training: the step, and the run around it.

    python -m vit_jax.train --config configs/digits.py --workdir runs/digits

The step is `make_train_step`; with `models/vit.py` it is all there is to understand.
`train` builds everything from the config, takes up the newest checkpoint, and loops.
"""

import argparse
import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from vit_jax import plots, sharding
from vit_jax.checkpoint import Checkpoints
from vit_jax.cli import read_config, run_command
from vit_jax.config import Lengths, check_config, keywords, resolve_lengths
from vit_jax.data.mix import Mix, make_mix, normalize, one_hot
from vit_jax.data.pipeline import Data, prefetch_to_device
from vit_jax.evaluate import evaluate, make_eval_step
from vit_jax.losses import LossFn, make_loss
from vit_jax.metrics import Meter, NonFiniteError, Writer
from vit_jax.models import VisionTransformer, create_model, init_params
from vit_jax.optim import make_optimizer
from vit_jax.run import begin_folder, versions, warm_start

Params = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that training changes; `ema` is None unless `train.ema_decay` is set."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None


@flax.struct.dataclass
class RandomKeys:
    """One random key a purpose; the step folds its number into them."""

    params: jax.Array
    dropout: jax.Array
    mix: jax.Array


def named_keys(seed: int) -> RandomKeys:
    """Splits the seed once; every random draw of a run comes from these keys."""
    return RandomKeys(*jax.random.split(jax.random.key(seed), 3))


def make_train_step(
    model: VisionTransformer,
    loss_fn: LossFn,
    mix: Mix,
    optimizer: optax.GradientTransformation,
    *,
    accumulate_steps: int,
    ema_decay: float,
) -> Callable[[TrainState, Batch, RandomKeys], tuple[TrainState, Metrics]]:
    """Builds the pure training step `(state, batch, keys) -> (state, metrics)`.

    The batch holds `image` (b h w c, uint8) and `label` (b, integers).
    """

    def mean_loss(params, images, targets, dropout_key):
        logits, _ = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": dropout_key}
        )
        correct = logits.argmax(-1) == targets.argmax(-1)
        return loss_fn(logits, targets).mean(), correct.mean()

    gradient = accumulated(
        jax.value_and_grad(mean_loss, has_aux=True), accumulate_steps
    )

    def train_step(state, batch, keys):
        keys = jax.tree.map(lambda key: jax.random.fold_in(key, state.step), keys)
        images = normalize(batch["image"])
        targets = one_hot(batch["label"], model.num_classes)
        images, targets = mix(keys.mix, images, targets)

        (loss, accuracy), grads = gradient(state.params, images, targets, keys.dropout)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state.ema, params, ema_decay, state.step)

        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": optax.tree.norm(grads),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return train_step


def accumulated(gradient: Callable[..., Any], pieces: int) -> Callable[..., Any]:
    """The mean of `gradient(params, images, targets, key)` over pieces of a batch."""
    if pieces == 1:
        return gradient

    def mean_gradient(params, images, targets, key):
        def cut(x: jax.Array) -> jax.Array:
            # Strided, so that each device keeps the examples that it holds.
            return x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1)

        def add(total, piece):
            return jax.tree.map(jnp.add, total, gradient(params, *piece)), None

        batch = (cut(images), cut(targets), jax.random.split(key, pieces))
        result = jax.eval_shape(gradient, params, *(x[0] for x in batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)
        total, _ = jax.lax.scan(add, zeros, batch)
        return jax.tree.map(lambda x: x / pieces, total)

    return mean_gradient


def update_ema(
    ema: Params | None, params: Params, decay: float, step: jax.Array
) -> Params | None:
    """Moves the average of the parameters towards them.

    The decay grows to its value over the first steps, so that the random initial
    parameters do not linger: min(decay, (1 + step) / (10 + step)).
    """
    if ema is None:
        return None
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(params, ema, 1 - decay)


# Arguments that come from the run itself, not from a config.
PROVIDED = (
    *("num_classes", "image_size", "patch_size", "parent", "params", "total_steps"),
    *("workdir", "config", "start_step", "directory", "read_only"),
)
# The keys of a config: each section is splatted into the one that reads it.
SECTIONS = {
    "seed": {},
    "init": {},
    "model": dict.fromkeys(keywords(VisionTransformer, PROVIDED), False)
    | keywords(create_model, PROVIDED),
    "data": keywords(Data),
    "mix": keywords(make_mix),
    "loss": keywords(make_loss),
    "optim": keywords(make_optimizer, PROVIDED),
    "train": {"duration": True, "accumulate_steps": True, "ema_decay": True},
    "eval": {"every": True, "splits": True, "batch_size": True},
    "checkpoint": {"every": True} | keywords(Checkpoints, PROVIDED),
    "log": {"every": True} | keywords(Writer, PROVIDED),
    "mesh": keywords(sharding.make_mesh),
}


class Experiment(NamedTuple):
    """What a config describes, built: all that the loop needs."""

    data: Data
    label_names: tuple[str, ...]
    lengths: Lengths
    mesh: jax.sharding.Mesh
    keys: RandomKeys
    schedule: optax.Schedule
    init_state: Callable[[], TrainState]
    train_step: Callable[[TrainState, Batch, RandomKeys], tuple[TrainState, Metrics]]
    eval_step: Callable[[Params, Batch], Metrics]


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Builds data, model, optimizer and the compiled steps from a config.

    Raises:
        ValueError: the config cannot be used; one sentence says why.
    """
    check_config(config, SECTIONS)
    data = Data(**config.data)
    label_names = data.label_names()
    data.check_splits(config.eval.splits)
    lengths = resolve_lengths(config, data.num_examples())
    mesh = sharding.make_mesh(**config.mesh)
    accumulate_steps, ema_decay = config.train.accumulate_steps, config.train.ema_decay
    sharding.check_batch(config.data.batch_size, mesh, accumulate_steps)

    model = create_model(
        **config.model, num_classes=len(label_names), image_size=data.image_size
    )
    keys = named_keys(config.seed)
    optim = {**config.optim, "warmup": lengths.warmup, "cooldown": lengths.cooldown}
    params = jax.eval_shape(functools.partial(init_params, model), keys.params)
    optimizer, schedule = make_optimizer(params, lengths.total, **optim)
    loss_fn, mix = make_loss(**config.loss), make_mix(**config.mix)
    train_step = make_train_step(
        model,
        loss_fn,
        mix,
        optimizer,
        accumulate_steps=accumulate_steps,
        ema_decay=ema_decay,
    )
    everywhere = sharding.replicated(mesh)

    def init_state() -> TrainState:
        params = init_params(model, keys.params)
        if config.init:
            params = warm_start(params, config.init)
        ema = jax.tree.map(jnp.copy, params) if ema_decay else None
        state = TrainState(jnp.int32(0), params, optimizer.init(params), ema)
        return jax.device_put(state, everywhere)

    return Experiment(
        data,
        label_names,
        lengths,
        mesh,
        keys,
        schedule,
        init_state,
        jax.jit(train_step, donate_argnums=0, out_shardings=everywhere),
        make_eval_step(model, loss_fn),
    )


class Interrupted(Exception):
    """A signal ended the run early; its state is saved."""


@contextlib.contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT in a list, for the loop to see, instead of dying.

    A second Ctrl-C ends the process at once.
    """
    received: list[signal.Signals] = []

    def note(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def start_state(
    checkpoints: Checkpoints, experiment: Experiment
) -> tuple[TrainState, int]:
    """The newest saved state, or a new one, and the position in the data."""
    everywhere = sharding.replicated(experiment.mesh)
    shapes = jax.eval_shape(experiment.init_state)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes
    )
    restored = checkpoints.restore(abstract)
    if restored is None:
        return experiment.init_state(), 0
    return restored.state, restored.metadata["next_index"]


def evaluate_splits(
    experiment: Experiment, settings: ml_collections.ConfigDict, state: TrainState
) -> dict[str, dict[str, float]]:
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
    return results


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
) -> dict[str, dict[str, float]]:
    """Trains to the end of the schedule, from the newest checkpoint if there is one.

    Args:
        config: as of `configs/base.py`.
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
    experiment = build(config)
    workdir = Path(workdir)
    begin_folder(workdir, config, allow_change=allow_config_change)
    lengths = experiment.lengths
    with contextlib.ExitStack() as stack:
        keep = without_every(config.checkpoint) | {"keep_every": lengths.keep_every}
        checkpoints = Checkpoints(workdir / "checkpoints", **keep)
        stack.callback(checkpoints.close)
        state, next_index = start_state(checkpoints, experiment)
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
            if due(lengths.log_every) and (means := meter.flush()):
                rate = float(experiment.schedule(step - 1))
                writer.train(step, means | {"learning_rate": rate})
            if due(lengths.eval_every):
                results = evaluate_splits(experiment, config.eval, state)
                writer.evaluation(step, results)
                meter.pause()
            if due(lengths.checkpoint_every) or signals:
                meter.finish()
                metadata = {
                    "next_index": batches.next_index,
                    "label_names": experiment.label_names,
                    "versions": versions(),
                }
                best = (
                    results[config.eval.splits[0]] if due(lengths.eval_every) else None
                )
                checkpoints.save(step, state, metadata, best)
                meter.pause()
            if signals:
                raise Interrupted(
                    f"{signals[0].name} at step {step} of {lengths.total}"
                )
        return results or evaluate_splits(experiment, config.eval, state)


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


def main(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config, arguments.overrides)
    command = f"python -m vit_jax.train --config {arguments.config} " + " ".join(
        [f"--workdir {arguments.workdir}", *arguments.overrides]
    )
    try:
        results = train(
            config,
            arguments.workdir,
            allow_config_change=arguments.allow_config_change,
        )
    except Interrupted as stop:
        print(f"Stopped by {stop}; the state is saved. To go on: {command}")
        # 75 is EX_TEMPFAIL, "try again later"; 130 is what shells give for Ctrl-C.
        sys.exit(75 if "SIGTERM" in str(stop) else 130)
    curve = plots.learning_curve(arguments.workdir)
    for split, metrics in results.items():
        accuracy = 100 * metrics["accuracy"]
        print(f"{split}: accuracy {accuracy:.2f} %, loss {metrics['loss']:.4f}")
    print(f"run folder: {arguments.workdir}   learning curve: {curve}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.train", description="Train, or go on with a run."
    )
    parser.add_argument("--config", required=True, help="file.py or file.py:arguments")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument(
        "--allow_config_change",
        action="store_true",
        help="go on in a run folder that was begun with another config",
    )
    run_command(parser, main)
