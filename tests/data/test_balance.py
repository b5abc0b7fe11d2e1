"""Weights of classes, and the order in which small classes come more often."""

import pickle
from collections import Counter

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from vit_jax.data.balance import SMALL, BalancedOrder, class_weights, shares, shuffled
from vit_jax.data.pipeline import Data

COUNTS = np.array([60, 25, 3, 1])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))


def test_weights():
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=LABELS)
    weights = class_weights(COUNTS, "balanced")
    np.testing.assert_allclose(weights, wanted)
    root = class_weights(COUNTS, "sqrt")
    np.testing.assert_allclose(root / root[0], np.sqrt(COUNTS[0] / COUNTS))
    for values in (weights, root):
        assert np.average(values, weights=COUNTS) == pytest.approx(1)


def test_shares_of_an_epoch():
    assert shares(COUNTS, "balanced", 89).tolist() == [23, 22, 22, 22]
    root = shares(COUNTS, "sqrt", 89)
    assert root.sum() == 89
    exact = np.sqrt(COUNTS) / np.sqrt(COUNTS).sum() * 89
    assert (abs(root - exact) < 1).all()
    assert shares(np.array([2, 0, 2]), "balanced", 4).tolist() == [2, 0, 2]


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_each_class_has_its_share_of_every_epoch_and_skips_no_image(kind):
    order = BalancedOrder(LABELS, kind, seed=3, copies=1)
    places, epochs = shares(COUNTS, kind, 89), 7
    drawn = [[order(89 * epoch + i) for i in range(89)] for epoch in range(epochs)]
    for records in drawn:
        assert np.bincount(LABELS[records], minlength=4).tolist() == places.tolist()
    assert len({tuple(records) for records in drawn}) == epochs
    # All images of a class are used equally often, but for the turn that is not over.
    uses = Counter(record for records in drawn for record in records)
    for label in range(4):
        numbers = {uses[record] for record in np.flatnonzero(LABELS == label).tolist()}
        assert max(numbers) - min(numbers) <= 1
    # The classes are mixed, not one after the other.
    assert len(set(LABELS[drawn[0][:20]])) > 2


def test_the_order_depends_on_seed_and_position_alone():
    order = BalancedOrder(LABELS, "balanced", seed=3, copies=1)
    first = [order(i) for i in range(300)]
    again = pickle.loads(pickle.dumps(order))
    assert [again(i) for i in reversed(range(300))] == first[::-1]
    other = BalancedOrder(LABELS, "balanced", seed=4, copies=1)
    assert [other(i) for i in range(300)] != first


def test_turns_of_a_class_are_other_orders():
    labels = np.repeat([0, 1], [30, 6])
    order = BalancedOrder(labels, "balanced", seed=0, copies=1)
    small = [x for x in (order(i) for i in range(36)) if labels[x]]
    turns = [tuple(small[i : i + 6]) for i in (0, 6, 12)]
    # Within an epoch the places of a class come in a shuffled order.
    assert Counter(small) == dict.fromkeys(range(30, 36), 3)
    assert len(set(turns)) == 3


def test_copies_stand_side_by_side_and_records_without_a_label_are_left_out():
    labels = np.where(LABELS == 3, -1, LABELS)
    order = BalancedOrder(labels, "balanced", seed=3, copies=3)
    records = [order(i) for i in range(90)]
    assert all(len(set(records[i : i + 3])) == 1 for i in range(0, 87, 3))
    assert set(labels[records].tolist()) == {0, 1, 2}


def test_the_small_and_the_large_shuffle_are_permutations():
    for count in (1, 2, SMALL, SMALL + 1):
        found = [shuffled(number, count, seed=5) for number in range(count)]
        assert sorted(found) == list(range(count))


def read(data: Data, start: int, batches: int, **options) -> list[np.ndarray]:
    with data.train_batches(seed=0, start_index=start, **options) as stream:
        return [next(stream)["image"].copy() for _ in range(batches)]


def test_batches_are_levelled_and_go_on_exactly():
    options = {"batch_size": 8, "image_size": (8, 8), "randaug_layers": 1}
    data = Data(name="digits", sampling="balanced", split="train[:100]", **options)
    labels = data.source("train[:100]").labels()
    with data.train_batches(seed=0) as stream:
        seen = np.concatenate([next(stream)["label"] for _ in range(25)])
    counts = np.bincount(labels, minlength=10)
    assert counts.max() > counts.min() + 1  # digits are not that even
    assert np.bincount(seen, minlength=10).tolist() == [20] * 10
    whole = read(data, 0, 6)
    np.testing.assert_array_equal(read(data, 24, 3), whole[3:])
    part = read(data, 24, 3, rows=np.array([2, 5]))
    np.testing.assert_array_equal(part, np.array(whole[3:])[:, [2, 5]])
