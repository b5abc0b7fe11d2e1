"""Few-shot linear evaluation in closed form (arXiv 2010.11929, section 4.1).

Least squares with an L2 penalty from frozen features to targets in {-1, 1}^K. What the
paper leaves open follows big_vision's `fewshot_lsr.py`: features standardised with mean
and deviation (+ 1e-5) of the few examples, a constant feature of 100 as bias, so large
that the penalty hardly reaches it, a penalty of 2^10, argmax.
"""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.evaluation.features import FrozenFeatures, Params
from vit_jax.values import Condition, Positive, Range, Size, check_fields

BIAS_FEATURE = 100.0
STD_FLOOR = 1e-5


@dataclasses.dataclass(kw_only=True, eq=False)
class FewShot(FrozenFeatures):
    """Few-shot accuracy at several numbers of shots: the config section `fewshot`.

    Attributes:
        shots: numbers of examples of each class.
        seeds: number of random choices of examples, averaged; 0 takes the first
            examples of each class instead.
        l2: the penalty, more than 0.
    """

    shots: Annotated[tuple[Size, ...], Condition("whole numbers from 1 on", bool)]
    seeds: Annotated[int, Range(0, 1000)]
    l2: Positive

    def __post_init__(self) -> None:
        """Opens the data and chooses the examples; computes no features.

        Raises:
            ValueError: a class with fewer examples than shots, unknown splits or
                classes, or an option out of its range.
        """
        check_fields(self, "fewshot")
        super().__post_init__()
        names, most = self.label_names, max(self.shots)
        labels = self.data.source(self.train_split).labels()
        count = np.bincount(labels, minlength=len(names))
        if count.min() < most:
            raise ValueError(
                f"class {names[count.argmin()]!r} has {count.min()} images in "
                f"{self.data.name} {self.train_split}, fewer than {most} shots"
            )
        seeds = range(self.seeds) if self.seeds else [None]
        # Only the chosen examples go through the model.
        self.chosen = np.stack(
            [choose_shots(labels, most, len(names), seed) for seed in seeds]
        )
        self.records = np.unique(self.chosen)

    def __call__(self, params: Params) -> dict[str, float]:
        """`5shot`, in [0, 1], for each number of shots: the mean over the seeds.

        With several seeds also their standard deviation, `5shot_std` (n - 1).
        """
        train = self.extract(params, self.train_split, self.records)
        test = self.extract(params, self.test_split)
        place = np.full(len(self.records), -1)
        place[train.index] = np.arange(len(train.index))
        # (seed, class, shot): rows of the features, -1 where one could not be read.
        chosen = place[np.searchsorted(self.records, self.chosen)]
        results = {}
        for shots in self.shots:
            accuracies = []
            for rows in chosen[:, :, :shots].reshape(len(chosen), -1):
                rows = rows[rows >= 0]
                accuracy = fewshot_accuracy(
                    train.features[rows],
                    train.labels[rows],
                    test.features,
                    test.labels,
                    num_classes=len(self.label_names),
                    l2=self.l2,
                )
                accuracies.append(float(accuracy))
            results[f"{shots}shot"] = float(np.mean(accuracies))
            if len(accuracies) > 1:
                results[f"{shots}shot_std"] = float(np.std(accuracies, ddof=1))
        return results


def choose_shots(
    labels: Int[np.ndarray, " n"], shots: int, num_classes: int, seed: int | None
) -> Int[np.ndarray, "num_classes shots"]:
    """Numbers of the examples to learn from, a row a class.

    Fewer shots are the first columns. The choice is big_vision's for the same order of
    examples and the same seed.

    Args:
        seed: None takes the first examples of each class.

    Raises:
        ValueError: a class with fewer examples.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    chosen = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        if len(members) < shots:
            raise ValueError(
                f"class {label} has {len(members)} examples, fewer than {shots} shots"
            )
        chosen.append((rng.permutation(members) if rng else members)[:shots])
    return np.stack(chosen)


@functools.partial(jax.jit, static_argnames="num_classes")
def fewshot_accuracy(
    train_features: Float[Array, "n d"],
    train_labels: Int[Array, " n"],
    test_features: Float[Array, "m d"],
    test_labels: Int[Array, " m"],
    *,
    num_classes: int,
    l2: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Share of test examples that least squares on the training examples gets right.

    Pure; can be vmapped over features and over `l2`. An example with a NaN or Inf among
    its scores is no hit.

    Args:
        train_features: of the chosen examples only, such as the rows of `choose_shots`.
        l2: the penalty, more than 0. Scores are within 1e-4 of those in float64 from
            about 1 on; far below, rounding in X'X is larger than it.
    """
    scores = fewshot_scores(
        train_features, train_labels, test_features, num_classes=num_classes, l2=l2
    )
    hits = scores.argmax(-1) == test_labels
    return (hits & jnp.isfinite(scores).all(-1)).mean(dtype=jnp.float32)


def fewshot_scores(
    train_features: Float[Array, "n d"],
    train_labels: Int[Array, " n"],
    test_features: Float[Array, "m d"],
    *,
    num_classes: int,
    l2: Float[Array, ""] | float,
) -> Float[Array, "m num_classes"]:
    """The scores of the regression of `fewshot_accuracy`: about 1 for yes, -1 for no.

    The solution is w = (X'X + l2 I)^-1 X'Y with the constant feature in X. As the
    standardised features have mean 0, they are orthogonal to it, and the bias is solved
    by itself: the rest is conditioned much better.
    """
    with jax.default_matmul_precision("highest"):
        mean = train_features.mean(0)
        # Twice, since the rounding error is not small against a tiny deviation.
        mean = mean + (train_features - mean).mean(0)
        scale = train_features.std(0) + STD_FLOOR
        x = (train_features - mean) / scale
        y = 2 * jax.nn.one_hot(train_labels, num_classes) - 1
        # The mean is left to the bias, since X'1 = 0 holds up to rounding only.
        weights = ridge(x, y - y.mean(0), l2)
        share = BIAS_FEATURE**2 * len(x) / (BIAS_FEATURE**2 * len(x) + l2)
        return ((test_features - mean) / scale) @ weights + share * y.mean(0)


def ridge(
    x: Float[Array, "n d"], y: Float[Array, "n k"], l2: Float[Array, ""] | float
) -> Float[Array, "d k"]:
    """(X'X + l2 I)^-1 X'Y, by the eigenvectors of the smaller of X'X and XX'."""
    if len(x) < x.shape[1]:
        return x.T @ solve_shifted(x @ x.T, y, l2)
    return solve_shifted(x.T @ x, x.T @ y, l2)


def solve_shifted(
    gram: Float[Array, "n n"], y: Float[Array, "n k"], l2: Float[Array, ""] | float
) -> Float[Array, "n k"]:
    """(G + l2 I)^-1 Y for a positive semi-definite G, which rounding may spoil."""
    values, vectors = jnp.linalg.eigh(gram)
    scaled = (vectors.T @ y) / (jnp.maximum(values, 0) + l2)[:, None]
    return vectors @ scaled
