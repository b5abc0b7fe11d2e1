"""Linear probe: multinomial logistic regression on frozen features.

As in CLIP's evaluation (arXiv 2103.00020, appendix A.3): L-BFGS on all examples at
once, without augmentation. Held-out training examples choose the L2 penalty, with which
all training examples are fitted. Features and logits of all examples fit on one device.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from vit_jax.evaluation.features import Features, FrozenFeatures, Params

Weights = dict[str, jax.Array]
# A tenfold grid, strongest first, so that each fit starts from a smoother one.
L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
HOLDOUT = 0.1
MAX_STEPS = 1000
# Length of the gradient at which a fit has converged; below it, float32 is noise.
TOLERANCE = 1e-5


class Probe(NamedTuple):
    """The result of a linear probe.

    Attributes:
        accuracy: accuracy on the test examples, in [0, 1].
        l2: the chosen penalty.
        held_out: accuracy on held-out training examples for each penalty.
        steps: L-BFGS steps of the last fit; `MAX_STEPS` means that it did not converge.
    """

    accuracy: float
    l2: float
    held_out: dict[float, float]
    steps: int


class LinearProbe(FrozenFeatures):
    """The linear probe on a training and a test split."""

    def __call__(self, params: Params) -> dict[str, float]:
        """`accuracy`, in [0, 1], the chosen `l2` and the accuracy that chose it.

        Raises:
            ValueError: too few training examples to hold some out.
        """
        train = self.extract(params, self.train_split)
        test = self.extract(params, self.test_split)
        probe = linear_probe(train, test, num_classes=len(self.label_names))
        return {
            "accuracy": probe.accuracy,
            "l2": probe.l2,
            "held_out_accuracy": probe.held_out[probe.l2],
            "steps": probe.steps,
        }


def linear_probe(
    train: Features,
    test: Features,
    *,
    num_classes: int,
    l2_grid: Sequence[float] = L2_GRID,
    holdout: float = HOLDOUT,
    seed: int = 0,
) -> Probe:
    """Chooses the penalty on held-out training examples, and measures the test ones.

    Args:
        l2_grid: penalties; of equally good ones, the strongest is chosen.
        holdout: share of the training examples, the same of each class up to rounding.
        seed: seed of the choice of held-out examples.

    Raises:
        ValueError: too few training examples to hold some out.
    """
    mean, scale = train.features.mean(0), train.features.std(0) + 1e-5
    x, x_test = ((part.features - mean) / scale for part in (train, test))
    held = held_out_rows(train.labels, holdout, seed)
    weights = initial_weights(x.shape[1], num_classes)
    accuracies = {}
    for l2 in sorted(l2_grid, reverse=True):
        weights, _ = fit(weights, x, train.labels, ~held, l2)
        accuracies[l2] = float(accuracy(weights, x, train.labels, held))
    best = max(accuracies, key=lambda l2: (accuracies[l2], l2))
    weights = initial_weights(x.shape[1], num_classes)
    everything = np.ones(len(x), bool)
    weights, steps = fit(weights, x, train.labels, everything, best)
    result = float(accuracy(weights, x_test, test.labels, np.ones(len(x_test), bool)))
    return Probe(result, best, accuracies, int(steps))


def held_out_rows(labels: Int[np.ndarray, " n"], share: float, seed: int) -> np.ndarray:
    """Which examples are held out, bool (n,): the share of each class, rounded.

    Raises:
        ValueError: none would be held out, or none left.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: round(share * len(members))]] = True
    if held.all() or not held.any():
        raise ValueError(
            f"{len(labels)} training examples are too few to hold a share of {share} "
            "of each class out, by which a linear probe chooses its penalty"
        )
    return held


def initial_weights(width: int, num_classes: int) -> Weights:
    """Zeros: `kernel` (width, num_classes) and `bias`."""
    return {
        "kernel": jnp.zeros((width, num_classes)),
        "bias": jnp.zeros(num_classes),
    }


def objective(
    weights: Weights,
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    used: Bool[Array, " n"],
    l2: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Mean cross-entropy of the used examples + l2/2 * squared kernel.

    The bias is not penalised. scikit-learn's `LogisticRegression` has C = 1 / (l2 n).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits(weights, features), labels
    )
    mean = losses.mean(where=used)
    return mean + l2 / 2 * jnp.vdot(weights["kernel"], weights["kernel"])


@jax.jit
def fit(
    weights: Weights,
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    used: Bool[Array, " n"],
    l2: Float[Array, ""] | float,
) -> tuple[Weights, Int[Array, ""]]:
    """Minimises `objective` by L-BFGS; returns the weights and the number of steps.

    The minimum is unique, so `weights` is only the start. Examples are masked by `used`
    and not cut out, so that all fits are one compiled program.
    """
    loss = functools.partial(
        objective, features=features, labels=labels, used=used, l2=l2
    )
    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Weights, Any, Any]) -> tuple[Weights, Any, Any]:
        weights, state, _ = carry
        value, gradient = value_and_gradient(weights, state=state)
        updates, state = optimizer.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=loss
        )
        weights: Any = optax.apply_updates(weights, updates)
        return weights, state, optax.tree.norm(optax.tree.get(state, "grad"))

    def unfinished(carry: tuple[Weights, Any, Any]) -> jax.Array:
        _, state, length = carry
        return (optax.tree.get(state, "count") < MAX_STEPS) & (length > TOLERANCE)

    start = (weights, optimizer.init(weights), jnp.float32(jnp.inf))
    weights, state, _ = jax.lax.while_loop(unfinished, step, start)
    return weights, optax.tree.get(state, "count")


def logits(weights: Weights, features: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """The linear classifier, in full float32."""
    product = jnp.matmul(features, weights["kernel"], precision="highest")
    return product + weights["bias"]


@jax.jit
def accuracy(
    weights: Weights,
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    used: Bool[Array, " n"],
) -> Float[Array, ""]:
    """Share of the used examples that are classified right."""
    hits = logits(weights, features).argmax(-1) == labels
    return hits.mean(dtype=jnp.float32, where=used)
