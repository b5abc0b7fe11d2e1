"""Losses against numbers worked out by hand; MixUp and CutMix by what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.mix import as_targets, cutmix, make_mix, mixup
from vit_jax.losses import make_loss, smooth_labels
from vit_jax.models.pixels import normalize

LOGITS = jnp.array([[0.0, np.log(3.0)], [2.0, 0.0]])


def test_softmax_loss():
    loss = make_loss(name="softmax", label_smoothing=0.0)(LOGITS, jnp.eye(2))
    np.testing.assert_allclose(loss, [np.log(4), np.log(1 + np.exp(2))], rtol=1e-6)


def test_sigmoid_loss_sums_over_classes():
    loss = make_loss(name="sigmoid", label_smoothing=0.0)(LOGITS[:1], jnp.eye(2)[:1])
    np.testing.assert_allclose(loss, [np.log(2) + np.log(4)], rtol=1e-6)


def test_rounded_up_targets_hold_each_of_two_mixed_images():
    loss = make_loss(name="sigmoid", label_smoothing=0.0, round_up=True)
    mixed, both = jnp.array([[0.2, 0.8]]), jnp.array([[1.0, 1.0]])
    wanted = make_loss(name="sigmoid", label_smoothing=0.0)(LOGITS[:1], both)
    np.testing.assert_allclose(loss(LOGITS[:1], mixed), wanted, rtol=1e-6)
    np.testing.assert_allclose(wanted, [np.log(2) + np.log(4 / 3)], rtol=1e-6)
    for options in (
        dict(name="softmax", label_smoothing=0.0),
        dict(name="sigmoid", label_smoothing=0.1),
    ):
        with pytest.raises(ValueError, match="loss.round_up makes targets of 1"):
            make_loss(**options, round_up=True)


def test_label_smoothing_keeps_the_mass():
    smooth = smooth_labels(jnp.eye(4), 0.1)
    np.testing.assert_allclose(smooth.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(smooth[0], [0.925, 0.025, 0.025, 0.025], rtol=1e-6)
    plain = make_loss(name="softmax", label_smoothing=0.0)
    smoothed = make_loss(name="softmax", label_smoothing=0.1)
    wanted = plain(LOGITS, smooth_labels(jnp.eye(2), 0.1))
    np.testing.assert_allclose(smoothed(LOGITS, jnp.eye(2)), wanted, rtol=1e-6)


def test_half_precision_logits_give_a_float32_loss():
    loss = make_loss(name="softmax", label_smoothing=0.0)
    assert loss(LOGITS.astype(jnp.bfloat16), jnp.eye(2)).dtype == jnp.float32


def test_normalize_maps_pixels_to_minus_one_to_one():
    pixels = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 3)
    np.testing.assert_allclose(normalize(pixels).ravel(), [-1, -0.6, 1], atol=1e-6)
    with pytest.raises(ValueError, match="integer pixels in 0..255, got float32"):
        normalize(pixels / 255)
    with pytest.raises(ValueError, match="integer pixels in 0..255, got bool"):
        normalize(pixels > 0)


@pytest.fixture
def batch():
    """Image i is constant i, its target class i."""
    images = jnp.broadcast_to(jnp.arange(4.0)[:, None, None, None], (4, 8, 8, 3))
    return images, as_targets(jnp.arange(4), 4)


def test_mixup_blends_with_the_neighbour(batch):
    images, targets = mixup(*batch, jnp.array([1.0, 0.75, 0.5, 0.5]))
    np.testing.assert_allclose(images[:, 0, 0, 0], [0, 0.75, 1.5, 2.5])
    np.testing.assert_allclose(targets[1], [0.25, 0.75, 0, 0])


def test_cutmix_pastes_a_box_and_mixes_by_its_true_area(batch):
    center = jnp.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [0.5, 0.5]])
    weight = jnp.array([0.75, 1.0, 0.75, 0.0])
    images, targets = cutmix(*batch, weight, center)
    wanted = np.zeros((8, 8))
    wanted[2:6, 2:6] = 3  # a quarter of the area, of the neighbour, in the middle
    np.testing.assert_array_equal(images[0, :, :, 0], wanted)
    np.testing.assert_allclose(targets[0], [0.75, 0, 0, 0.25])
    np.testing.assert_array_equal(images[1], batch[0][1])  # weight 1: nothing pasted
    assert (np.asarray(images[2, :2, :2]) == 1).all()  # cut at the corner: 2x2 of 8x8
    np.testing.assert_allclose(targets[2], [0, 1 / 16, 15 / 16, 0])
    np.testing.assert_array_equal(images[3], batch[0][2])  # weight 0: all pasted


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mix_keeps_the_mass_and_follows_the_key(batch, alphas, per_example):
    mix = jax.jit(
        make_mix(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], per_example=per_example)
    )
    images, targets = mix(jax.random.key(0), *batch)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    # Images are constant, so the mean pixel is the mean class under the targets.
    pixels = np.asarray(images).mean((1, 2, 3))
    np.testing.assert_allclose(pixels, targets @ np.arange(4.0), atol=1e-5)
    np.testing.assert_array_equal(images, mix(jax.random.key(0), *batch)[0])
    draws = [np.asarray(mix(jax.random.key(k), *batch)[1]) for k in range(8)]
    assert len({draw.tobytes() for draw in draws}) == 8
    weights = np.array([np.diag(draw) for draw in draws])
    if not per_example:
        np.testing.assert_allclose(weights.std(axis=1), 0, atol=1e-6)
    elif alphas[1] == 0:
        assert weights.std(axis=1).min() > 1e-4


def test_no_mix_leaves_the_batch(batch):
    mix = make_mix(mixup_alpha=0.0, cutmix_alpha=0.0, per_example=False)
    for before, after in zip(batch, mix(jax.random.key(0), *batch), strict=True):
        np.testing.assert_array_equal(before, after)
