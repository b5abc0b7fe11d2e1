"""Classification losses: pure, one value an example, unreduced."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from vit_jax.values import Choice, Rate

LossFn = Callable[[Array, Array], Array]


def softmax_cross_entropy(
    logits: Float[Array, "b n"], targets: Float[Array, "b n"]
) -> Float[Array, " b"]:
    """Cross-entropy of a softmax against target probabilities that sum to 1."""
    return optax.losses.softmax_cross_entropy(logits, targets)


def sigmoid_cross_entropy(
    logits: Float[Array, "b n"], targets: Float[Array, "b n"]
) -> Float[Array, " b"]:
    """One binary cross-entropy a class, summed over the classes.

    For several labels an image; the loss of Google's releases pre-trained on
    ImageNet-21k and JFT, with `model.head_bias_init` of -10 (-6.9 for 1000 classes).
    """
    return optax.losses.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)


def smooth_labels(
    targets: Float[Array, "b n"], smoothing: float
) -> Float[Array, "b n"]:
    """Moves `smoothing`, in [0, 1), of the mass to all classes evenly (1512.00567)."""
    return targets * (1 - smoothing) + smoothing / targets.shape[-1]


LOSSES = {"softmax": softmax_cross_entropy, "sigmoid": sigmoid_cross_entropy}


class Weights(NamedTuple):
    """Weights of the terms of a loss, one a class: `data/balance.py` has them.

    Attributes:
        present: of a class that an image has.
        absent: of one that it has not, in the sigmoid loss.
    """

    present: Float[np.ndarray, " n"]
    absent: Float[np.ndarray, " n"]


def make_loss(
    *,
    name: Annotated[str, Choice(*LOSSES)],
    label_smoothing: Rate,
    round_up: bool = False,
    weights: Weights | None = None,
) -> LossFn:
    """Builds `(logits (b n), target probabilities (b n)) -> loss (b)`.

    Args:
        name: `softmax` or `sigmoid`.
        label_smoothing: in [0, 1).
        round_up: targets above 0 become 1, so that each of two mixed images counts as
            wholly there: for `sigmoid`, as in DeiT III. Older runs do not name it.
        weights: of the terms of each class; None for 1. What is mixed of two images
            or smoothed has each term weighted by the share of its target.

    Raises:
        ValueError: targets rounded up for a loss or a smoothing that needs them to sum
            to 1.
    """
    if round_up and (name != "sigmoid" or label_smoothing):
        raise ValueError(
            f"loss.round_up makes targets of 1, and loss.name={name!r} with "
            f"loss.label_smoothing={label_smoothing} needs shares: it is for the "
            "sigmoid loss without smoothing"
        )

    def loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        if round_up:
            targets = (targets > 0).astype(targets.dtype)
        logits, targets = (
            logits.astype(jnp.float32),
            smooth_labels(targets, label_smoothing),
        )
        if weights is not None:
            return weighted(logits, targets, name, weights)
        return LOSSES[name](logits, targets)

    return loss


def weighted(
    logits: Float[Array, "b n"], targets: Float[Array, "b n"], name: str, x: Weights
) -> Float[Array, " b"]:
    """The loss with its terms times their weights `x`; not divided by their sum."""
    if name == "softmax":
        return -(targets * x.present * jax.nn.log_softmax(logits)).sum(-1)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(targets * x.present * yes + (1 - targets) * x.absent * no).sum(-1)


def probabilities(logits: Float[Array, "b n"], loss_name: str) -> Float[Array, "b n"]:
    """The class probabilities under the loss `softmax` or `sigmoid`.

    Those of `sigmoid` are of each class by itself and do not sum to 1.
    """
    return {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[loss_name](logits)
