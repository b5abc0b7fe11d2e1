"""Work of the training thread in a step besides dispatching it.

    python -m benchmarks.host_overhead --batch 1024 --size 224

Between two steps the thread sleeps, as if it waited for a busy device, so that loading
is ahead and only the thread's own work is measured. A host that feeds 20,000 images a
second has 51 ms for 1,024 of them, of which 1 % is 0.5 ms.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.checkpoints.store import Checkpoints
from vit_jax.cli import run_command
from vit_jax.config import to_dict
from vit_jax.config_file import read_config
from vit_jax.data import sources
from vit_jax.data.pipeline import prefetch_to_device
from vit_jax.parallel import sharding
from vit_jax.parallel.distributed import StopSignals
from vit_jax.training.loop import make_writer
from vit_jax.training.metrics import Meter
from vit_jax.training.run_folder import versions
from vit_jax.training.setup import build
from vit_jax.training.watchdog import Watchdog

IMAGES_PER_SECOND = 20_000
CLASSES = 10


class Times:
    """Calls functions, and records the seconds of the calls by name."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def __call__(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        self.of.setdefault(name, []).append(time.perf_counter() - start)
        return result


def measure(batch: int, size: int, steps: int, pause: float) -> Times:
    """Times what `vit_jax.train` does in a step, on images that are in memory.

    Args:
        pause: seconds that the thread sleeps where it would wait for the device.
    """
    config = read_config(
        "configs/digits.py",
        [
            f"--config.data.batch_size={batch}",
            f"--config.data.image_size={size},{size}",
            "--config.data.crop=resize",
            "--config.data.flip=off",
        ],
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, size, size, 3), np.uint8)
    pixels = pixels[np.arange(max(batch, 64)) % 64]
    labels = np.arange(len(pixels)) % CLASSES
    names = [str(name) for name in range(CLASSES)]
    source = sources.ArraySource(pixels, labels, names)
    sources.make_source = lambda *_, **__: source
    experiment = build(config)
    program, times = experiment.program, Times()
    state = program.init_state()
    scalar = jax.jit(lambda i: {name: i * 1.0 for name in "abcdef"} | {"fault": i < 0})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lengths = experiment.lengths._replace(total=10**6)
        writer = make_writer(folder, folder, config, lengths, 0)
        stack.callback(writer.close)
        checkpoints = Checkpoints(folder / "checkpoints")
        stack.callback(checkpoints.close)
        placement = sharding.batch_sharding(program.mesh)
        batches = prefetch_to_device(experiment.data.train_batches(seed=0), placement)
        stack.callback(batches.close)
        signals = stack.enter_context(StopSignals())
        watchdog = stack.enter_context(Watchdog(1000.0))
        meter = Meter(batch, lambda *_: True)
        for step in range(steps):
            time.sleep(pause)
            metrics = jax.block_until_ready(scalar(step))
            times("next batch", next, batches)
            times("metrics of a step", meter.add, step, metrics)
            times("watchdog", watchdog.step_begins, step)
            times("signals", signals.stop)
            times("state of the save", checkpoints.check)
            times("skipped records", writer.skipped, batches.skipped)
            if means := times("means of a row", meter.flush):
                times("a row of metrics", writer.train, step, means)
        facts = {"next_index": 0, "config": to_dict(config)}
        for step in range(1, 6):
            times("versions", versions)
            times("flush of the metrics", writer.flush)
            times("save", checkpoints.save, step, state, facts)
            checkpoints.wait()
    return times


def main(arguments: argparse.Namespace) -> None:
    """The command: prints a table."""
    step = arguments.batch / IMAGES_PER_SECOND
    size, batch = arguments.size, arguments.batch
    print(f"batch {batch} of {size} px, a step of {1e3 * step:.1f} ms at 20,000/s")
    copy = np.zeros((batch, size, size, 3), np.uint8)
    start = time.perf_counter()
    copy.copy()
    print(f"a copy of the batch takes {1e3 * (time.perf_counter() - start):.1f} ms")
    times = measure(batch, size, arguments.steps, arguments.pause)
    print("| on the training thread | median, ms | most, ms | share of a step |")
    print("|---|---|---|---|")
    for name, values in times.of.items():
        # The first calls wait for loading, or compile.
        values = values[2:] or values
        median = statistics.median(values)
        print(
            f"| {name} | {1e3 * median:.3f} | {1e3 * max(values):.3f} | "
            f"{100 * median / step:.2f} % |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host_overhead", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds in which loading is ahead"
    )
    run_command(parser, main)
