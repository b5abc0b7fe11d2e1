"""The largest batch that fits, with few compilations.

Memory is nearly linear in the batch. The second batch to compile is extrapolated from
the state, which is needed without any batch, and a first small batch. Later ones are
extrapolated from the two largest as long as all fit, then interpolated between the two
that enclose the limit, in turns with bisection. The batch that is returned was itself
compiled and fits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from vit_jax.planning.estimate import in_gib

# Images a device by which batches differ, and the first batch in these units.
STEP = 8
FIRST = 8
# The search ends when the batch could grow by less than this share.
NEAR = 1 / 50


def batch_unit(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> int:
    """The number that all tried batch sizes are multiples of.

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
        plan_of: gives the plan of a batch size, as `run_plan.plan_run` does.
        unit: batch sizes are multiples of it.
        show: called with a line of text for each try.

    Returns:
        The plan of that batch. A batch that is larger by a fiftieth and by `unit` does
        not fit: either it was compiled, or linear interpolation says so.

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
        # A compiler may understate the memory of a program that it refuses.
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
        needed: bytes by the size in units, for 0 and for the sizes tried, in order.
        available: bytes of the device.
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
    # A compiler that begins to rematerialise can need less for a larger batch.
    guess = low + low // 4 + 1
    if growth > 0:
        guess = first + int((available - needed[first]) / growth)
    if above is None:
        return guess if guess - low >= near else None
    # Bisect every other time: where memory is not linear, interpolation alone is slow.
    sizes = list(needed)
    first_above = next(i for i, n in enumerate(sizes) if needed[n] > available)
    if (len(sizes) - first_above) % 2 == 0:
        guess = (low + above) // 2
    return min(max(guess, low + 1), above - 1)
