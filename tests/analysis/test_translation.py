"""Moved images, equivariance, Lie derivative and receptive field in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis.receptive_field import (
    centre_place,
    effective_receptive_field,
    pixel_of,
    receptive_field_radius,
    rms_radius,
)
from vit_jax.analysis.translation import (
    equivariance_error,
    invariance_error,
    local_equivariance_error,
    on_grey,
    shift,
    shift_consistency,
)

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(6, 8, 8, 2)), jnp.float32)
KERNEL = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)
# Waves over the rows: one period, and the fastest but one.
WAVE, FAST = np.cos(
    2 * np.pi * np.outer([1, 3], np.arange(8) / 8)[:, :, None, None]
).astype(np.float32)

# Compiled as a whole, which is much faster than operation by operation.
equivariance = jax.jit(equivariance_error, static_argnums=0, static_argnames="centred")
lie_derivative = jax.jit(
    local_equivariance_error, static_argnums=0, static_argnames="relative"
)
receptive_field = jax.jit(
    effective_receptive_field, static_argnums=0, static_argnames="place"
)


def circular_conv(images):
    """The same function of each neighbourhood, around the borders too."""
    patches = [
        jnp.roll(images, (1 - i, 1 - j), (1, 2)) @ KERNEL[i, j]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.tanh(sum(patches))


def means(images):
    """Features of stride 2: the mean over 2 x 2 pixels."""
    return images.reshape(-1, 4, 2, 4, 2, images.shape[-1]).mean((2, 4))


def test_images_move_down_and_right():
    moved = np.asarray(shift(IMAGES, 2, 3))
    np.testing.assert_array_equal(moved[:, 3, 1], IMAGES[:, 1, 6])
    np.testing.assert_array_equal(shift(jnp.asarray(moved), -2, -3), IMAGES)


def test_shift_consistency_by_hand():
    def column(images):  # the class is the column of the largest value
        return np.max(images, axis=(1, 3))

    assert shift_consistency(column, IMAGES, [(1, 0), (5, 0)]) == 1
    assert shift_consistency(column, IMAGES, [(0, 1)]) == 0
    assert shift_consistency(column, IMAGES, [(3, 0), (0, 8), (0, 1), (1, 1)]) == 0.5


def test_invariance_error():
    assert invariance_error(lambda x: np.mean(x, (1, 2)), IMAGES, [(3, 1)]) < 1e-10
    # One pixel of noise is as far from itself, moved, as from another image.
    noise = jnp.asarray(RNG.normal(size=(4000, 8, 8, 2)), jnp.float32)
    actual = invariance_error(lambda x: np.asarray(x)[:, 0, 0], noise, [(0, 1), (4, 4)])
    assert actual == pytest.approx(1, abs=0.05)
    # A value that is twice as large after the shift: (x - 2 x)^2 over 2 x^2.
    images = np.ones((2, 4, 4, 1), np.float32)
    images[:, 0] = 2
    images[1] *= -1
    actual = invariance_error(
        lambda x: np.asarray(x)[:, 0, 0], jnp.asarray(images), [(1, 0)]
    )
    # From 2 and -2 to 1 and -1: a change of 1, between the images 4^2.
    assert actual == pytest.approx(1 / 16)


def test_equivariance_errors_in_closed_form():
    board = np.float32((-1.0) ** np.add.outer(np.arange(8), np.arange(8)))[..., None]

    def features(images):
        return {
            "conv": circular_conv(images),
            "means": means(images),
            # Its sign turns over with every step: (x + x)^2 / x^2 at odd ones.
            "board": board * images,
            # The wave against itself, moved by half its length, whatever the image.
            "fixed": 0 * images + WAVE,
            "shifted": 0 * images + WAVE + 3,
        }

    moves = jnp.array([(4, 2), (0, 3)])
    plain = equivariance(features, IMAGES, moves)
    even, odd = ({name: float(x[i]) for name, x in plain.items()} for i in (0, 1))
    assert max(even["conv"], even["means"], even["board"]) < 1e-11
    assert even["fixed"] == pytest.approx(4)
    # The mean square is 9 + 1/2, the variance 1/2.
    assert even["shifted"] == pytest.approx(4 * 0.5 / 9.5, rel=1e-4)
    centred = equivariance(features, IMAGES, moves, centred=True)
    assert float(centred["shifted"][0]) == pytest.approx(4, rel=1e-4)
    assert odd["board"] == pytest.approx(4, rel=1e-5)
    # One and a half places of features whose images have the highest frequencies.
    assert odd["conv"] < 1e-11 and odd["means"] > 0.1


def test_parts_of_a_place_move_by_their_phases():
    """Smooth waves, of which every second pixel says all, and one of which it does not.

    At two places a period, the grid of every second pixel, moved by half a place, is
    expected to be empty. Of the wave cos(pi (2 n + t) / 2 + phase) that grid has
    cos(phase) (-1)^n at t = 0 and -sin(phase) (-1)^n at t = 1.
    """
    rows = np.arange(8)[:, None, None] * np.ones((8, 2), np.float32)
    slow = jnp.asarray(np.cos(2 * np.pi * rows / 8 + 0.3), jnp.float32)[None]
    moves = jnp.array([(1, 0), (2, 0), (3, 0)])

    def every_second(images):
        return images[:, ::2, ::2]

    assert max(equivariance(every_second, slow, moves)) < 1e-11
    phase = 0.3
    limit = jnp.asarray(np.cos(np.pi * rows / 2 + phase), jnp.float32)[None]
    part, whole, _ = equivariance(every_second, limit, moves)
    assert float(part) == pytest.approx(np.tan(phase) ** 2, rel=1e-4)
    assert float(whole) < 1e-11


def test_zero_padding_is_not_equivariant():
    def conv(images):
        return jax.lax.conv_general_dilated(
            images, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert equivariance(conv, IMAGES, jnp.array([(0, 1)])) > 0.05
    # It is equivariant while there is nothing at the border to be padded.
    empty = on_grey(IMAGES, 2, 0)
    assert equivariance(conv, empty, jnp.array([(0, 1)])) < 1e-10


def test_fading_to_grey():
    faded = np.asarray(on_grey(jnp.ones((1, 8, 12, 1)), 1, 2))[0, ..., 0]
    assert not faded[0].any() and not faded[:, -1].any()
    ramp = np.sin(np.pi / 2 * np.array([0.25, 0.75])) ** 2
    np.testing.assert_allclose(faded[1:4, 5], [*ramp, 1], rtol=1e-6)
    np.testing.assert_allclose(faded, faded[::-1, ::-1], rtol=1e-6)
    np.testing.assert_allclose(faded[1, 1], ramp[0] ** 2, rtol=1e-6)
    np.testing.assert_array_equal(on_grey(IMAGES, 0, 0), IMAGES)


def test_lie_derivatives_in_closed_form():
    def features(images):
        return {
            "identity": images,
            "conv": circular_conv(images),
            "mean": images.mean((1, 2)),
            "mask": (1 + 0 * images) * WAVE,
            "place": images[:, 2, 0],
        }

    images = jnp.asarray(np.broadcast_to(WAVE, (2, 8, 8, 2)))
    actual = lie_derivative(features, images)
    for name in ("identity", "mean"):
        assert actual[name] < 1e-10
    # A fixed wave should have moved: its slope 2 pi / 8 sin, 0 to the right.
    slope = (2 * np.pi / 8) ** 2
    assert float(actual["mask"]) == pytest.approx(slope / 4, rel=1e-5)
    # The value at a quarter of the wave, where it is steepest.
    assert float(actual["place"]) == pytest.approx(slope / 2, rel=1e-5)
    relative = lie_derivative(features, images, relative=True)
    assert float(relative["mask"]) == pytest.approx(slope / 4 / 0.5, rel=1e-5)


def test_aliasing_is_what_the_lie_derivative_sees():
    images = jnp.asarray(np.stack([WAVE, FAST]) * np.ones((2, 8, 8, 1), np.float32))

    def features(images):
        return {"squares": images**2, "every second": images[:, ::2, ::2]}

    slow, fast = (lie_derivative(features, images[i : i + 1]) for i in (0, 1))
    # Twice the frequency of the fast wave is beyond what 8 pixels, and its own beyond
    # what 4 places can show.
    for name in slow:
        assert slow[name] < 1e-10 and fast[name] > 0.1


def test_the_lie_derivative_is_the_limit_of_small_moves():
    def features(images):
        return jnp.tanh(images * (1 + 0.5 * WAVE))

    def moved(x, pixels, axis):
        x = np.moveaxis(np.asarray(x, np.float64), axis, -1)
        phases = np.exp(-2j * np.pi * np.fft.rfftfreq(8) * pixels)
        phases[-1] = phases[-1].real  # half of the highest frequency turns either way
        x = np.fft.irfft(np.fft.rfft(x) * phases, 8)
        return np.moveaxis(x, -1, axis)

    def there_and_back(pixels, axis):
        there = jnp.asarray(moved(IMAGES, pixels, axis), jnp.float32)
        return moved(features(there), -pixels, axis)

    t = 3e-3
    slopes = [
        (there_and_back(t, axis) - there_and_back(-t, axis)) / (2 * t)
        for axis in (1, 2)
    ]
    actual = lie_derivative(features, IMAGES)
    assert float(actual) == pytest.approx(np.mean(np.square(slopes)), rel=1e-3)


def test_field_of_one_convolution_is_its_window():
    kernel = KERNEL[..., :1, :1]

    def conv(images):
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    field = receptive_field(conv, IMAGES[..., :1], jax.random.key(0))
    expected = np.zeros((8, 8))
    expected[3:6, 3:6] = abs(kernel[..., 0, 0])
    np.testing.assert_allclose(field, expected, atol=1e-6)


def test_field_of_a_patch_is_the_patch():
    field = receptive_field(means, IMAGES, jax.random.key(0), place=(1, 3))
    expected = np.zeros((8, 8))
    expected[2:4, 6:8] = 0.25 * 2**0.5  # two features of one colour each
    np.testing.assert_allclose(field, expected, atol=1e-6)
    assert pixel_of((1, 3), 2) == (2.5, 6.5)
    assert centre_place((4, 7)) == (2, 3)


def test_field_counts_all_features():
    images = jnp.asarray(np.zeros((3000, 2, 2, 1), np.float32))
    weights = np.float32([3, 4])  # of two features of one pixel, which may cancel
    field = receptive_field(lambda x: x * weights, images, jax.random.key(0))
    assert float(field[1, 1]) == pytest.approx(5, rel=0.03)
    assert np.abs(field).sum() == np.abs(field)[1, 1]


def test_radii():
    ones, middle = np.ones((9, 9)), (4.0, 4.0)
    # The variance of 0 ... 8 is (81 - 1) / 12 in each direction.
    assert rms_radius(ones, middle) == pytest.approx((2 * 80 / 12) ** 0.5)
    assert rms_radius(3 * ones, middle) == rms_radius(ones, middle)
    dot = np.zeros((9, 9))
    dot[4, 4] = 1
    assert rms_radius(dot, middle) == receptive_field_radius(dot, middle) == 0
    dot[4, 7] = 1
    assert rms_radius(dot, middle) == pytest.approx(4.5**0.5)
    assert receptive_field_radius(dot, middle) == 0
    assert receptive_field_radius(dot, middle, share=0.51) == 3
    assert receptive_field_radius(ones, middle, share=1.0) == pytest.approx(32**0.5)


def test_errors():
    with pytest.raises(ValueError, match="there is no shift"):
        shift_consistency(lambda x: np.mean(x, (1, 2)), IMAGES, [])
    with pytest.raises(ValueError, match="all images have the same representation"):
        invariance_error(lambda x: 0 * np.mean(x, (1, 2)), IMAGES, [(0, 1)])
    with pytest.raises(ValueError, match="a grid of 3 x 8 places does not divide"):
        equivariance_error(lambda x: x[:, :3], IMAGES, jnp.array([(0, 1)]))
    with pytest.raises(ValueError, match="a grid of 3 x 8 places does not divide"):
        local_equivariance_error(lambda x: x[:, :3], IMAGES)
    with pytest.raises(ValueError, match="zero everywhere"):
        rms_radius(np.zeros((3, 3)), (1.0, 1.0))
    with pytest.raises(ValueError, match="share is 0.0: wanted more than 0"):
        receptive_field_radius(np.ones((3, 3)), (1.0, 1.0), share=0.0)
