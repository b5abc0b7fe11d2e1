"""Times of a compiled step: on one resident batch, and with real input."""

import contextlib
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from vit_jax.data.device import DevicePrefetch, prefetch_to_device
from vit_jax.data.mix import make_mix
from vit_jax.losses import make_loss
from vit_jax.models import AnyModel, init_params
from vit_jax.models.pixels import normalize
from vit_jax.parallel import sharding
from vit_jax.parallel.placement import place
from vit_jax.training.guard import Guard
from vit_jax.training.metrics import Meter
from vit_jax.training.optim import make_optimizer, make_schedule
from vit_jax.training.setup import Setup, build
from vit_jax.training.step import (
    classification,
    initial_state,
    make_train_step,
    named_keys,
)

# A figure is the median over so many groups of steps.
GROUPS = 5
# At most so many batches wait: two decoded, two on the device.
BUFFERED = 4


class Program(NamedTuple):
    """A jitted step `(state, batch, keys) -> (state, metrics)` and what it runs on."""

    step: Callable[..., Any]
    init_state: Callable[[], Any]
    keys: Any
    batch: dict[str, jax.Array]


class Compiled(NamedTuple):
    """A compiled step; times in seconds, memory in bytes for each device."""

    step: Callable[..., Any]
    trace_seconds: float
    compile_seconds: float
    first_step_seconds: float
    program_bytes: int


def synthetic_program(
    model: AnyModel, batch_size: int, *, mode: str, accumulate_steps: int
) -> Program:
    """The training step with AdamW, or the forward pass, on one fixed random batch.

    Args:
        model: as of `create_model`.
        batch_size: images, over all devices.
        mode: `train` or `forward`.
        accumulate_steps: pieces of the batch in training.

    Raises:
        ValueError: the batch cannot be divided over the devices and pieces.
    """
    mesh = sharding.make_mesh(data=-1, fsdp=1, tensor=1)
    sharding.check_batch("--batch", batch_size, mesh, accumulate_steps)
    everywhere = sharding.replicated(mesh)
    keys = jax.jit(lambda: named_keys(0), out_shardings=everywhere)()
    abstract = jax.eval_shape(lambda key: init_params(model, key), keys.params)
    schedule = make_schedule(
        learning_rate=1e-3, schedule="cosine", total_steps=10_000, warmup=1000
    )
    optimizer = make_optimizer(
        abstract,
        schedule,
        name="adamw",
        weight_decay=0.1,
        clip_norm=0.0,
        momentum=0.9,
        b2=0.999,
        epsilon=1e-8,
        momentum_dtype="float32",
        layer_decay=1.0,
        freeze=(),
    )
    loss_fn = make_loss(name="softmax", label_smoothing=0.0)
    mix = make_mix(mixup_alpha=0.0, cutmix_alpha=0.0, per_example=False)
    train_step = make_train_step(
        classification(model, loss_fn, mix),
        optimizer,
        schedule,
        Guard(policy="stop", spike=0.0, max_faults=0),
        accumulate_steps=accumulate_steps,
        ema_decay=0.0,
        gradient_dtype="float32",
        sam_rho=0.0,
    )

    def forward_step(params, batch, _keys):
        images = normalize(batch["image"])
        logits, _ = model.apply({"params": params}, images, train=False)
        return params, {"logit": logits.mean()}

    @functools.partial(jax.jit, out_shardings=everywhere)
    def init_state():
        params = init_params(model, named_keys(0).params)
        if mode == "train":
            params = initial_state(params, optimizer, average=False)
        return params

    rng = np.random.default_rng(0)
    shape = (batch_size, *model.image_size, 3)
    batch = {
        "image": rng.integers(0, 256, shape, np.uint8),
        "label": rng.integers(0, model.num_classes, batch_size, np.int32),
    }
    step = train_step if mode == "train" else forward_step
    step = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
    placed = place(batch, dict.fromkeys(batch, sharding.batch_sharding(mesh)))
    return Program(step, init_state, keys, placed)


def compile_program(program: Program) -> tuple[Compiled, Any]:
    """Compiles and takes the first step; returns the state after it too."""
    state = jax.block_until_ready(program.init_state())
    start = time.perf_counter()
    lowered = program.step.lower(state, program.batch, program.keys)
    traced = time.perf_counter()
    step = lowered.compile()
    compiled = time.perf_counter()
    state, _ = jax.block_until_ready(step(state, program.batch, program.keys))
    done = time.perf_counter()
    memory = step.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
    times = traced - start, compiled - traced, done - compiled
    return Compiled(step, *times, needed), state


def run_steps(
    step: Callable[..., Any],
    state: Any,
    keys: Any,
    batches: Iterator[dict[str, jax.Array]],
    count: int,
) -> tuple[Any, float]:
    """Takes steps as the training loop does; returns the state and seconds a step."""
    meter = Meter(1, accept=lambda *_: True)
    start = time.perf_counter()
    for number, batch in enumerate(itertools.islice(batches, count)):
        state, metrics = step(state, batch, keys)
        meter.add(number, metrics)
    meter.finish()
    return state, (time.perf_counter() - start) / count


def measure(program: Program, *, steps: int, warmup: int) -> dict[str, Any]:
    """Times the step on its resident batch, `steps` of them in `GROUPS` groups.

    Returns:
        Times in seconds: `step` (median over the groups), `step_min`, `step_max`,
        `trace`, `compile`, `first_step`; `program_bytes` and `peak_bytes` (what the
        allocator of the first device has held at most; None where it does not count).
    """
    compiled, state = compile_program(program)
    batches = itertools.repeat(program.batch)
    if warmup:
        state, _ = run_steps(compiled.step, state, program.keys, batches, warmup)
    times = []
    for _ in progress(range(GROUPS), "groups of steps"):
        count = steps // GROUPS
        state, seconds = run_steps(compiled.step, state, program.keys, batches, count)
        times.append(seconds)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "trace": compiled.trace_seconds,
        "compile": compiled.compile_seconds,
        "first_step": compiled.first_step_seconds,
        **summary("step", times),
        "program_bytes": compiled.program_bytes,
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


def measure_with_input(
    config: ml_collections.ConfigDict, *, steps: int
) -> dict[str, Any]:
    """Times a config's step alone, its input alone and both together, in turns.

    Returns:
        Seconds for a batch, each with `_min` and `_max`: `step`, `input`, `both`.
        `added` is the share of the step's time that the input adds, the median
        over the turns.

    Raises:
        ValueError: the config cannot be used.
    """
    setup = build(config)
    program = setup.program
    keys = program.make_keys()
    with open_input(setup, config.seed) as batches:
        resident = next(batches)
    compiled, state = compile_program(
        Program(program.train_step, program.init_state, keys, resident)
    )
    step, count = compiled.step, steps // GROUPS
    times = {"step": [], "input": [], "both": []}
    for turn in progress(range(GROUPS), "turns"):
        repeated = itertools.repeat(resident)
        state, seconds = run_steps(step, state, keys, repeated, count)
        times["step"].append(seconds)
        with open_input(setup, config.seed + turn) as batches:
            start = time.perf_counter()
            for batch in itertools.islice(batches, count):
                jax.block_until_ready(batch)
            times["input"].append((time.perf_counter() - start) / count)
        with open_input(setup, config.seed + turn) as batches:
            state, _ = run_steps(step, state, keys, batches, BUFFERED)
            state, seconds = run_steps(step, state, keys, batches, count)
            times["both"].append(seconds)
    results = {}
    for name, values in times.items():
        results |= summary(name, values)
    # Of neighbours in time: the machine's speed may change between turns.
    ratios = [b / a for a, b in zip(times["step"], times["both"], strict=True)]
    return results | {"added": statistics.median(ratios) - 1}


@contextlib.contextmanager
def open_input(setup: Setup, seed: int) -> Iterator[DevicePrefetch]:
    """The training batches of a config, on the device.

    Those that waited in buffers while the threads had the machine to themselves are
    used up before.
    """
    batches = setup.data.train_batches(seed=seed)
    placement = sharding.batch_sharding(setup.program.mesh)
    with prefetch_to_device(batches, placement) as batches:
        for _ in range(BUFFERED):
            jax.block_until_ready(next(batches))
        yield batches


def summary(name: str, times: list[float]) -> dict[str, float]:
    """Median, least and most, as `name`, `name_min`, `name_max`."""
    return {
        name: statistics.median(times),
        f"{name}_min": min(times),
        f"{name}_max": max(times),
    }


def progress(items: Iterable[Any], unit: str) -> Iterable[Any]:
    """A bar on a terminal, nothing elsewhere."""
    return tqdm(items, desc=unit, disable=not sys.stderr.isatty(), leave=False)
