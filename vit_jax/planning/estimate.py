"""Memory, time and device-days of a training run, from the costs of its step.

All times are those of a roofline (Williams et al. 2009): arithmetic, memory and links
each at their peak and overlapping fully. They are lower bounds of real steps.
"""

import math
import re
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from vit_jax.planning.chips import CHIPS, GIB, Chip
from vit_jax.planning.collectives import Collective

# Utilisation that Table 2 of arXiv 2010.11929 implies for its runs on TPU v3, with the
# FLOPs of Table 6: 19.7 (H/14, 14 epochs of JFT), 26.7 (L/16, 14) and 23.7e12 FLOP/s
# (L/16, 90 epochs of ImageNet-21k) a core, of 61.5e12 at peak. `implied_utilisation`.
PAPER_UTILISATION = 0.38
# Examples and classes of the training splits of well-known data sets.
DATA_SETS = {
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "imagenet2012": (1_281_167, 1000),
    "imagenet21k": (14_197_122, 21_843),
    "jft": (303_000_000, 18_291),  # JFT-300M as in arXiv 2010.11929
    "jft3b": (3_000_000_000, 30_000),  # arXiv 2106.04560, section 2.1: nearly 3 billion
}


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
        parameters, optimizer, average: of the training state (the average is the EMA).
        batch: the images and labels of a step, and the parameters of a teacher.
        temporaries: activations, gradients and everything else within a step.
        total: the sum.
        peak: the most that is in use at one time, as XLA states it. Less than the sum
            where temporaries do not all live at once; never less on GPUs, where the
            temporaries of a program are one allocation.
        available: bytes for a program on the device; None if that is not known.
    """

    parameters: int
    optimizer: int
    average: int
    batch: int
    temporaries: int
    total: int
    peak: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits the device; None if its memory is not known."""
        return None if self.available is None else self.peak <= self.available


def memory_in_error(error: RuntimeError) -> tuple[int, int]:
    """Bytes that the compiler needed, and bytes that were available.

    Raises:
        JaxRuntimeError: the error is another one.
    """
    sizes = re.findall(r"\b([\d.]+)([KMGT])\b", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
        raise error
    powers = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, available = (int(float(n) * powers[unit]) for n, unit in sizes[:2])
    return needed, available


class Roofline(NamedTuple):
    """Seconds of a step at the peaks of a chip.

    Attributes:
        compute, memory: for arithmetic, and for traffic with HBM.
        links: for traffic over NVLink or ICI.
        network: for traffic between hosts or slices; None if its speed is not known.
    """

    compute: float
    memory: float
    links: float
    network: float | None

    @property
    def step(self) -> float:
        """The longest of these times."""
        return max(self.compute, self.memory, self.links, self.network or 0.0)

    @property
    def bound(self) -> str:
        """The name of the longest."""
        return max(self._fields, key=lambda name: getattr(self, name) or 0.0)


def memory_of(
    state: Any, batch: Any, temporaries: int, peak: int, available: int | None
) -> Memory:
    """Bytes of a device, from arguments that are shapes with shardings.

    Args:
        temporaries: bytes that the program needs beside the arguments.
        peak: the program's peak; 0 if the compiler does not state it.
    """
    params, opt_state, ema = map(
        device_bytes, (state.params, state.opt_state, state.ema)
    )
    inputs = device_bytes(batch)
    total = params + opt_state + ema + inputs + temporaries
    return Memory(
        params, opt_state, ema, inputs, temporaries, total, peak or total, available
    )


def device_bytes(tree: Any) -> int:
    """Bytes of the first device's pieces of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def roofline(
    chip: Chip,
    dtype: str,
    flops: float,
    hbm_bytes: float,
    collectives: list[Collective],
) -> Roofline:
    """The least time of a step on one kind of chip.

    Args:
        dtype: inputs of the matrix products.
        flops, hbm_bytes, collectives: those of one device.
    """
    peak = chip.float32 if dtype == "float32" else chip.bfloat16
    network = sum(row.network for row in collectives)
    crossing = network / chip.network if network and chip.network else None
    return Roofline(
        flops / peak,
        hbm_bytes / chip.bandwidth,
        (sum(row.sent for row in collectives) - network) / chip.links,
        crossing if network else network,
    )


def core_days(
    exaflops: float,
    *,
    utilisation: float = PAPER_UTILISATION,
    peak: float = CHIPS["v3"].bfloat16,
) -> float:
    """Device-days of a run: by default TPUv3-core-days, as the paper's Table 2 counts.

    Args:
        exaflops: 1e18 of the run's FLOPs, without recomputation.
        utilisation: share of the peak that is reached (MFU).
        peak: FLOP/s of a device; a TPUv3 core has half of its chip's.
    """
    return exaflops * 1e18 / (utilisation * peak) / 86400


def implied_utilisation(
    exaflops: float, days: float, *, peak: float = CHIPS["v3"].bfloat16
) -> float:
    """The share of the peak (MFU) at which a run takes a number of device-days.

    With the core-days of Table 2: 0.32 for ViT-H/14 (2.5k) and 0.43 for ViT-L/16
    (0.68k) on JFT, 0.39 for ViT-L/16 on ImageNet-21k (0.23k), 0.25 for BiT-L (R152x4,
    9.9k, with 40 epochs).

    Args:
        exaflops, days, peak: the arguments and the result of `core_days`.
    """
    return core_days(exaflops, utilisation=1.0, peak=peak) / days


def advice(
    config: ml_collections.ConfigDict, memory: Memory, devices: int
) -> list[str]:
    """Changes of the config that save memory, the cheapest first."""
    state = memory.parameters + memory.optimizer + memory.average
    options = []
    if state > (memory.available or 0) / 4 and config.mesh.fsdp == 1 and devices > 1:
        options.append(f"--config.mesh.fsdp={devices} --config.mesh.data=1")
    if config.model.remat == "none":
        options.append("--config.model.remat=dots")
    if config.model.remat != "full" or not config.model.scan:
        options.append("--config.model.remat=full --config.model.scan=true")
    if config.optim.momentum_dtype == "float32":
        options.append("--config.optim.momentum_dtype=bfloat16")
    pieces = 2 * config.train.accumulate_steps
    if config.data.batch_size % (devices * pieces) == 0:
        options.append(f"--config.train.accumulate_steps={pieces}")
    options += ["a smaller --config.data.batch_size", "more devices"]
    return options


def in_gib(size: float) -> str:
    """Bytes as text with three significant digits."""
    if size >= 1000 * GIB:
        return f"{size / GIB:,.0f} GiB"
    return f"{size / GIB:.3g} GiB" if size >= GIB / 100 else f"{size / 2**20:.3g} MiB"
