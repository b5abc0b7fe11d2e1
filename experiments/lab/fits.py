"""Lines and learning curves fitted to measurements at several sizes.

Scaling with data and compute: exponents, the factor of compute between two families
(section 4.4 of the paper) and the amount of data from which one model overtakes
another (section 4.3, Fig. 4).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize

from experiments.lab.statistics import RESAMPLES, Interval, finite, t_interval


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
    share: float  # of the resampled curves that cross within the range
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
        return f"{place}, {100 * self.at.level:.0f} % CI {ends} ({self.at.method})"


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
    interval is by the delta method on the logarithm, with n - 3 degrees of freedom.
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
    # Lines that are almost flat are far apart.
    value, low, high = (math.exp(min(x, 700.0)) for x in log_ratio[:3])
    return Interval(value, low, high, level, method)


def crossing(
    x: Sequence[float],
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    level: float = 0.95,
    seed: int = 0,
) -> Crossing:
    """The amount of data from which on curve `a` is above curve `b`.

    The seeds' mean curves are made monotone (isotonic regression), joined by straight
    lines over ln x, and the last change from below to above is taken: at the smallest
    amounts both may be at chance, where the sign means nothing.

    The interval comes from `RESAMPLES` pairs of curves drawn around the means: normal
    noise, its variance pooled over the points of a curve and itself drawn from its
    chi-squared distribution, so that two seeds at five amounts have five degrees of
    freedom. It supposes noise of about the same size at all amounts. A resample that
    does not cross counts as beyond the end it points to, and a bound may be there.

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
    value = _overtakes(log_x, *means)
    side = "crosses"
    if value in (0, math.inf):
        side = "ahead everywhere" if value == 0 else "behind at the end"
    span = (float(amounts[0]), float(amounts[-1]))
    if min(len(curve) for curve in curves) < 2:
        at = Interval(value, math.nan, math.nan, level, "one seed")
        return Crossing(at, side, math.nan, span)
    rng = np.random.default_rng(seed)
    drawn = [_redraw(curve, rng) for curve in curves]
    places = np.sort([_overtakes(log_x, *pair) for pair in zip(*drawn, strict=True)])
    # Order statistics, as no interpolation between a number and infinity is possible.
    ends = [(1 - level) / 2 * RESAMPLES, (1 + level) / 2 * RESAMPLES]
    low, high = (float(places[min(int(end), RESAMPLES - 1)]) for end in ends)
    method = f"resampled curves, {len(curves[0])} and {len(curves[1])} seeds"
    share = float(np.mean((places > 0) & np.isfinite(places)))
    return Crossing(Interval(value, low, high, level, method), side, share, span)


def _overtakes(log_x: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """The x at which a - b, both made monotone, last turns positive.

    0 if that is below the first point, inf if beyond the last.
    """
    above, below = (optimize.isotonic_regression(curve).x for curve in (a, b))
    gap = above - below
    behind = np.flatnonzero(gap < 0)
    if not len(behind):
        return 0.0
    last = behind[-1]
    if last == len(gap) - 1:
        return math.inf
    part = gap[last] / (gap[last] - gap[last + 1])
    return float(np.exp(log_x[last] + part * (log_x[last + 1] - log_x[last])))


def _redraw(curve: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resampled mean curves (RESAMPLES, points), with the noise of the seeds."""
    seeds, points = curve.shape
    freedom = (seeds - 1) * points
    spread = curve.var(axis=0, ddof=1).mean()
    variance = spread * freedom / rng.chisquare(freedom, size=(RESAMPLES, 1))
    noise = rng.standard_normal((RESAMPLES, points)) * np.sqrt(variance / seeds)
    return curve.mean(axis=0) + noise


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


def _positive(values: Sequence[float]) -> np.ndarray:
    array = finite(values)
    if (array <= 0).any():
        raise ValueError(f"a logarithm needs values above 0: got {array.tolist()}")
    return array
