"""Lines and learning curves fitted to measurements at several sizes.

Scaling with data and compute: exponents, the factor of compute between two families
(section 4.4 of the paper) and the amount of data from which one model overtakes
another (section 4.3, Fig. 4).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments.lab.statistics import Interval, finite, t_interval

RESAMPLES = 4000


class Line(NamedTuple):
    """A straight line through transformed points, by least squares."""

    intercept: float
    slope: Interval
    residual: float  # standard deviation around the line, n - 2 degrees of freedom


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


def fit_log_linear(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Line:
    """Fits y = intercept + slope · ln x; x > 0, at least three points."""
    return _fit_line(np.log(_positive(x)), finite(y), level)


def fit_power(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Line:
    """Fits ln y = intercept + slope · ln x: slope is the exponent; x, y > 0."""
    return _fit_line(np.log(_positive(x)), np.log(_positive(y)), level)


def equal_performance_ratio(
    x_a: Sequence[float],
    y_a: Sequence[float],
    x_b: Sequence[float],
    y_b: Sequence[float],
    level: float = 0.95,
) -> Interval:
    """The x that models `a` need for the same y, as a multiple of the x of `b`.

    Two parallel lines ln y = c + slope · ln x are fitted (section 4.4 of the paper
    reads the factor off Fig. 5). Below 1, `a` needs less. Use an error such as
    100 - accuracy for y, which is closer to a power of x than accuracy is. The
    interval is by the delta method on the logarithm, with n - 3 degrees of freedom: a
    point is a model, its y the mean over its seeds, since what the lines do not fit is
    the same for all of them.
    """
    log_x = np.log(np.concatenate([_positive(x_a), _positive(x_b)]))
    log_y = np.log(np.concatenate([_positive(y_a), _positive(y_b)]))
    is_a = np.arange(len(log_x)) < len(x_a)
    freedom = len(log_x) - 3
    if freedom < 1:
        raise ValueError(f"two parallel lines need 4 points or more: got {freedom + 3}")
    design = np.stack([is_a, ~is_a, log_x], axis=1).astype(float)
    (c_a, c_b, slope), *_ = np.linalg.lstsq(design, log_y)
    residual = log_y - design @ (c_a, c_b, slope)
    covariance = residual @ residual / freedom * np.linalg.inv(design.T @ design)
    shift = (c_b - c_a) / slope
    gradient = np.array([-1, 1, -shift]) / slope
    error = math.sqrt(gradient @ covariance @ gradient)
    method = f"parallel lines, {len(x_a)} and {len(x_b)} models"
    log_ratio = t_interval(float(shift), error, freedom, level, method)
    value, low, high = (_exp(x) for x in log_ratio[:3])
    return Interval(value, low, high, level, log_ratio.method)


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


def _fit_line(x: np.ndarray, y: np.ndarray, level: float) -> Line:
    if len(x) != len(y) or len(x) < 3 or np.ptp(x) == 0:
        raise ValueError(
            f"a line needs three points or more, at different x: got {len(x)} and "
            f"{len(y)} values"
        )
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    intercept = float(y.mean() - slope * x.mean())
    rest = y - intercept - slope * x
    freedom = len(x) - 2
    residual = math.sqrt(float(rest @ rest) / freedom)
    error = residual / math.sqrt(float(centred @ centred))
    method = f"least squares, {len(x)} points"
    return Line(intercept, t_interval(slope, error, freedom, level, method), residual)


def _exp(x: float) -> float:
    """Infinity where exp(x) overflows: lines that are almost flat are far apart."""
    return math.exp(x) if x < 700 else math.inf


def _positive(values: Sequence[float]) -> np.ndarray:
    array = finite(values)
    if (array <= 0).any():
        raise ValueError(f"a logarithm needs values above 0: got {array.tolist()}")
    return array
