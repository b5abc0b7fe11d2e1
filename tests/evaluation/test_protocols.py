"""Protocols on frozen features against plain NumPy and scikit-learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vit_jax.evaluation import linear_probe as probing
from vit_jax.evaluation.features import Features
from vit_jax.evaluation.fewshot import choose_shots, fewshot_accuracy, fewshot_scores
from vit_jax.evaluation.knn import knn_accuracy


def examples(count, width, classes, *, spread=1.0, seed=0):
    """Features around a centre for each class, and labels that hold every class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = np.arange(count) % classes
    features = 3 + centres[labels] + spread * rng.normal(size=(count, width))
    return features.astype(np.float32), labels


def textbook_scores(x, labels, x_test, classes, l2):
    """The closed form in float64, with the constant feature of 100."""
    x, x_test = x.astype(np.float64), x_test.astype(np.float64)
    mean, scale = x.mean(0), x.std(0) + 1e-5
    x, x_test = (np.pad((a - mean) / scale, ((0, 0), (0, 1))) for a in (x, x_test))
    x[:, -1] = x_test[:, -1] = 100
    y = 2 * np.eye(classes)[labels] - 1
    w = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    return x_test @ w


@pytest.mark.parametrize("count", [12, 90])  # fewer and more than features
@pytest.mark.parametrize("l2", [2.0**-4, 2.0**10, 2.0**16])
def test_fewshot_is_the_closed_form(count, l2):
    x, labels = examples(count, 30, 3)
    labels[1] = 0  # Not equally many of each: then the bias matters.
    x_test, test_labels = examples(50, 30, 3, seed=1)
    expected = textbook_scores(x, labels, x_test, 3, l2)
    scores = fewshot_scores(x, labels, x_test, num_classes=3, l2=l2)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    accuracy = fewshot_accuracy(x, labels, x_test, test_labels, num_classes=3, l2=l2)
    hits = expected.argmax(-1) == test_labels
    assert 0 < float(accuracy) == pytest.approx(hits.mean())


def test_fewshot_separates_what_is_separable():
    x, labels = examples(20, 64, 4, spread=0.05)
    x_test, test_labels = examples(200, 64, 4, spread=0.05, seed=1)
    solve = functools.partial(fewshot_accuracy, num_classes=4, l2=1024.0)
    assert solve(x, labels, x_test, test_labels) == 1
    assert solve(x, labels, x_test, (test_labels + 1) % 4) == 0


def test_fewshot_of_several_features_and_penalties_at_once():
    sets = [examples(20, 16, 4, spread=2.0, seed=seed) for seed in range(3)]
    x_test, test_labels = examples(100, 16, 4, spread=2.0, seed=9)
    solve = functools.partial(fewshot_accuracy, num_classes=4)
    x, labels = (np.stack(part) for part in zip(*sets, strict=True))
    l2 = jnp.array([1.0, 32.0, 1024.0])
    together = jax.vmap(lambda *a: solve(*a[:2], x_test, test_labels, l2=a[2]))(
        x, labels, l2
    )
    alone = [solve(x[i], labels[i], x_test, test_labels, l2=l2[i]) for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=0.011)
    assert len(set(np.asarray(together).tolist())) > 1


def test_fewshot_survives_dead_and_broken_features():
    x, labels = examples(20, 16, 4)
    x_test, test_labels = examples(100, 16, 4, seed=1)
    plain = fewshot_scores(x, labels, x_test, num_classes=4, l2=1024.0)
    # Constant up to rounding, which the division by a deviation of 1e-5 magnifies.
    dead = [np.full((len(a), 8), 1234.567, np.float32) for a in (x, x_test)]
    padded = [np.concatenate(a, 1) for a in zip((x, x_test), dead, strict=True)]
    scores = fewshot_scores(padded[0], labels, padded[1], num_classes=4, l2=1024.0)
    np.testing.assert_allclose(scores, plain, atol=1e-5)
    broken = x_test.copy()
    broken[:50, 3] = np.nan
    solve = functools.partial(fewshot_accuracy, num_classes=4, l2=1024.0)
    accuracy = solve(x, labels, broken, test_labels)
    expected = (np.argmax(plain, -1) == test_labels)[50:].sum() / 100
    assert float(accuracy) == pytest.approx(expected)


def test_the_choice_of_shots_is_that_of_big_vision():
    labels = np.random.default_rng(0).integers(0, 5, 200)
    chosen = choose_shots(labels, 10, 5, seed=2)
    # The lines of `fewshot_lsr.py`.
    rng = np.random.default_rng(2)
    per_class = [rng.permutation(np.where(labels == c)[0]) for c in range(5)]
    np.testing.assert_array_equal(chosen, [rows[:10] for rows in per_class])
    assert (labels[chosen] == np.arange(5)[:, None]).all()
    np.testing.assert_array_equal(chosen[:, :3], choose_shots(labels, 3, 5, seed=2))
    assert (chosen != choose_shots(labels, 10, 5, seed=3)).any()
    firsts = choose_shots(labels, 2, 5, seed=None)
    np.testing.assert_array_equal(firsts[4], np.flatnonzero(labels == 4)[:2])
    with pytest.raises(ValueError, match="class 1 has 2 examples, fewer than 3 shots"):
        choose_shots(np.array([0, 1, 1, 0, 0]), 3, 2, seed=0)


def loop_knn(x, labels, x_test, classes, neighbours, temperature):
    x, x_test = (
        a.astype(np.float64) / np.linalg.norm(a.astype(np.float64), axis=1)[:, None]
        for a in (x, x_test)
    )
    scores = np.zeros((len(x_test), classes))
    for row, similarity in enumerate(x_test @ x.T):
        for near in np.argsort(-similarity)[:neighbours]:
            scores[row, labels[near]] += np.exp(similarity[near] / temperature)
    return scores.argmax(-1)


@pytest.mark.parametrize(
    ("neighbours", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0)]
)
def test_knn_against_a_loop(neighbours, temperature):
    x, labels = examples(300, 8, 5, spread=1.5)
    x_test, test_labels = examples(70, 8, 5, spread=1.5, seed=1)
    expected = loop_knn(x, labels, x_test, 5, neighbours, temperature) == test_labels
    measure = functools.partial(
        knn_accuracy,
        x,
        labels,
        num_classes=5,
        neighbours=neighbours,
        temperature=temperature,
    )
    for chunk in (32, 256):  # several, the last one padded, and one
        accuracy = measure(x_test, test_labels, chunk=chunk)
        assert float(accuracy) == pytest.approx(expected.mean())
    # Only the direction counts.
    assert measure(1e4 * x_test, test_labels) == pytest.approx(expected.mean())


def test_knn_weighs_near_neighbours_by_temperature():
    angles = np.radians([5, 40, 41, 90])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    labels, x_test = np.array([0, 1, 1, 2]), np.array([[1.0, 0.0]], np.float32)
    # One at 5 degrees against two at 40; exp(1 / T) alone would overflow at the last.
    for temperature, winner in ((1.0, 1), (0.07, 0), (1e-3, 0)):
        for label in range(3):
            accuracy = knn_accuracy(
                x,
                labels,
                x_test,
                np.array([label]),
                num_classes=3,
                neighbours=3,
                temperature=temperature,
            )
            assert accuracy == (label == winner)


def test_knn_counts_broken_features_as_wrong():
    x, labels = examples(40, 8, 4, spread=0.1)
    broken = x.copy()
    broken[::2] = np.inf
    accuracy = knn_accuracy(x, labels, broken, labels, num_classes=4, neighbours=1)
    assert accuracy == 0.5


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_probe_is_logistic_regression(l2):
    x, labels = examples(200, 6, 3, spread=1.5)
    used = np.arange(len(x)) < 150
    start = probing.initial_weights(6, 3)
    weights, steps = probing.fit(start, x, labels, used, l2)
    sklearn = LogisticRegression(C=1 / (l2 * 150), tol=1e-8, max_iter=5000)
    sklearn.fit(x[used].astype(np.float64), labels[used])
    kernel = np.asarray(weights["kernel"])
    np.testing.assert_allclose(kernel, sklearn.coef_.T, atol=2e-3)
    shift = np.asarray(weights["bias"]) - sklearn.intercept_  # free up to a constant
    np.testing.assert_allclose(shift, shift.mean(), atol=1e-2)
    assert 0 < steps < probing.MAX_STEPS


def as_features(features, labels):
    return Features(features, labels, np.arange(len(labels)))


def test_probe_chooses_its_penalty_on_held_out_examples():
    train = as_features(*examples(120, 60, 3, spread=4.0))
    test = as_features(*examples(300, 60, 3, spread=4.0, seed=1))
    probe = probing.linear_probe(train, test, num_classes=3)
    assert probe.held_out[probe.l2] == max(probe.held_out.values())
    assert set(probe.held_out) == set(probing.L2_GRID)
    # Of equally good penalties the strongest is chosen; noise like this needs one.
    ties = [k for k, v in probe.held_out.items() if v == probe.held_out[probe.l2]]
    assert probe.l2 == max(ties) > min(probing.L2_GRID)
    assert 0.4 < probe.accuracy <= 1
    held = probing.held_out_rows(train.labels, 0.1, seed=0)
    assert np.bincount(train.labels[held]).tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="too few to hold a share of 0.1"):
        probing.linear_probe(as_features(*examples(6, 60, 3)), test, num_classes=3)
