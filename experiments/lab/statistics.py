"""Uncertainty of what the experiments measure, and the rule that judges a claim.

The unit of repetition is the seed: one training run. Experiments have three seeds, too
few to resample: intervals are Student's t, which is exact for normal noise even for
two, and then very wide. With one seed the interval is the whole line, so that no claim
can rest on it. The same holds where all seeds agree exactly: accuracies are multiples
of one image, and can coincide whatever their spread is.

Every function is pure.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import special

# A standard error below this share of the value, or of 1, is rounding.
ROUNDING = 1e-9

Verdict = Literal["supported", "not supported", "undecided", "out of reach here"]
Direction = Literal[">", "<", "within"]


class Interval(NamedTuple):
    """An estimate and the interval that covers the truth at the stated level."""

    value: float
    low: float
    high: float
    level: float
    method: str  # how the bounds were found, as the report prints it

    def text(self, unit: str = "", factor: float = 1.0, sign: bool = False) -> str:
        """For example `+2.1 points, 95 % CI [1.3, 2.9] (t, n = 3)`.

        Args:
            unit: written after the value.
            factor: multiplies the numbers; 100 for percentage points.
            sign: whether a positive value has its sign, as differences should.
        """
        if math.isnan(self.value):
            return f"no value ({self.method})"
        value, low, high = (factor * number for number in self[:3])
        digits = decimals(value, high - low)
        text = f"{value:{'+' if sign else ''}.{digits}f}"
        text += f" {unit}" if unit else ""
        if not (math.isfinite(low) or math.isfinite(high)):
            return f"{text}, no interval ({self.method})"
        ends = f"[{low:.{digits}f}, {high:.{digits}f}]"
        return f"{text}, {100 * self.level:.3g} % CI {ends} ({self.method})"


def joint_level(count: int, level: float = 0.95) -> float:
    """The level of each of several intervals that hold all at once at `level`.

    Bonferroni's: it supposes nothing about how the intervals depend on each other. The
    parts of a claim are judged with it, and so are comparisons with the best of several
    arms, where any of them could have been the best.
    """
    return 1 - (1 - level) / count


def mean_std(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean, standard deviation over seeds (n - 1; NaN for one seed) and their number.

    Raises:
        ValueError: there is no value.
    """
    array = finite(values)
    std = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return float(array.mean()), std, len(array)


def mean_interval(
    values: Sequence[float], level: float = 0.95, *, scale: float = 0.0
) -> Interval:
    """The mean over seeds with its interval, by Student's t.

    Args:
        scale: the largest of what the values are differences of, see `t_interval`.
    """
    array = finite(values)
    n = len(array)
    if n == 1:
        return Interval(float(array[0]), -math.inf, math.inf, level, "one seed")
    error = float(array.std(ddof=1)) / math.sqrt(n)
    scale = max(scale, float(abs(array).max()))
    return t_interval(float(array.mean()), error, n - 1, level, f"t, n = {n}", scale)


def verdict(interval: Interval, direction: Direction, bound: float = 0.0) -> Verdict:
    """Judges a claim about a quantity by where its whole interval lies.

    Args:
        direction: the claim: the quantity is above the bound, below it, or no further
            from zero than it ("as good as", within a stated margin).

    Returns:
        "supported" if the whole interval lies where the claim says, "not supported" if
        none of it does, else "undecided".
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be '>', '<' or 'within': got {direction!r}")
    low, high = interval.low, interval.high
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if direction == "within":
        inside = -bound <= low and high <= bound
        outside = low > bound or high < -bound
    else:
        above, below = low > bound, high < bound
        inside, outside = (above, below) if direction == ">" else (below, above)
    return "supported" if inside else "not supported" if outside else "undecided"


def room(interval: Interval, direction: Direction, bound: float = 0.0) -> float:
    """How far within the range that is claimed the worse end of an interval lies."""
    low, high = interval.low - bound, bound - interval.high
    return {">": low, "<": high, "within": min(bound + interval.low, high)}[direction]


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts: the worst of theirs."""
    if not verdicts:
        raise ValueError("a claim needs at least one part: got none")
    for worst in ("not supported", "out of reach here", "undecided"):
        if worst in verdicts:
            return worst
    return "supported"


def t_interval(
    value: float,
    error: float,
    freedom: float,
    level: float,
    method: str,
    scale: float,
) -> Interval:
    """value ± t · standard error; the whole line for an error of zero.

    Args:
        freedom: degrees of freedom of the error, not always a whole number.
        scale: the largest absolute value that was compared. An error that is rounding
            beside it counts as zero; one of measures that are as small themselves, such
            as of what is exact but for rounding, does not.
    """
    if error <= ROUNDING * scale:
        return Interval(value, -math.inf, math.inf, level, f"no spread, {method}")
    half = error * float(special.stdtrit(freedom, (1 + level) / 2))
    return Interval(value, value - half, value + half, level, method)


def finite(values: Sequence[float]) -> np.ndarray:
    """The values as float64 (n,).

    Raises:
        ValueError: there is none, or one is NaN or infinite.
    """
    array = np.asarray(values, float).reshape(-1)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(f"wanted one finite value or more: got {array.tolist()}")
    return array


def decimals(value: float, width: float) -> int:
    """Decimals that show a width by two digits; a value by three if it has no width."""
    size = width if 0 < width < math.inf else abs(value) / 10
    return 3 if size == 0 else min(max(1 - math.floor(math.log10(size)), 0), 6)
