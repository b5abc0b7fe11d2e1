"""Comparisons within a grid of arms that have few seeds each.

Two seeds an arm leave Welch's test with one or two degrees of freedom, and intervals
that say nothing. Arms of one grid differ little, so here they are assumed to share the
variance over seeds, which is then estimated from all of them: eight arms of two seeds
have eight degrees of freedom. Where one arm is far noisier than the others the
intervals are wrong; `statistics.difference` makes no such assumption.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.lab.statistics import Interval, finite, t_interval


def contrast(
    arms: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
    level: float = 0.95,
) -> Interval:
    """A weighted sum of the means of arms, such as `{"none": -1, "1-D": 1}`.

    Args:
        arms: the values of all arms of the grid over their seeds; arms without a
            weight contribute to the estimate of the variance.

    Returns:
        The whole line around the value if no arm has a second seed.

    Raises:
        ValueError: an arm without values, or a weight of one that is not there.
    """
    if unknown := weights.keys() - arms.keys():
        raise ValueError(f"no values of {', '.join(sorted(unknown))} to compare")
    values = {name: finite(arm) for name, arm in arms.items()}
    value = float(sum(w * values[name].mean() for name, w in weights.items()))
    freedom = sum(len(arm) - 1 for arm in values.values())
    if not freedom:
        return Interval(value, -math.inf, math.inf, level, "one seed")
    squares = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in values.values())
    parts = sum(w**2 / len(values[name]) for name, w in weights.items())
    error = math.sqrt(squares / freedom * parts)
    method = f"t, variance of {len(values)} arms, {freedom} degrees of freedom"
    return t_interval(value, error, freedom, level, method)


def mean_against(arms: Mapping[str, Sequence[float]], arm: str) -> Interval:
    """The mean of all other arms, each of equal weight, minus one arm."""
    others = [name for name in arms if name != arm]
    return contrast(arms, dict.fromkeys(others, 1 / len(others)) | {arm: -1.0})


class Rays:
    """Straight lines y = c + slope_axis · log2(x) that all meet at x = 1.

    For models that are scaled from one base along several axes (Fig. 8): a slope is
    the gain from doubling the compute along that axis. All lines are fitted together
    by least squares, and share one residual variance, which curvature adds to.

    Attributes:
        slopes: by axis.
        base: the value at x = 1.
    """

    def __init__(
        self, points: Mapping[str, Sequence[tuple[float, float]]], level: float = 0.95
    ) -> None:
        """Fits the lines.

        Args:
            points: pairs of x > 0 and y by axis; the base, at x = 1, on any of them.

        Raises:
            ValueError: no more points than slopes and base, or an axis without a point
                that differs from the base.
        """
        self.axes, self.level = list(points), level
        rows, y = [], []
        for number, axis in enumerate(self.axes):
            for x, value in points[axis]:
                row = np.zeros(len(self.axes) + 1)
                row[0], row[1 + number] = 1, math.log2(x)
                rows.append(row)
                y.append(value)
        design, target = np.array(rows), finite(y)
        self.freedom = len(target) - design.shape[1]
        if self.freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
            raise ValueError(
                f"{len(self.axes)} slopes and a base need more points than there are, "
                "and on each axis one that is not the base"
            )
        self.inverse = np.linalg.inv(design.T @ design)
        self.solution = self.inverse @ design.T @ target
        rest = target - design @ self.solution
        self.variance = float(rest @ rest) / self.freedom
        self.base = float(self.solution[0])
        self.slopes = {axis: self.sum({axis: 1.0}) for axis in self.axes}

    def sum(self, weights: Mapping[str, float]) -> Interval:
        """A weighted sum of slopes, such as `{"depth": 1, "width": -1}`."""
        row = np.array([0.0, *(weights.get(axis, 0.0) for axis in self.axes)])
        error = math.sqrt(self.variance * float(row @ self.inverse @ row))
        method = f"lines from one base, {self.freedom} degrees of freedom"
        value = float(row @ self.solution)
        return t_interval(value, error, self.freedom, self.level, method)
