"""Lines and learning curves through measurements at several sizes.

The factor of compute between two families (section 4.4 of the paper), and the amount of
data from which one model overtakes another (section 4.3, Fig. 4).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from experiments.lab.statistics import ROUNDING, Interval, finite

RESAMPLES = 4000


class Crossing(NamedTuple):
    """Where one learning curve overtakes another.

    `at.value` and its bounds are amounts of data: 0 means below the smallest amount
    measured, inf beyond the largest.
    """

    at: Interval
    side: Literal["crosses", "ahead everywhere", "behind at the end"]
    range: tuple[float, float]  # smallest and largest amount measured

    def text(self, unit: str = "examples") -> str:
        """For example `at 2,300 examples, 95 % CI [1,200, 5,000]`."""
        least, most = self.range

        def amount_text(amount: float) -> str:
            if amount == 0:
                return f"< {least:,.0f}"
            if amount == math.inf:
                return f"> {most:,.0f}"
            # Three significant digits.
            return f"{float(f'{amount:.3g}'):,.0f}"

        if self.side == "ahead everywhere":
            place = f"below {least:,.0f} {unit}, if anywhere"
        elif self.side == "behind at the end":
            place = f"beyond {most:,.0f} {unit}, if anywhere"
        else:
            place = f"at {amount_text(self.at.value)} {unit}"
        if math.isnan(self.at.low):
            return f"{place}, no interval ({self.at.method})"
        ends = f"[{amount_text(self.at.low)}, {amount_text(self.at.high)}]"
        return f"{place}, {100 * self.at.level:.3g} % CI {ends} ({self.at.method})"


def equal_performance_ratio(
    x_a: Sequence[float],
    error_a: Sequence[float],
    x_b: Sequence[float],
    error_b: Sequence[float],
    level: float = 0.95,
) -> Interval:
    """The x that models `a` need for the same error, as a multiple of the x of `b`.

    Two parallel lines ln error = c + slope · ln x are fitted (section 4.4 of the paper
    reads the factor off Fig. 5). Below 1, `a` needs less. The interval is Fieller's for
    a ratio, with n - 3 degrees of freedom: a point is a model, its error the mean over
    its seeds, since what the lines do not fit is the same for all of them.

    Args:
        error_a, error_b: such as 100 - accuracy, which is closer to a power of x than
            accuracy is.

    Returns:
        NaN unless the error falls with x for certain at this level.
    """
    log_x = np.log(np.concatenate([_positive(x_a), _positive(x_b)]))
    log_y = np.log(np.concatenate([_positive(error_a), _positive(error_b)]))
    is_a = np.arange(len(log_x)) < len(x_a)
    freedom = len(log_x) - 3
    if freedom < 1:
        raise ValueError(f"two parallel lines need 4 points or more: got {freedom + 3}")
    design = np.stack([is_a, ~is_a, log_x], axis=1).astype(float)
    solution, *_ = np.linalg.lstsq(design, log_y)
    residual = log_y - design @ solution
    variance = residual @ residual / freedom
    # The log ratio is that of the lines' distance to their slope.
    rows = np.array([[-1.0, 1, 0], [0, 0, 1]])
    distance, slope = rows @ solution
    half = special.stdtrit(freedom, (1 + level) / 2)
    (dd, ds), (_, ss) = (
        half**2 * variance * (rows @ np.linalg.inv(design.T @ design) @ rows.T)
    )
    if slope + math.sqrt(ss) >= 0:
        nan = math.nan
        return Interval(nan, nan, nan, level, "error does not fall for certain")
    method = f"parallel lines, {len(x_a)} and {len(x_b)} models"
    value = _exp(distance / slope)
    if math.sqrt(variance) <= ROUNDING:
        return Interval(value, 0, math.inf, level, f"no spread, {method}")
    square, middle = slope**2 - ss, distance * slope - ds
    root = math.sqrt(middle**2 - square * (distance**2 - dd))
    low, high = (_exp((middle + sign * root) / square) for sign in (-1, 1))
    return Interval(value, low, high, level, method)


def crossing(
    x: Sequence[float],
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    level: float = 0.95,
    seed: int = 0,
) -> Crossing:
    """The amount of data from which on curve `a` is above curve `b`.

    The seeds' mean curves are joined by straight lines over ln x, and the last change
    from below to above is taken: at the smallest amounts both may be at chance, where
    the sign means nothing.

    The interval comes from `RESAMPLES` pairs of curves drawn around the means, each
    point by Student's t with the spread and the number of its own seeds (the fiducial
    distribution of Behrens and Fisher, whose intervals are rather too wide than too
    narrow). A resample that does not cross counts as beyond the end it points to, and a
    bound may be there.

    Args:
        x: increasing amounts of data (points,).
        a: accuracies (seeds, points) of the model that is claimed to overtake.
        b: those of the other; its number of seeds may differ.
    """
    amounts = _positive(x)
    if len(amounts) < 2 or (np.diff(amounts) <= 0).any():
        raise ValueError(f"amounts of data must increase: got {list(amounts)}")
    curves = [np.atleast_2d(np.asarray(c, float)) for c in (a, b)]
    for curve in curves:
        if curve.shape[1] != len(amounts) or not np.isfinite(curve).all():
            raise ValueError(
                f"a curve needs a finite value for each of {len(amounts)} amounts and "
                f"each seed: got shape {curve.shape}"
            )
    log_x = np.log(amounts)
    means = [curve.mean(axis=0) for curve in curves]
    value = float(_overtakes(log_x, means[0] - means[1]))
    side = "crosses"
    if value in (0, math.inf):
        side = "ahead everywhere" if value == 0 else "behind at the end"
    span = (float(amounts[0]), float(amounts[-1]))
    if min(len(curve) for curve in curves) < 2:
        at = Interval(value, math.nan, math.nan, level, "one seed")
        return Crossing(at, side, span)
    rng = np.random.default_rng(seed)
    above, below = (_redraw(curve, rng) for curve in curves)
    places = np.sort(_overtakes(log_x, above - below))
    # Order statistics, as no interpolation between a number and infinity is possible.
    outside = int((1 - level) / 2 * RESAMPLES)
    low, high = float(places[outside]), float(places[-1 - outside])
    method = f"resampled curves, {len(curves[0])} and {len(curves[1])} seeds"
    return Crossing(Interval(value, low, high, level, method), side, span)


def _overtakes(log_x: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """The x at which gaps (..., points) last turn positive (...,).

    0 if that is below the first point, inf if beyond the last.
    """
    behind, end = gap < 0, len(log_x) - 1
    last = end - np.argmax(behind[..., ::-1], axis=-1)
    # Beyond the last point there is no line; the result is replaced below.
    left = np.minimum(last, end - 1)
    first, second = (
        np.take_along_axis(gap, (left + i)[..., None], -1)[..., 0] for i in (0, 1)
    )
    part = np.clip(first / np.where(first == second, 1.0, first - second), 0, 1)
    place = np.exp(log_x[left] + part * (log_x[left + 1] - log_x[left]))
    place = np.where(last == end, math.inf, place)
    return np.where(behind.any(axis=-1), place, 0.0)


def _redraw(curve: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean curves (RESAMPLES, points) that the seeds (seeds, points) may stand for."""
    seeds, points = curve.shape
    error = curve.std(axis=0, ddof=1) / math.sqrt(seeds)
    noise = rng.standard_t(seeds - 1, size=(RESAMPLES, points))
    return curve.mean(axis=0) + noise * error


def _exp(x: float) -> float:
    """Infinity where exp(x) overflows: lines that are almost flat are far apart."""
    return math.exp(x) if x < 700 else math.inf


def _positive(values: Sequence[float]) -> np.ndarray:
    array = finite(values)
    if (array <= 0).any():
        raise ValueError(f"a logarithm needs values above 0: got {array.tolist()}")
    return array
