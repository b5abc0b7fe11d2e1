"""The largest batch that fits, with few compilations.

Memory grows nearly in proportion to the batch: the line through two compiled batches
tells the next one to compile, and the line through the two nearest to the limit decides
when to stop. What is found was itself compiled and fits.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from vit_jax.planning.estimate import in_gib

# Images of a device by which batches are tried, and those of the first two tries.
STEP = 8
FIRST = (4, 8)


def batch_unit(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> int:
    """The batch sizes that are tried are multiples of this one.

    8 images for each device that has images of its own, and each piece of
    `train.accumulate_steps`.
    """
    tensor = max(1, config.mesh.tensor)
    return STEP * (len(devices) // tensor) * config.train.accumulate_steps


def largest_batch(
    plan_of: Callable[[int], dict[str, Any]], unit: int, show: Callable[[str], None]
) -> dict[str, Any]:
    """Searches the largest batch that fits.

    Args:
        plan_of: the plan of a batch size, as `vit_jax.plan.plan_run` gives it.
        unit: batch sizes are multiples of it.
        show: is given a line of text for each try.

    Returns:
        The plan of that batch. A batch larger by `unit` was compiled and does not fit,
        or does not by the line through the two tries nearest to the limit.

    Raises:
        ValueError: not even one `unit` fits, or the memory of the device is not known.
    """
    needed: dict[int, int] = {}
    best: dict[str, Any] = {}
    units: int | None = FIRST[0]
    while units:
        plan = plan_of(units * unit)
        memory = plan["memory"]
        if memory["available"] is None:
            raise ValueError(
                f"the memory of {plan['device_kind']} is not known, and so not what "
                "fits: give --devices or --topology"
            )
        fits, available = memory["fits"], memory["available"]
        # Of a program that it refuses, a compiler may say less than what it takes.
        needed[units] = memory["peak"] if fits else max(memory["peak"], available + 1)
        show(
            f"batch {units * unit:7,}: {in_gib(memory['peak']):>9} of "
            f"{in_gib(available)}, {'fits' if fits else 'does not fit'}; "
            f"compiled in {plan['compile_seconds']:.0f} s"
        )
        if fits and units * unit > best.get("batch_size", 0):
            best = plan
        units = next_try(needed, available)
    if not best:
        raise ValueError(
            f"not even a batch of {unit} fits: {in_gib(needed[1])} of "
            f"{in_gib(available)}"
        )
    return best


def next_try(needed: dict[int, int], available: int) -> int | None:
    """The next size to compile; None if the largest that fits is among those tried.

    Args:
        needed: bytes for the sizes tried so far, in units.
        available: bytes there are.
    """
    low = max((n for n, size in needed.items() if size <= available), default=0)
    high = min((n for n, size in needed.items() if size > available), default=None)
    if len(needed) == 1:
        return FIRST[1] if low else 1
    first, second = sorted(needed, key=lambda n: abs(needed[n] - available))[:2]
    slope = (needed[second] - needed[first]) / (second - first)
    guess = 2 * max(needed)
    if slope > 0:
        guess = first + math.floor((available - needed[first]) / slope)
    if high is not None:
        guess = min(guess, high - 1)
    if not low:
        guess = max(guess, 1)
    return guess if guess > low and guess not in needed else None
