"""Weighted nearest neighbours on frozen features (Wu et al. 2018, arXiv 1805.01978).

The k training examples of largest cosine similarity s vote for their class with weight
exp(s / T). Defaults k = 20, T = 0.07 as in DINO (arXiv 2104.14294, appendix F.1).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.evaluation.features import FrozenFeatures, Params
from vit_jax.values import Positive, Size, check_fields

# Test examples at a time. Their similarities with 1.3 million training examples take
# 1.3 GB.
CHUNK = 256


@dataclasses.dataclass(kw_only=True, eq=False)
class Knn(FrozenFeatures):
    """Accuracy of nearest neighbours: the config section `knn`.

    Attributes:
        neighbours, temperature: k and T.
    """

    neighbours: Size
    temperature: Positive

    def __post_init__(self) -> None:
        """Opens the data; computes no features.

        Raises:
            ValueError: unknown splits or classes, an option out of its range, or too
                few training examples.
        """
        check_fields(self, "knn")
        super().__post_init__()
        count = self.data.num_examples(self.train_split)
        if self.neighbours > count:
            raise ValueError(
                f"knn.neighbours is {self.neighbours}: wanted at most {count}, as many "
                f"as {self.data.name} {self.train_split} has images"
            )

    def __call__(self, params: Params) -> dict[str, float]:
        """`accuracy`, in [0, 1]."""
        train = self.extract(params, self.train_split)
        test = self.extract(params, self.test_split)
        accuracy = knn_accuracy(
            train.features,
            train.labels,
            test.features,
            test.labels,
            num_classes=len(self.label_names),
            neighbours=self.neighbours,
            temperature=self.temperature,
        )
        return {"accuracy": float(accuracy)}


@functools.partial(jax.jit, static_argnames=("num_classes", "neighbours", "chunk"))
def knn_accuracy(
    train_features: Float[Array, "n d"],
    train_labels: Int[Array, " n"],
    test_features: Float[Array, "m d"],
    test_labels: Int[Array, " m"],
    *,
    num_classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
    chunk: int = CHUNK,
) -> Float[Array, ""]:
    """Share of test examples that the vote of their neighbours gets right.

    Pure; can be vmapped over features. Features that are NaN or Inf are no hit.

    Args:
        neighbours: at most as many as training examples.
        chunk: test examples at a time.
    """
    train = normalized(train_features)
    padding = -len(test_features) % chunk
    padded = jnp.pad(normalized(test_features), ((0, padding), (0, 0)))

    def votes(test: Array) -> Array:
        similarity = jnp.matmul(test, train.T, precision="highest")
        nearest, rows = jax.lax.top_k(similarity, neighbours)
        # The nearest one has weight 1: only ratios matter, and exp(1 / T) may overflow.
        weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
        one_hot = jax.nn.one_hot(train_labels[rows], num_classes)
        return jnp.einsum("mk,mkc->mc", weights, one_hot)

    chunks = padded.reshape(-1, chunk, padded.shape[-1])
    scores = jax.lax.map(votes, chunks).reshape(-1, num_classes)[: len(test_features)]
    hits = scores.argmax(-1) == test_labels
    return (hits & jnp.isfinite(scores).all(-1)).mean(dtype=jnp.float32)


def normalized(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Each row divided by its length; a row of zeros stays."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.where(length > 0, length, 1)
