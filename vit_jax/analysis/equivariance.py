"""Equivariance of a model's layers to translation, each moved by its own stride.

Layers are comparable where their grids are equally large, whatever their strides: a
move by one place is then the same share of the image. The parameters are arguments of
what is compiled, as in `profile.py`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from vit_jax.analysis.features import apply, features_of, layer_features
from vit_jax.analysis.translation import (
    border,
    equivariance_error,
    fading,
    local_equivariance_error,
    on_grey,
    strides,
)
from vit_jax.interop import adapt
from vit_jax.models import AnyModel, ResNet
from vit_jax.models.depth import unrolled, unstack_blocks

Grids = dict[str, tuple[int, int]]

# What surrounds an image that is moved. `circular`: itself, or a canvas of its mirror
# images, round the border. `grey`: it fades to grey and nothing leaves it; blank places
# do not count, since a ViT's hold nothing but their positions. `crops`: two crops of it
# and its mirror images, of which places that both show count.
SETTINGS = ("circular", "grey", "crops")

# Places a side. A grid of 2 x 2 has the Nyquist frequency only, which half a place
# erases and whose derivative is zero; a move by one place exchanges its halves, and all
# of it is border. From 4 x 4 on, one place is at most a quarter of the image, which the
# grey ground leaves on each side.
LEAST_GRID = 4
# Derivatives are taken of the first images only; they vary little between images.
DERIVATIVE_IMAGES = 32


def translation_profile(
    model: AnyModel,
    params: Any,
    images: Float[ArrayLike, "b height width 3"],
    *,
    canvas: int = 0,
) -> dict[str, float]:
    """Equivariance errors and Lie derivatives of the layers of 4 x 4 places or more.

        equivariance/SETTING/MOVE/LAYER, /grid_N    `equivariance_error`, centred: 0 is
            equivariant, 2 the error of unrelated features; mean of a move down and one
            to the right
        lie_derivative/LAYER, /grid_N, /pre_logits  `local_equivariance_error`, relative

    SETTING is one of `SETTINGS`. MOVE is `whole`, one place of the layer's own grid, or
    `part`, half a place, rounded down to pixels, which crops do not have. `grid_N`
    stands for the last layer whose grid is N x N: compare models at equal N. Lie
    derivatives are of images that fade to grey at the border, so that opposite borders
    are alike.

    Args:
        images: in [-1, 1], of the model's size.
        canvas: side in pixels of a larger image to measure on, a multiple of twice the
            model's, so that deeper layers have grids of 4 x 4 and more; 0 for the
            model's own. On grey the image stands in the middle of it; otherwise it is
            surrounded by its mirror images, which leave no edge anywhere and fit
            together across the border. A ResNet is applied as it is; a ViT's positions
            are interpolated, as in fine-tuning at a higher resolution. A ViT has a
            place for each patch: at four times the side its attention needs 256 times
            the memory.

    Raises:
        ValueError: images of another size or dtype; or a canvas that mirror images do
            not fill, or that the model has no weights for.
    """
    images = jnp.asarray(images)
    fade = min(images.shape[1:3]) // 4
    faded = on_grey(images, 0, fade)
    if canvas:
        model, params = enlarged(model, params, canvas)
        check_canvas(images.shape[1:3], canvas)
        faded = jnp.pad(faded, border(images.shape[1:3], model.image_size))
    elif images.shape[1:3] != model.image_size:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels: wanted those of "
            f"the model, {model.image_size[0]} x {model.image_size[1]}"
        )
    grids = large_grids(model, params)
    profile = {}
    for setting in SETTINGS:
        errors = errors_by_move(model, params, images, grids, setting)
        for move, values in errors.items():
            profile |= by_grid(f"equivariance/{setting}/{move}", values, grids)
    derivatives = lie_derivatives(model, params, faded[:DERIVATIVE_IMAGES])
    profile |= by_grid("lie_derivative", derivatives, grids)
    return profile | {"lie_derivative/pre_logits": float(derivatives["pre_logits"])}


def enlarged(model: AnyModel, params: Any, side: int) -> tuple[AnyModel, Any]:
    """The model for images of side x side pixels, and its parameters.

    Raises:
        ValueError: it has weights for each place of its grid, which are not resampled.
    """
    if isinstance(model, ResNet) and model.axial_heads:
        raise ValueError(
            "an axial ResNet has weights for each place of its grid, and cannot be "
            f"applied to a canvas of {side} x {side} pixels: leave canvas at 0"
        )
    model, params = unrolled(model), unstack_blocks(params)
    return adapt.resize(model, params, (side, side), None, "bilinear")


def check_canvas(size: Sequence[int], side: int) -> None:
    """Raises ValueError for a side that is no multiple of twice the images'."""
    height, width = size
    if side % (2 * height) or side % (2 * width):
        raise ValueError(
            f"mirror images of {height} x {width} pixels do not fill a canvas of "
            f"{side} x {side}: wanted a multiple of twice their sides"
        )


def scene(
    images: Float[Array, "b height width c"],
    size: tuple[int, int],
    setting: str,
    pixels: int,
) -> tuple[Float[Array, "b h w c"], Float[Array, "h w"]]:
    """What is moved by some pixels in a setting, and how much of it counts.

    Args:
        size: of what the model sees, the middle; no smaller than the images.

    Returns:
        Images of twice the size, and the `cover` of `equivariance_error`.
    """
    inner, outer = images.shape[1:3], (2 * size[0], 2 * size[1])
    around = border(size, outer)
    if setting == "grey":
        # Fading over an eighth of the side; in front of it room for the move.
        room = pixels if size == inner else 0
        ramp = min(inner) // 8
        around = border(inner, outer)
        cover = jnp.pad(fading(inner, room, ramp), around[1:3])
        return jnp.pad(on_grey(images, room, ramp), around), cover
    images = jnp.pad(images, border(inner, size), "symmetric")
    if setting == "circular":
        return jnp.pad(images, around, "wrap"), jnp.ones(outer)
    cover = jnp.pad(jnp.ones(size), around[1:3])
    return jnp.pad(images, around, "symmetric"), cover


def large_grids(model: AnyModel, params: Any) -> Grids:
    """Rows and columns of each layer that has at least `LEAST_GRID` of both."""
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
    layers = jax.eval_shape(partial(layer_features, model), params, images)
    shapes = {name: x.shape[1:3] for name, x in layers.items()}
    return {name: grid for name, grid in shapes.items() if min(grid) >= LEAST_GRID}


def errors_by_move(
    model: AnyModel, params: Any, images: Array, grids: Grids, setting: str
) -> dict[str, dict[str, float]]:
    """Equivariance errors of layers, by `whole` or `part` and by layer.

    A layer of stride 1 has no part of a place in pixels, and is left out there.
    """
    size = model.image_size
    # Strides are as long down as to the right, in all models.
    steps = {name: strides((0, *size), (0, *grid))[0] for name, grid in grids.items()}
    moves = {"whole": steps}
    if setting != "crops":
        moves["part"] = {name: step // 2 for name, step in steps.items() if step > 1}
    errors = {}
    for pixels in sorted({n for of_layer in moves.values() for n in of_layer.values()}):
        moved, cover = scene(images, size, setting, pixels)
        both = np.array([(pixels, 0), (0, pixels)])
        errors[pixels] = equivariance_errors(model, params, moved, both, cover)
    return {
        kind: {name: float(errors[n][name].mean()) for name, n in of_layer.items()}
        for kind, of_layer in moves.items()
    }


@partial(jax.jit, static_argnames="model")
def equivariance_errors(
    model: AnyModel,
    params: Any,
    images: Array,
    moves: Integer[Array, "m 2"],
    cover: Array | None = None,
) -> OrderedDict[str, Float[Array, " m"]]:
    """Centred equivariance errors of all layers, for each move (dy, dx) in pixels.

    Args:
        images: of the model's size or larger, see `frame` of `equivariance_error`.
    """
    return equivariance_error(
        partial(layer_features, model, params),
        images,
        moves,
        centred=True,
        frame=model.image_size,
        cover=cover,
    )


@partial(jax.jit, static_argnames="model")
def lie_derivatives(
    model: AnyModel, params: Any, images: Array
) -> OrderedDict[str, Float[Array, ""]]:
    """Lie derivatives of all layers and of the pre-logits, relative to their variance.

    Of a layer whose grid is below `LEAST_GRID` it means nothing.
    """

    def features(images: Array) -> OrderedDict[str, Array]:
        out = apply(model, params, images)[1]
        return features_of(model, out) | {"pre_logits": out["pre_logits"]}

    return local_equivariance_error(features, images, relative=True)


def by_grid(measure: str, values: dict[str, Any], grids: Grids) -> dict[str, float]:
    """Entries for each layer and, as `grid_N`, for the last one of N x N places."""
    named = {name: float(values[name]) for name in grids if name in values}
    squares = {name: rows for name, (rows, columns) in grids.items() if rows == columns}
    last = {f"grid_{squares[name]}": x for name, x in named.items() if name in squares}
    return {f"{measure}/{name}": x for name, x in (named | last).items()}
