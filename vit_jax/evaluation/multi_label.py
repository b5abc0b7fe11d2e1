"""Several labels an image: mean average precision over a whole split."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

THRESHOLD = 0.5  # of a probability, above which a class is predicted


def average_precision(
    scores: Float[np.ndarray, " n"], labels: UInt8[np.ndarray, " n"]
) -> float:
    """Area under the steps of precision over recall, as scikit-learn defines it.

    The sum over the distinct scores, best first, of the precision at a score times the
    recall that it adds: examples with equal scores count as one step. A score of NaN is
    below all others. NaN if no example has the label.
    """
    positives = int(labels.sum())
    if not positives:
        return float("nan")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(labels[order], dtype=np.int64)
    last = np.append(scores[1:] != scores[:-1], True)
    hits, count = hits[last], np.flatnonzero(last) + 1
    return float((np.diff(hits, prepend=0) * hits / count).sum() / positives)


def average_precisions(
    scores: Float[np.ndarray, "n classes"], labels: UInt8[np.ndarray, "n classes"]
) -> Float[np.ndarray, " classes"]:
    """`average_precision` of each class."""
    pairs = zip(scores.T, labels.T, strict=True)
    return np.array([average_precision(*pair) for pair in pairs])


def mean_average_precision(
    scores: Float[np.ndarray, "n classes"], labels: UInt8[np.ndarray, "n classes"]
) -> float:
    """The mean over the classes that an example has; NaN if there is none."""
    seen = labels.any(axis=0)
    if not seen.any():
        return float("nan")
    return float(average_precisions(scores[:, seen], labels[:, seen]).mean())


def metrics_of(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """`map` of the rows of all batches."""
    scores, labels = (
        np.concatenate([part[name][part["mask"]] for part in rows])
        for name in ("scores", "labels")
    )
    return {"map": mean_average_precision(scores, labels)}
