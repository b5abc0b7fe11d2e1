"""Invariance and equivariance of a model to translation of the image.

Translations are circular: what leaves the image on one side comes in on the other. So
they are exact symmetries of attention without positions (by whole patches) and of
circular convolutions. Zero padding breaks them along the border, which is everywhere
on a small grid of deep features; but an object on an empty ground (`on_grey`) suits
that padding, and leaves patches nothing but their positions. Neither setting is neutral
between architectures. Two crops of one scene are more so: `equivariance_error` with a
`frame`, of places that both crops show, has neither a seam nor a blank patch.

Axes: `b` images, `height width` pixels, `h w` grid of features, `d` features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

Predict = Callable[[Array], Float[Array, "b n"]]
Shift = tuple[int, int]


@jax.jit
def shift(
    images: Float[Array, "b h w c"], dy: int | Array, dx: int | Array
) -> Float[Array, "b h w c"]:
    """Moves images down by dy and right by dx pixels, in a circle."""
    return jnp.roll(images, (dy, dx), (1, 2))  # pyright: ignore[reportArgumentType]


def on_grey(
    images: Float[Array, "b height width c"], margin: int, ramp: int
) -> Float[Array, "b height width c"]:
    """Fades images into zeros, mid-grey, towards the border.

    The content can then be moved by up to `margin` pixels without leaving on any side,
    and opposite borders are alike.

    Args:
        images: in [-1, 1].
        margin: pixels of zeros on all four sides.
        ramp: pixels behind them in which the factor rises to 1, as a squared sine.
    """
    mask = fading(images.shape[1:3], margin, ramp)[..., None]
    return images * mask.astype(images.dtype)


def fading(
    size: Sequence[int], margin: int, ramp: int
) -> Float[np.ndarray, "height width"]:
    """The factors of `on_grey`, in [0, 1]."""
    factors = []
    for side in size:
        depth = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5 - margin
        factors.append(np.sin(np.pi / 2 * np.clip(depth / max(ramp, 0.5), 0, 1)) ** 2)
    return np.outer(*factors)


def shift_consistency(
    predict: Predict, images: Float[Array, "b h w c"], shifts: Sequence[Shift]
) -> float:
    """Share of images whose predicted class stays the same when they are moved.

    After Zhang (arXiv 1904.11486), who moves both images of a pair. Here one stays in
    place, so that it is clear which shifts are multiples of the patch.

    Args:
        predict: from images to logits.
        shifts: (dy, dx) in pixels; each is applied to all images.

    Returns:
        In [0, 1]; also 1 for a model that gives all images one class.

    Raises:
        ValueError: there is no shift.
    """
    return agreement(predict(images), at_shifts(predict, images, shifts))


def agreement(
    logits: Float[ArrayLike, "b n"], moved: Float[ArrayLike, "s b n"]
) -> float:
    """`shift_consistency` from logits of images, and of the images at s shifts."""
    return float(np.mean(np.argmax(moved, axis=-1) == np.argmax(logits, axis=-1)))


def invariance_error(
    represent: Predict, images: Float[Array, "b h w c"], shifts: Sequence[Shift]
) -> float:
    """How much a representation changes as the image moves, relative to other images.

    The mean squared distance of an image and the moved image, over that of two images.
    Unlike the class, it is meaningful before any training too.

    Args:
        represent: from images to a vector each, such as the pre-logits.
        shifts: (dy, dx) in pixels; each is applied to all images.

    Returns:
        0 for an invariant representation; 1 if moved images differ like other images.

    Raises:
        ValueError: there is no shift, or all images have the same representation.
    """
    return relative_change(represent(images), at_shifts(represent, images, shifts))


def relative_change(
    still: Float[ArrayLike, "b d"], moved: Float[ArrayLike, "s b d"]
) -> float:
    """`invariance_error` from representations of images, and of the images at s shifts.

    Raises:
        ValueError: all images have the same representation.
    """
    still, moved = np.asarray(still, np.float64), np.asarray(moved, np.float64)
    change = np.square(moved - still).sum(axis=-1).mean()
    # The mean over pairs of two images is twice the unbiased variance.
    between = 2 * still.var(axis=0).sum() * len(still) / max(len(still) - 1, 1)
    if not between > 0:
        raise ValueError(
            "all images have the same representation: wanted two that differ"
        )
    return float(change / between)


def at_shifts(
    function: Predict, images: Float[Array, "b h w c"], shifts: Sequence[Shift]
) -> Float[np.ndarray, "s b n"]:
    """The results of a function for the images at each shift.

    Raises:
        ValueError: there is no shift.
    """
    if not len(shifts):
        raise ValueError("there is no shift: wanted at least one pair (dy, dx)")
    return np.stack([function(shift(images, *pixels)) for pixels in shifts])


def equivariance_error(
    features_fn: Callable[[Array], Any],
    images: Float[Array, "b height width c"],
    moves: Integer[ArrayLike, "m 2"],
    *,
    centred: bool = False,
    frame: tuple[int, int] | None = None,
    cover: Float[ArrayLike, "height width"] | None = None,
) -> Any:
    """||Phi(T x) - T Phi(x)||^2 / ||Phi(x)||^2 for translations T, in a circle.

    Features are moved by the phases of their Fourier transform (`spectral_shift`), so
    that a move can be a part of a place. What they hold at the Nyquist frequency, two
    places, has no phase that the grid could show: of that, half a place leaves nothing,
    and so aliases count as errors.

    Args:
        features_fn: from images to features (b h w d), or a tree of such.
        moves: (dy, dx) in pixels, one after the other; with a frame by whole places
            only, since features are then no circle that could be interpolated.
        centred: divide by the variance of the features over images and places instead,
            so that a constant part does not count.
        frame: height and width of what `features_fn` sees of the images, in their
            middle; None for all.
        cover: how much each pixel counts, in [0, 1], by default 1 in the frame and 0
            outside. It moves with the images, and a place counts by the mean over its
            pixels: places with what came into the frame do not count.

    Returns:
        float32 (m,) for each array of features. 0 is equivariant; centred, 2 is the
        error of unrelated features.

    Raises:
        ValueError: a grid of features does not divide the images.
    """
    frame = frame or (images.shape[1], images.shape[2])
    if cover is None:
        cover = jnp.pad(jnp.ones(frame), border(frame, images.shape[1:3])[1:3])
    covers = jnp.asarray(cover, jnp.float32)[None, ..., None]
    still = features_fn(middle(images, frame))

    def errors(move: Integer[Array, "2"]) -> Any:
        def error(still: Array, moved: Array) -> Float[Array, ""]:
            steps = strides((0, *frame), still.shape)
            wanted = still
            for axis in (0, 1):
                wanted = spectral_shift(wanted, move[axis] / steps[axis], axis + 1)
            before, after = (
                place_weights(middle(one, frame), steps)
                for one in (covers, shift(covers, move[0], move[1]))
            )
            mean = jnp.einsum("bhwd,hw->d", still, before) / len(still)
            size = jnp.square(still - mean * centred).mean((0, 3))
            change = jnp.square(moved - wanted).mean((0, 3))
            return (change * after).sum() / (size * before).sum()

        seen = middle(shift(images, move[0], move[1]), frame)
        return jax.tree.map(error, still, features_fn(seen))

    return jax.lax.map(errors, jnp.asarray(moves))


def middle(
    images: Float[Array, "b height width c"], frame: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """The window of a size in the middle of images."""
    (top, _), (left, _) = border(frame, images.shape[1:3])[1:3]
    return images[:, top : top + frame[0], left : left + frame[1]]


def border(frame: Sequence[int], size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding that makes images of a size from windows in their middle."""
    extra = [outer - inner for outer, inner in zip(size, frame, strict=True)]
    return ((0, 0), *((n // 2, n - n // 2) for n in extra), (0, 0))


def place_weights(
    covers: Float[Array, "1 height width 1"], steps: tuple[int, int]
) -> Float[Array, "h w"]:
    """Weights of the places of a grid, whose sum is 1, from those of pixels."""
    down, right = steps
    places = covers[0, ..., 0]
    places = places.reshape(len(places) // down, down, -1, right).mean((1, 3))
    return places / places.sum()


def strides(image_shape: Sequence[int], shape: Sequence[int]) -> tuple[int, int]:
    """Pixels down and right from one place of the features to the next.

    Raises:
        ValueError: the strides are not whole.
    """
    for pixels, side in zip(image_shape[1:3], shape[1:3], strict=True):
        if pixels % side:
            raise ValueError(
                f"a grid of {shape[1]} x {shape[2]} places does not divide images of "
                f"{image_shape[1]} x {image_shape[2]} pixels: use another image size"
            )
    return image_shape[1] // shape[1], image_shape[2] // shape[2]


def local_equivariance_error(
    features_fn: Callable[[Array], Any],
    images: Float[Array, "b height width c"],
    *,
    relative: bool = False,
) -> Any:
    """The Lie derivative of a model with respect to translation (arXiv 2210.02984).

    The mean square of the derivative at t = 0 of rho_out(t)^-1 f(rho_in(t) x), where
    rho(t) moves by t pixels. Unlike `equivariance_error` it measures moves by a
    fraction of a pixel, and so aliasing. Images and features move in a circle, by the
    phases of their Fourier transform, which is exact for frequencies below the limit;
    so is the derivative, which is no difference. An edge between opposite borders
    counts as one of the image. On a grid of 2 x 2 the only frequency is the limit, so
    that the features are not moved back at all: leave such layers out.

    Args:
        features_fn: from images to features (b h w d), to vectors (b d), which should
            be invariant, or to a tree of such; with a forward-mode derivative, which
            attention has with `train=False`.
        relative: divide by the variance of the features, over images and places, so
            that the scale of the features does not matter.

    Returns:
        A number (float32) for each array: per squared pixel, mean over images,
        places, features and the two directions.

    Raises:
        ValueError: a grid of features does not divide the images.
    """

    def derivative(axis: int) -> tuple[Any, Any]:
        moving = -spectral_derivative(images, axis)
        still, change = jax.jvp(features_fn, (images,), (moving,))

        def undo(x: Array, dx: Array) -> Array:
            if x.ndim == 2:
                return dx
            stride = strides(images.shape, x.shape)[axis - 1]
            return dx + spectral_derivative(x, axis) / stride

        return still, jax.tree.map(undo, still, change)

    still, down = derivative(1)
    _, right = derivative(2)

    def error(x: Array, *derivatives: Array) -> Float[Array, ""]:
        squares: Any = sum(jnp.square(one).mean() for one in derivatives)
        size = squares / len(derivatives)
        return size / variance(x) if relative else size

    return jax.tree.map(error, still, down, right)


def spectral_shift(
    x: Float[Array, "b h w d"], steps: float | Float[Array, ""], axis: int
) -> Float[Array, "b h w d"]:
    """The periodic function through evenly spaced values, moved along an axis.

    Args:
        steps: length of the move, whole or not. The highest frequency of an even length
            keeps the part that the steps can show: all of it if the move is whole, and
            none if it is half a step.
    """
    length = x.shape[axis]
    phases = jnp.exp(-2j * np.pi * np.fft.rfftfreq(length) * steps)
    if length % 2 == 0:
        phases = phases.at[-1].set(phases[-1].real)
    shape = [1] * x.ndim
    shape[axis] = -1
    spectrum = jnp.fft.rfft(x, axis=axis) * phases.reshape(shape)
    return jnp.fft.irfft(spectrum, length, axis=axis)


def spectral_derivative(x: Float[Array, "b h w d"], axis: int) -> Array:
    """Derivative along an axis of the periodic function through evenly spaced values.

    Per step of the axis; exact for all frequencies but the highest of an even length,
    whose derivative is zero at the steps.
    """
    length = x.shape[axis]
    frequencies = 2j * np.pi * np.fft.rfftfreq(length)
    if length % 2 == 0:
        frequencies[-1] = 0
    shape = [1] * x.ndim
    shape[axis] = -1
    spectrum = jnp.fft.rfft(x, axis=axis) * frequencies.reshape(shape)
    return jnp.fft.irfft(spectrum, length, axis=axis)


def variance(x: Float[Array, "b *places d"]) -> Float[Array, ""]:
    """Variance over images and places, mean over features."""
    return x.var(axis=tuple(range(x.ndim - 1))).mean()
