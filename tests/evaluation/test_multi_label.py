"""Mean average precision, and evaluation of several labels an image."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import average_precision_score

from vit_jax.evaluation.means import evaluate
from vit_jax.evaluation.multi_label import average_precision, mean_average_precision
from vit_jax.losses import Weights, make_loss


def test_average_precision_by_hand():
    """Best first: yes, no, yes, no. Precision 1 at recall 1/2, and 2/3 at recall 1."""
    scores, labels = np.array([0.1, 3, 0.5, 1.0]), np.array([0, 1, 1, 0], np.uint8)
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3) / 2)
    # A constant output: one step, with the share of positives as precision.
    assert average_precision(np.zeros(4), labels) == pytest.approx(0.5)
    assert average_precision(scores * [1, np.nan, 1, 1], labels) == pytest.approx(0.5)
    assert np.isnan(average_precision(scores, np.zeros(4, np.uint8)))


@pytest.mark.parametrize("digits", [1, 8])
def test_it_is_that_of_scikit_learn(digits):
    rng = np.random.default_rng(digits)
    scores = rng.normal(size=(50, 7)).round(digits).astype(np.float32)
    labels = (rng.random((50, 7)) < 0.3).astype(np.uint8)
    for column in range(7):
        ours = average_precision(scores[:, column], labels[:, column])
        wanted = average_precision_score(labels[:, column], scores[:, column])
        assert ours == pytest.approx(wanted)
    wanted = average_precision_score(labels, scores, average="macro")
    assert mean_average_precision(scores, labels) == pytest.approx(wanted)
    # A class that no example has does not count.
    labels[:, 0] = 0
    wanted = average_precision_score(labels[:, 1:], scores[:, 1:], average="macro")
    assert mean_average_precision(scores, labels) == pytest.approx(wanted)


def test_rows_of_all_batches_count_once():
    scores = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    labels = np.eye(3, dtype=np.uint8)[np.arange(10) % 3]
    losses = np.arange(10.0)

    def step(_, batch):
        rows = {
            "mask": batch["mask"],
            "scores": scores[batch["index"] % 10],
            "labels": labels[batch["index"] % 10],
        }
        total = (losses[batch["index"] % 10] * batch["mask"]).sum()
        return {"count": batch["mask"].sum(), "loss": total, "rows": rows}

    index = np.arange(12).reshape(3, 4)
    batches = [{"index": i, "mask": i < 10} for i in index]
    results = evaluate(step, None, batches)
    wanted = average_precision_score(labels, scores, average="macro")
    assert results == {"count": 10, "loss": 4.5, "map": pytest.approx(wanted)}


def test_weights_of_the_losses():
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.normal(size=(4, 3)), jnp.float32)
    labels = np.array([0, 2, 2, 1])
    present, absent = np.array([0.5, 2.0, 3.0]), np.array([0.25, 1.5, 4.0])
    weights = Weights(present, absent)
    hard = jnp.eye(3)[labels]
    softmax = make_loss(name="softmax", label_smoothing=0.0, weights=weights)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    wanted = plain * present[labels]
    np.testing.assert_allclose(softmax(logits, hard), wanted, rtol=1e-5)
    # Of a mixed image, each term has the weight of its class.
    other = jnp.roll(hard, 1, axis=0)
    mixed = softmax(logits, 0.3 * hard + 0.7 * other)
    parts = 0.3 * softmax(logits, hard) + 0.7 * softmax(logits, other)
    np.testing.assert_allclose(mixed, parts, rtol=1e-5)
    several = jnp.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], jnp.float32)
    sigmoid = make_loss(name="sigmoid", label_smoothing=0.0, weights=weights)
    terms = optax.sigmoid_binary_cross_entropy(logits, several)
    wanted = (terms * np.where(several, present, absent)).sum(-1)
    np.testing.assert_allclose(sigmoid(logits, several), wanted, rtol=1e-5)
