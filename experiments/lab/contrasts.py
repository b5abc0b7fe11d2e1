"""Comparisons of arms that have few seeds each.

Runs are compared as if they were independent (Welch's test). Runs of equal seeds are
not always: arms of one model start from the same parameters and see the data in the
same order, so that their results may agree. A difference is then decided more rarely
than if they were independent, not more often. This is no guarantee: seeds that act in
opposite directions on two arms, or a mean of arms that nothing is subtracted from, make
the intervals too narrow.

Only what is measured on one run several times, as at several steps, is paired, and arms
whose repetition is the choice of the images to learn from, the same for all: the
comparison is made within each run or choice, and its spread over these counts. No arm
lends its variance to others, which may differ 150-fold.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.lab.statistics import Interval, finite, mean_interval, t_interval

Arms = Mapping[str, Sequence[float]]
Weights = Mapping[str, float]


def contrast(
    arms: Arms, weights: Weights, *, paired: bool = False, level: float = 0.95
) -> Interval:
    """A weighted sum of the means of arms, such as `{"none": -1, "1-D": 1}`.

    Args:
        arms: values over seeds; arms without a weight play no part.
        paired: the values are of the same runs or choices, in the same order. Otherwise
            of independent ones, as in Welch's test: the variance of each arm is its
            own, and degrees of freedom are those of `cautious`.

    Returns:
        The whole line around the value if an arm has one seed, or none has any spread.

    Raises:
        ValueError: an arm without values, a weight of one that is not there, or paired
            arms with different numbers of values.
    """
    if unknown := weights.keys() - arms.keys():
        raise ValueError(f"no values of {', '.join(sorted(unknown))} to compare")
    values = {name: finite(arms[name]) for name in weights}
    sizes = {name: len(arm) for name, arm in values.items()}
    scale = max(float(abs(arm).max()) for arm in values.values())
    if paired:
        if len(set(sizes.values())) > 1:
            raise ValueError(f"paired arms need a value for each run: got {sizes}")
        runs = sum(weight * values[name] for name, weight in weights.items())
        within = mean_interval(runs, level, scale=scale)
        return within._replace(method=f"within runs, {within.method}")
    value = float(sum(w * values[name].mean() for name, w in weights.items()))
    if min(sizes.values()) < 2:
        return Interval(value, -math.inf, math.inf, level, "one seed")
    parts = [w**2 / sizes[name] for name, w in weights.items()]
    squares = [
        part * arm.var(ddof=1) for part, arm in zip(parts, values.values(), strict=True)
    ]
    counts = [n - 1 for n in sizes.values()]
    freedom = min(satterthwaite(squares, counts), satterthwaite(parts, counts))
    freedom = cautious(freedom, min(counts), level)
    method = f"Welch t, {freedom:.2g} degrees of freedom"
    return t_interval(value, math.sqrt(sum(squares)), freedom, level, method, scale)


def satterthwaite(squares: Sequence[float], freedoms: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent squares; inf if all of them are 0.

    F. E. Satterthwaite, An approximate distribution of estimates of variance
    components, 1946.
    """
    below = sum(s**2 / n for s, n in zip(squares, freedoms, strict=True))
    return sum(squares) ** 2 / below if below else math.inf


def cautious(freedom: float, least: int, level: float) -> float:
    """Degrees of freedom between those of one arm alone and Satterthwaite's.

    With three seeds a noisy arm now and then happens to have little spread. The error
    is then estimated too small, and Satterthwaite's degrees of freedom too large. At
    95 % this matters little: where variances differ 150-fold, up to 7 % of verdicts are
    wrong in place of 5 %. At the 99.8 % of a headline it matters: 2.7 times the nominal
    rate for two arms, 4.8 for the difference of two differences, 6.6 for eight arms. So
    of what Satterthwaite's exceed the least by, a share counts that falls from 1 at
    95 % with the root of 1 - level. The rates at 99.8 % are then the nominal at most,
    if all arms have equally many seeds.

    It costs power: where the means of two arms with three seeds and equal variances are
    12 standard deviations apart, a headline is decided in 49 % of cases instead of
    85 %; where they are 20 apart in 92 % instead of 98 %.

    Args:
        freedom: Satterthwaite's, but no more than if all variances were equal.
        least: of the arm with the fewest seeds, n - 1.
    """
    share = min(1.0, math.sqrt((1 - level) / 0.05))
    return least + share * (freedom - least)


def mean_against(arms: Arms, arm: str, *, level: float = 0.95) -> Interval:
    """The mean of all other arms, each of equal weight, minus one arm."""
    return contrast(arms, against(arms, arm), level=level)


def against(arms: Arms, arm: str) -> dict[str, float]:
    """The weights of `mean_against`."""
    others = [name for name in arms if name != arm]
    return dict.fromkeys(others, 1 / len(others)) | {arm: -1.0}


def margins(
    arms: Arms, difference: Weights, effect: Weights, *, level: float = 0.95
) -> tuple[Interval, Interval]:
    """An effect minus a difference, and plus it: what is left until they are equal.

    Both are above 0 where the difference, whatever its sign, is smaller than the
    effect. The effect is measured on the same arms, so that its noise is in the
    intervals too.
    """

    def together(sign: float) -> dict[str, float]:
        names = {**effect, **difference}
        return {
            name: effect.get(name, 0.0) + sign * difference.get(name, 0.0)
            for name in names
        }

    return (
        contrast(arms, together(-1.0), level=level),
        contrast(arms, together(1.0), level=level),
    )


class Rays:
    """Curves y = c + slope_axis · l + bend · l² over l = log2 x, which meet at x = 1.

    For models that are scaled from one base along several axes (Fig. 8): a slope is
    the gain from doubling the compute of the base along that axis. All curves are
    fitted together by least squares. They share one bend: axes that gain equally by
    compute, however their gain flattens, then have equal slopes, also where they reach
    differently far. They share one residual variance too, which what the curves do not
    fit adds to.

    Attributes:
        slopes: by axis.
        base: the value at x = 1.
        bend: negative where gains flatten.
    """

    def __init__(self, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Fits the curves.

        Args:
            points: pairs of x > 0 and y by axis, one for each model: the mean over its
                seeds, which share what the curve does not fit; the base, at x = 1, on
                any of them.

        Raises:
            ValueError: no more points than slopes, base and bend, or an axis without a
                point that differs from the base.
        """
        self.axes = list(points)
        rows, y = [], []
        for number, axis in enumerate(self.axes):
            for x, value in points[axis]:
                row = np.zeros(len(self.axes) + 2)
                row[0], row[1 + number], row[-1] = 1, math.log2(x), math.log2(x) ** 2
                rows.append(row)
                y.append(value)
        design, target = np.array(rows), finite(y)
        self.freedom = len(target) - design.shape[1]
        if self.freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
            raise ValueError(
                f"{len(self.axes)} slopes, a base and a bend need more points than "
                "there are, and on each axis one that is not the base"
            )
        self.inverse = np.linalg.inv(design.T @ design)
        self.solution = self.inverse @ design.T @ target
        rest = target - design @ self.solution
        self.variance = float(rest @ rest) / self.freedom
        self.scale = float(abs(target).max())
        self.base, self.bend = float(self.solution[0]), float(self.solution[-1])
        self.slopes = {axis: self.sum({axis: 1.0}) for axis in self.axes}

    def sum(self, weights: Weights, *, level: float = 0.95) -> Interval:
        """A weighted sum of slopes, such as `{"depth": 1, "width": -1}`."""
        row = np.array([0.0, *(weights.get(axis, 0.0) for axis in self.axes), 0.0])
        error = math.sqrt(self.variance * float(row @ self.inverse @ row))
        method = f"curves from one base, {self.freedom} degrees of freedom"
        value = float(row @ self.solution)
        return t_interval(value, error, self.freedom, level, method, self.scale)
