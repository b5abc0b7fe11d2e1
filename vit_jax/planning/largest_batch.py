"""The largest batch that fits, with few compilations.

Memory grows nearly in proportion to the batch. The line through the state, which is
there without any batch, and a first small batch tells the next one to compile; from
then on the line through the two largest while all fit, or through the tries that
enclose the limit, by turns with the middle between them. What is found was itself
compiled and fits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from vit_jax.planning.estimate import in_gib

# Images of a device by which batches differ, and the first batch in these units.
STEP = 8
FIRST = 8
# The search ends when what may still be gained is less than this part of what is found.
NEAR = 1 / 50


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
        The plan of that batch. One that is larger by more than a fiftieth and by `unit`
        does not fit: it was compiled, or the line says so.

    Raises:
        ValueError: not even one `unit` fits, or the memory of the device is not known.
    """
    needed: dict[int, int] = {}
    best: dict[str, Any] = {}
    units: int | None = FIRST
    available = 0
    while units:
        plan = plan_of(units * unit)
        memory = plan["memory"]
        available = memory["available"]
        if available is None:
            raise ValueError(
                f"the memory of {plan['device_kind']} is not known, and so not what "
                "fits: give --devices or --topology"
            )
        needed.setdefault(0, memory["parameters"] + memory["optimizer"])
        # Of a program that it refuses, a compiler may say less than what it takes.
        fits = memory["fits"]
        needed[units] = memory["peak"] if fits else max(memory["peak"], available + 1)
        show(
            f"batch {units * unit:7,}: {in_gib(memory['peak']):>9} of "
            f"{in_gib(available)}, {'fits' if fits else 'does not fit'}; compiled in "
            f"{plan['compile_seconds']:.0f} s"
        )
        if fits and units * unit > best.get("batch_size", 0):
            best = plan
        units = next_try(needed, available)
    if not best:
        raise ValueError(
            f"not even a batch of {unit} fits: {in_gib(min(needed.values()))} or more "
            f"of {in_gib(available)}"
        )
    return best


def next_try(needed: dict[int, int], available: int) -> int | None:
    """The next size to compile; None if the largest that fits is among those tried.

    Args:
        needed: bytes for the sizes tried so far, in units, in their order, and for 0.
        available: bytes there are.
    """
    fitting = sorted(n for n, size in needed.items() if size <= available)
    above = min((n for n, size in needed.items() if size > available), default=None)
    if not fitting:
        return None
    low = fitting[-1]
    near = max(1, int(low * NEAR))
    if above is None:
        first, second = fitting[-2:]
    elif above - low <= near:
        return None
    else:
        first, second = low, above
    growth = (needed[second] - needed[first]) / (second - first)
    # A compiler that begins to compute twice can need less for a larger batch.
    guess = low + low // 4 + 1
    if growth > 0:
        guess = first + int((available - needed[first]) / growth)
    if above is None:
        return guess if guess - low >= near else None
    # Where memory is no line, lines alone would come near from one side, bit by bit.
    sizes = list(needed)
    first_above = next(i for i, n in enumerate(sizes) if needed[n] > available)
    if (len(sizes) - first_above) % 2 == 0:
        guess = (low + above) // 2
    return min(max(guess, low + 1), above - 1)
