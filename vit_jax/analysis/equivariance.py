"""Equivariance of a model's layers to translation, each moved by its own stride.

Layers are comparable where their grids are equally large, whatever their strides: a
move by one place is then the same share of the image. The parameters are arguments of
what is compiled, as in `profile.py`.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from vit_jax.analysis.features import apply, features_of, layer_features
from vit_jax.analysis.translation import (
    equivariance_error,
    local_equivariance_error,
    on_grey,
    strides,
)
from vit_jax.interop import adapt
from vit_jax.models import AnyModel, ResNet
from vit_jax.models.depth import unrolled, unstack_blocks

Grids = dict[str, tuple[int, int]]

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

    SETTING is `circular`, images moved round the border, or `grey`, images that fade to
    grey so that nothing leaves on any side. MOVE is `whole`, one place of the layer's
    own grid, or `part`, half a place, rounded down to pixels. `grid_N` stands for the
    last layer whose grid is N x N: compare models at equal N. Lie derivatives are of
    images that fade to grey at the border, so that opposite borders are alike.

    Args:
        images: in [-1, 1], of the model's size.
        canvas: side in pixels of a larger image to measure on, a multiple of twice the
            model's, so that deeper layers have grids of 4 x 4 and more; 0 for the
            model's own. On grey the image fades out in the middle of it. In a circle it
            is surrounded by its mirror images, which leave no edge anywhere and fit
            together across the border. A ResNet is applied as it is; a ViT's positions
            are interpolated, as in fine-tuning at a higher resolution. A ViT has a
            place for each patch: at four times the side its attention needs 256 times
            the memory.

    Raises:
        ValueError: images of another size or dtype; or a canvas that mirror images do
            not fill, or that the model has no weights for.
    """
    images = jnp.asarray(images)
    if canvas:
        model, params = enlarged(model, params, canvas)
        circular, grey = canvases(images, canvas)
        faded = grey
    else:
        side = min(model.image_size)
        circular, grey = images, on_grey(images, side // 4, side // 8)
        faded = on_grey(images, 0, side // 4)
    grids = large_grids(model, params)
    profile = {}
    for setting, ground in (("circular", circular), ("grey", grey)):
        errors = errors_by_move(model, params, ground, grids)
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


def canvases(
    images: Float[Array, "b height width c"], side: int
) -> tuple[Float[Array, "b side side c"], Float[Array, "b side side c"]]:
    """Images among their mirror images, and faded into grey, on a larger square.

    Raises:
        ValueError: the side is no multiple of twice the images'.
    """
    height, width = images.shape[1:3]
    if side % (2 * height) or side % (2 * width):
        raise ValueError(
            f"mirror images of {height} x {width} pixels do not fill a canvas of "
            f"{side} x {side}: wanted a multiple of twice their sides"
        )
    border = [((side - one) // 2,) * 2 for one in (height, width)]
    border = ((0, 0), *border, (0, 0))
    faded = on_grey(images, 0, min(height, width) // 4)
    return jnp.pad(images, border, "symmetric"), jnp.pad(faded, border)


def large_grids(model: AnyModel, params: Any) -> Grids:
    """Rows and columns of each layer that has at least `LEAST_GRID` of both."""
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
    layers = jax.eval_shape(partial(layer_features, model), params, images)
    shapes = {name: x.shape[1:3] for name, x in layers.items()}
    return {name: grid for name, grid in shapes.items() if min(grid) >= LEAST_GRID}


def errors_by_move(
    model: AnyModel, params: Any, images: Array, grids: Grids
) -> dict[str, dict[str, float]]:
    """Equivariance errors of layers, by `whole` or `part` and by layer.

    A layer of stride 1 has no part of a place in pixels, and is left out there.
    """
    # Strides are as long down as to the right, in all models.
    steps = {name: strides(images.shape, (0, *grid))[0] for name, grid in grids.items()}
    own = {
        "whole": steps,
        "part": {name: step // 2 for name, step in steps.items() if step > 1},
    }
    pixels = sorted({n for moves in own.values() for n in moves.values()})
    if not pixels:
        return {}
    moves = np.array([move for n in pixels for move in ((n, 0), (0, n))])
    errors = {
        name: dict(zip(pixels, np.reshape(values, (-1, 2)).mean(1), strict=True))
        for name, values in equivariance_errors(model, params, images, moves).items()
    }
    return {
        kind: {name: float(errors[name][n]) for name, n in moves.items()}
        for kind, moves in own.items()
    }


@partial(jax.jit, static_argnames="model")
def equivariance_errors(
    model: AnyModel, params: Any, images: Array, moves: Integer[Array, "m 2"]
) -> OrderedDict[str, Float[Array, " m"]]:
    """Centred equivariance errors of all layers, for each move (dy, dx) in pixels."""
    features = partial(layer_features, model, params)
    return equivariance_error(features, images, moves, centred=True)


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
