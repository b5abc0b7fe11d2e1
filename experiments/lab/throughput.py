"""Speed and memory of forward passes on this machine, measured once and kept."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.lab.command import hardware
from vit_jax.models import AnyModel
from vit_jax.planning.chips import CHIPS
from vit_jax.planning.flops import model_macs
from vit_jax.planning.timing import GROUPS, measure, repeated_forward
from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import write_atomically

# Without an accelerator, batches have to fit into the paper's TPUv3 core.
TPU_V3_CORE = CHIPS["v3"].memory


class Forward:
    """Measurements by name, kept in a file and taken once.

    Args:
        path: the file; measurements of another kind of device in it are ignored.

    Attributes:
        hardware: a description of the device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.device = f"{jax.devices()[0].device_kind} x {jax.device_count()}"
        self.hardware = hardware()
        self.rows: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            by_device = read_json(path, dict[str, dict[str, dict[str, Any]]])
            self.rows = by_device.get(self.device, {})

    def __call__(
        self, name: str, model: AnyModel, batches: Sequence[int]
    ) -> dict[str, Any]:
        """The fastest of some batch sizes, and the memory that a batch needs.

        Returns:
            `images/s` of the fastest batch; `least` and `most`, the same for the
            slowest and fastest of the `GROUPS` groups of steps; `batch`, its size;
            `macs` of an image; `bytes`, for each batch size that fits, as pairs.

        Raises:
            RuntimeError: not even the smallest batch fits.
        """
        if name not in self.rows:
            print(f"forward pass of {name}", flush=True)
            self.rows[name] = fastest(model, sorted(batches))
            text = json.dumps({self.device: self.rows}, indent=1)
            write_atomically(self.path, text + "\n")
        return self.rows[name]


def fastest(model: AnyModel, batches: Sequence[int]) -> dict[str, Any]:
    """Measures; see `Forward`."""
    rows = []
    for batch in batches:
        try:
            program = repeated_forward(model, batch)
            # The first step, which is not timed, is enough to warm up.
            rows.append((batch, measure(program, steps=GROUPS, warmup=0)))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or not rows:
                raise
            break
    batch, times = max(rows, key=lambda row: row[0] / row[1]["step"])
    return {
        "images/s": batch / times["step"],
        "least": batch / times["step_max"],
        "most": batch / times["step_min"],
        "batch": batch,
        "macs": model_macs(model),
        "bytes": [(batch, row["program_bytes"]) for batch, row in rows],
    }


def image_bytes(row: dict[str, Any]) -> float:
    """Bytes that one more image needs, from the two largest batches of a row."""
    (small, first), (large, last) = row["bytes"][-2:]
    return (last - first) / (large - small)


def largest_batch(row: dict[str, Any], memory: int) -> int:
    """The largest power of two that fits, 0 for none.

    The bytes that the compiler states for two batch sizes are extrapolated linearly.

    Args:
        row: a measurement of `Forward` with at least two batch sizes.
    """
    batch, needed = row["bytes"][-1]
    images = batch + (memory - needed) / image_bytes(row)
    return 2 ** (int(images).bit_length() - 1) if images >= 1 else 0


def device_memory() -> int:
    """Bytes of the first device's memory; those of a TPUv3 core if it is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", TPU_V3_CORE)
