"""Uncertainty of what the experiments measure, and the rule that judges a claim.

The unit of repetition is the seed: one training run. Experiments have two or three
seeds, where resampling them would give intervals that are far too narrow (two seeds
have three distinct resamples). Hence:

- fewer than `MIN_BOOTSTRAP_SEEDS` seeds: Student's t, which is exact for normal noise
  even for two seeds, and then very wide;
- as many or more: percentile bootstrap;
- one seed: the interval is the whole line, so that no claim can rest on it.

Every function is pure; random numbers come from a generator with a stated seed.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import stats

MIN_BOOTSTRAP_SEEDS = 10
RESAMPLES = 2000

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
        value, low, high = (factor * number for number in self[:3])
        digits = decimals(value, high - low)
        text = f"{value:{'+' if sign else ''}.{digits}f}"
        text += f" {unit}" if unit else ""
        if not (math.isfinite(low) or math.isfinite(high)):
            return f"{text}, no interval ({self.method})"
        ends = f"[{low:.{digits}f}, {high:.{digits}f}]"
        return f"{text}, {100 * self.level:.0f} % CI {ends} ({self.method})"


class Correlation(NamedTuple):
    """Spearman's rank correlation."""

    rho: float  # in [-1, 1]
    p: float  # two-sided, by permutation
    n: int


def mean_std(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean, standard deviation over seeds (n - 1; NaN for one seed) and their number.

    Raises:
        ValueError: there is no value.
    """
    array = finite(values)
    std = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return float(array.mean()), std, len(array)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean over seeds with its interval, by the rule in the module's docstring."""
    array = finite(values)
    n = len(array)
    if n >= MIN_BOOTSTRAP_SEEDS:
        return bootstrap(array[:, None], level=level)
    if n == 1:
        return Interval(
            float(array[0]), -math.inf, math.inf, level, "no interval of one seed"
        )
    error = float(array.std(ddof=1)) / math.sqrt(n)
    return t_interval(float(array.mean()), error, n - 1, level, f"t, n = {n}")


def bootstrap(
    samples: Sequence[Sequence[float]], level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of the seeds' means, by a hierarchical percentile bootstrap.

    Each resample draws seeds with replacement, then examples within each of them.

    Args:
        samples: the measurements of each seed, for example one per image; the seeds'
            numbers of them may differ. Below `MIN_BOOTSTRAP_SEEDS` seeds the interval
            is too narrow for statements about other seeds; with one seed it is about
            other images for the same weights only.
        seed: for the resampling.

    Raises:
        ValueError: there is no seed, or one without measurements.
    """
    arrays = [finite(sample) for sample in samples]
    if not arrays:
        raise ValueError("a bootstrap needs the values of at least one seed: got none")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(arrays), size=(RESAMPLES, len(arrays)))
    drawn = np.empty(chosen.shape)
    for number, array in enumerate(arrays):
        places = chosen == number
        drawn[places] = _resampled_means(array, int(places.sum()), rng)
    means = drawn.mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    method = f"bootstrap, {len(arrays)} seed{'s' * (len(arrays) > 1)}"
    value = float(np.mean([array.mean() for array in arrays]))
    return Interval(value, float(low), float(high), level, method)


def difference(
    a: Mapping[int, float] | Sequence[float],
    b: Mapping[int, float] | Sequence[float],
    level: float = 0.95,
) -> Interval:
    """The mean of `a` minus the mean of `b`, with its interval.

    Two mappings from seed to value are paired if they have the same seeds and at least
    three of them: the same seed stands for the same data and batches, and the noise
    that both share cancels. All else is compared by Welch's t, which supposes neither
    pairs nor equal variances. The rule looks at the seeds only, never at the values,
    so that the smaller of two intervals cannot be chosen. A spread of exactly zero
    gives an interval of no width.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() == b.keys() and len(a) >= 3:
            paired = mean_interval([a[key] - b[key] for key in a], level)
            return paired._replace(method=f"paired by seed, {paired.method}")
    first, second = (
        finite(list(c.values()) if isinstance(c, Mapping) else c) for c in (a, b)
    )
    value = float(first.mean() - second.mean())
    sizes = f"n = {len(first)} and {len(second)}"
    if min(len(first), len(second)) < 2:
        return Interval(value, -math.inf, math.inf, level, f"one seed, {sizes}")
    parts = [array.var(ddof=1) / len(array) for array in (first, second)]
    spread = sum(parts)
    freedom = math.inf
    if spread > 0:
        squares = zip(parts, (first, second), strict=True)
        freedom = spread**2 / sum(p**2 / (len(array) - 1) for p, array in squares)
    error = math.sqrt(spread)
    return t_interval(value, error, freedom, level, f"Welch t, {sizes}")


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


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts: the worst of theirs."""
    if not verdicts:
        raise ValueError("a claim needs at least one part: got none")
    for worst in ("not supported", "undecided"):
        if worst in verdicts:
            return worst
    return "supported"


def spearman(
    x: Sequence[float], y: Sequence[float], permutations: int = 9999, seed: int = 0
) -> Correlation:
    """Spearman's rank correlation; p-value by permutation, exact up to 7 points.

    The points must be exchangeable. Pairs of patches are not: take one number per
    patch, head or run.

    Raises:
        ValueError: there are fewer than three points, or x or y is constant.
    """
    first, second = (stats.rankdata(finite(values)) for values in (x, y))
    n = len(first)
    if n != len(second) or n < 3:
        raise ValueError(
            f"a rank correlation needs three pairs or more: got {n} and {len(second)}"
        )
    first, second = (ranks - ranks.mean() for ranks in (first, second))
    scale = math.sqrt((first @ first) * (second @ second))
    if scale == 0:
        raise ValueError("a rank correlation needs values that differ: one is constant")
    rho = float(first @ second / scale)
    if n <= 7:
        orders = np.array(list(itertools.permutations(range(n))))
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
        extra = 1  # The order observed is one of those possible.
    rhos = second[orders] @ first / scale
    hits = np.sum(np.abs(rhos) >= abs(rho) - 1e-12) + extra
    return Correlation(rho, float(hits / (len(orders) + extra)), n)


def t_interval(
    value: float, error: float, freedom: float, level: float, method: str
) -> Interval:
    """value ± t · standard error, for a number of degrees of freedom (inf: normal)."""
    half = error * float(stats.t.ppf((1 + level) / 2, freedom)) if error > 0 else 0.0
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


def _resampled_means(
    array: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Means (count,) of resamples of the array, a few at a time to spare memory."""
    rows = max(1, 10**6 // len(array))
    return np.concatenate(
        [
            rng.choice(array, (min(rows, count - start), len(array))).mean(axis=1)
            for start in range(0, count, rows)
        ]
        or [np.empty(0)]
    )
