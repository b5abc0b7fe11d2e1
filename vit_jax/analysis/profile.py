"""The inductive biases of one model as numbers: locality, 2-D structure, translation.

    profile = bias_profile(model, params, images, labels, key=jax.random.key(0))

The parameters are arguments of what is compiled, so that all checkpoints of a model,
and images of one shape, share one compilation.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key

from vit_jax.analysis import positions, receptive_field
from vit_jax.analysis.attention import uniform_mass_within
from vit_jax.analysis.equivariance import DERIVATIVE_IMAGES, translation_profile
from vit_jax.analysis.features import (
    apply,
    layer_features,
    position_tables,
    total_stride,
)
from vit_jax.analysis.heads import attention_measures
from vit_jax.analysis.shuffle import (
    accuracy,
    accuracy_kept,
    remove_positions,
    shuffle_accuracy,
)
from vit_jax.analysis.translation import agreement, relative_change, shift
from vit_jax.models import AnyModel

BLOCKS = (2, 4)


def bias_profile(
    model: AnyModel,
    params: Any,
    images: Float[ArrayLike, "b height width 3"],
    labels: Integer[Array | np.ndarray, " b"] | None = None,
    *,
    key: Key[Array, ""],
) -> dict[str, float]:
    """All measures that exist for a model, by name.

    The value after the colon means that there is no bias:

        attention_ratio/LAYER/mean, /min        over the heads: 1
        attention_ratio/mean, /min              over layers and heads: 1
        attention_entropy/LAYER, /mean          1
        attention_mass_within_1/LAYER, /mean    attention_mass_within_1/uniform
        receptive_field/rms_ratio               of the last layer: 1
        positions/rank_correlation              mean over tables: 0
        positions/neighbour_share               positions/neighbour_share_by_chance
        positions/row_column_r2                 positions/row_column_r2_by_chance
        equivariance/..., lie_derivative/...    see `translation_profile`: 2, and none
        invariance_error/stride, /other         of the pre-logits: 1
        shift_consistency/stride, /other        1 is invariant
        accuracy, accuracy_kept/shuffled_2x2, /shuffled_4x4, /without_positions
            1 where the order of the parts is not used, 0 where chance is left

    `stride` are moves by the model's whole stride (patch size), `other` moves by a half
    and by one and a half. A measure that is not defined is left out: those of attention
    for a ResNet; consistency while all logits are the same, as before training; what is
    kept of an accuracy that is no better than chance.

    Args:
        images: in [-1, 1], of the model's size; 64 or more for stable numbers.
        labels: labels for the accuracies, which are left out otherwise.
        key: key of the receptive field's signs and of the shuffled blocks.

    Raises:
        ValueError: images of another size or dtype.
    """
    images = jnp.asarray(images)
    signs, blocks = jax.random.split(key)
    few = images[:DERIVATIVE_IMAGES]
    profile = attention_profile(model, params, images) | position_profile(model, params)
    profile |= field_profile(model, params, few, signs)
    profile |= translation_profile(model, params, images)
    profile |= invariance_profile(model, params, images)
    if labels is not None:
        profile |= accuracy_profile(model, params, images, labels, blocks)
    return profile


def attention_profile(model: AnyModel, params: Any, images: Array) -> dict[str, float]:
    """The measures of attention; empty for a model without attention."""
    layers = attention_measures(model, params, images)
    if not layers:
        return {}
    profile = {}
    for name, layer in layers.items():
        profile[f"attention_ratio/{name}/mean"] = float(layer.ratio.mean())
        profile[f"attention_ratio/{name}/min"] = float(layer.ratio.min())
    ratios = np.stack([layer.ratio for layer in layers.values()])
    profile["attention_ratio/mean"] = float(ratios.mean())
    profile["attention_ratio/min"] = float(ratios.min())
    for measure in ("entropy", "mass_within_1"):
        means = {name: getattr(layer, measure).mean() for name, layer in layers.items()}
        profile |= per_layer(f"attention_{measure}", means)
    uniform = uniform_mass_within(model.grid, 1)
    return profile | {"attention_mass_within_1/uniform": uniform}


def position_profile(model: AnyModel, params: Any) -> dict[str, float]:
    """The measures of position tables; empty for a model without tables."""
    tables = position_tables(model, params)
    if not tables:
        return {}
    grid = model.grid
    similarities = [positions.position_similarity(table) for table in tables.values()]
    measures = {
        "rank_correlation": positions.rank_correlation_with_distance,
        "neighbour_share": positions.true_neighbour_share,
        "row_column_r2": positions.row_column_r2,
    }
    profile = {
        f"positions/{name}": float(np.mean([measure(x, grid) for x in similarities]))
        for name, measure in measures.items()
    }
    return profile | {
        "positions/neighbour_share_by_chance": positions.chance_neighbour_share(grid),
        "positions/row_column_r2_by_chance": positions.chance_row_column_r2(grid),
    }


def field_profile(
    model: AnyModel, params: Any, images: Array, key: Array
) -> dict[str, float]:
    """The effective receptive field of the last layer."""
    field = np.asarray(last_layer_field(model, params, images, key))
    if not field.sum() > 0:
        return {}
    stride = total_stride(model)
    grid = tuple(side // stride for side in field.shape)
    centre = receptive_field.pixel_of(receptive_field.centre_place(grid), stride)
    radii = [receptive_field.rms_radius(x, centre) for x in (field, field * 0 + 1)]
    return {"receptive_field/rms_ratio": radii[0] / radii[1]}


@partial(jax.jit, static_argnames="model")
def last_layer_field(
    model: AnyModel, params: Any, images: Array, key: Array
) -> Float[Array, "height width"]:
    """The effective receptive field of the middle place of the last layer."""

    def last(images: Array) -> Array:
        return layer_features(model, params, images)["encoded"]

    return receptive_field.effective_receptive_field(last, images, key)


def invariance_profile(model: AnyModel, params: Any, images: Array) -> dict[str, float]:
    """Changes of the output when the images are moved."""
    stride = total_stride(model)
    half = stride // 2
    moves = {
        "stride": [stride] if stride < min(model.image_size) else [],
        "other": [half, stride + half] if half else [],
    }
    run = partial(compiled_outputs, model, params)
    logits, represented = jax.tree.map(np.asarray, run(images))
    profile = {}
    for name, pixels in moves.items():
        shifts = [move for n in pixels for move in ((n, 0), (0, n))]
        moved = [run(shift(images, *move)) for move in shifts]
        if moved and np.ptp(logits, axis=0).any():
            same = agreement(logits, np.stack([x for x, _ in moved]))
            profile[f"shift_consistency/{name}"] = same
        if moved and np.ptp(represented, axis=0).any():
            change = relative_change(represented, np.stack([x for _, x in moved]))
            profile[f"invariance_error/{name}"] = change
    return profile


def accuracy_profile(
    model: AnyModel, params: Any, images: Array, labels: Array | np.ndarray, key: Array
) -> dict[str, float]:
    """The accuracy, and what shuffled blocks and no positions leave of it."""
    predict = partial(logits_of, model, params)
    profile = {"accuracy": accuracy(predict, images, labels)}
    others = {
        f"shuffled_{g}x{g}": shuffle_accuracy(
            predict, images, labels, g, jax.random.fold_in(key, g)
        )
        for g in BLOCKS
        if not any(side % g for side in model.image_size)
    }
    bare, bare_params = remove_positions(model, params)
    others["without_positions"] = accuracy(
        partial(logits_of, bare, bare_params), images, labels
    )
    usual, number = profile["accuracy"], model.num_classes
    if usual > 1 / number:
        profile |= {
            f"accuracy_kept/{name}": accuracy_kept(value, usual, number)
            for name, value in others.items()
        }
    return profile


def logits_of(model: AnyModel, params: Any, images: Array) -> Float[Array, "b n"]:
    """The logits, compiled."""
    return compiled_outputs(model, params, images)[0]


@partial(jax.jit, static_argnames="model")
def compiled_outputs(
    model: AnyModel, params: Any, images: Array
) -> tuple[Float[Array, "b n"], Float[Array, "b d"]]:
    """Logits and pre-logits."""
    logits, out = apply(model, params, images)
    return logits, out["pre_logits"]


def per_layer(measure: str, values: dict[str, Any]) -> dict[str, float]:
    """Entries for each layer, and for the mean over them."""
    values = {name: float(value) for name, value in values.items()}
    named = {f"{measure}/{name}": value for name, value in values.items()}
    return named | {f"{measure}/mean": float(np.mean(list(values.values())))}
