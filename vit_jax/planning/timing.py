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

from vit_jax.config import resolve_lengths
from vit_jax.data.device import DevicePrefetch, prefetch_to_device
from vit_jax.models import AnyModel, init_params
from vit_jax.models.pixels import normalize
from vit_jax.parallel import sharding
from vit_jax.parallel.determinism import compiler_options
from vit_jax.parallel.placement import place
from vit_jax.training.metrics import Meter
from vit_jax.training.setup import Setup, abstract_batch, build, build_program
from vit_jax.training.step import Batch, named_keys

# A figure is the median over so many groups of steps.
GROUPS = 5
IMAGENET_EXAMPLES = 1_281_167
# At most so many batches wait: two decoded, two on the device.
BUFFERED = 4


class RepeatedStep(NamedTuple):
    """A jitted step `(state, batch, keys) -> (state, metrics)` and what it runs on."""

    step: Callable[..., Any]
    init_state: Callable[[], Any]
    keys: Any
    batch: Batch


class Compiled(NamedTuple):
    """A compiled step; times in seconds, memory in bytes for each device."""

    step: Callable[..., Any]
    trace_seconds: float
    compile_seconds: float
    first_step_seconds: float
    program_bytes: int


def repeated_training(
    config: ml_collections.ConfigDict, num_classes: int
) -> tuple[AnyModel, RepeatedStep]:
    """The model of a config, and its training step on one batch of random pixels.

    Raises:
        ValueError: the config cannot be used.
    """
    lengths = resolve_lengths(config, IMAGENET_EXAMPLES)
    program = build_program(config, num_classes=num_classes, lengths=lengths)
    batch = random_batch(program.model, program.batch)
    step = program.train_step
    keys = program.make_keys()
    return program.model, RepeatedStep(step, program.init_state, keys, batch)


def repeated_forward(model: AnyModel, batch_size: int) -> RepeatedStep:
    """The forward pass of a model with a head, on one batch of random pixels.

    Its state is the parameters.

    Raises:
        ValueError: the batch cannot be divided over the devices.
    """
    mesh = sharding.make_mesh(data=-1, fsdp=1, tensor=1)
    sharding.check_batch("--batch", batch_size, mesh)
    everywhere = sharding.replicated(mesh)
    options = compiler_options(mesh.devices.flat[0].platform, wanted=False)
    jit = functools.partial(jax.jit, compiler_options=options, out_shardings=everywhere)

    @functools.partial(jit, donate_argnums=0)
    def step(params, batch, _keys):
        images = normalize(batch["image"])
        logits, _ = model.apply({"params": params}, images, train=False)
        return params, {"logit": logits.mean()}

    @jit
    def init_state():
        return init_params(model, named_keys(0).params)

    shapes = abstract_batch(batch_size, model.image_size, mesh)
    return RepeatedStep(step, init_state, (), random_batch(model, shapes))


def random_batch(model: AnyModel, shapes: Batch) -> Batch:
    """Random pixels, labels and teacher of the shapes, on their devices."""
    rng = np.random.default_rng(0)
    most = {"image": 256, "label": model.num_classes}

    def drawn(path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[0].key in most:
            return rng.integers(0, most[path[0].key], x.shape, x.dtype)
        return rng.normal(scale=0.02, size=x.shape).astype(x.dtype)

    arrays = jax.tree_util.tree_map_with_path(drawn, shapes)
    return place(arrays, jax.tree.map(lambda x: x.sharding, shapes))


def compile_program(program: RepeatedStep) -> tuple[Compiled, Any]:
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


def measure(program: RepeatedStep, *, steps: int, warmup: int) -> dict[str, Any]:
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
        resident = next(batches) | setup.teacher
    compiled, state = compile_program(
        RepeatedStep(program.train_step, program.init_state, keys, resident)
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
            whole = (batch | setup.teacher for batch in batches)
            state, _ = run_steps(step, state, keys, whole, BUFFERED)
            state, seconds = run_steps(step, state, keys, whole, count)
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
