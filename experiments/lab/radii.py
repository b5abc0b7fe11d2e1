"""Accuracy with attention limited to a radius, by layer, image by image."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from experiments.lab.frozen import BATCH
from vit_jax.analysis.radius import everything, outputs_within, within
from vit_jax.interop.trained import TrainedModel
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize

# In patches, of the limits in one layer; those that hide something are taken.
RADII = (0, 1, 2, 3)
# Of the limits up to and from a layer: windows of 3 x 3 patches, like a convolution's.
NEAR = 1
WHOLE = "no limit"
# Whether each image is classified right, and the cosine of its pre-logits to those
# without a limit: one for each image, by condition, for each seed.
Measured = dict[str, np.ndarray]
Classify = Callable[[np.ndarray, np.ndarray], np.ndarray]


def one(layer: int, radius: int) -> str:
    return f"layer {layer}, radius {radius}"


def all_layers(radius: int) -> str:
    return f"all layers, radius {radius}"


def up_to(layer: int) -> str:
    return f"up to layer {layer}, radius {NEAR}"


def from_on(layer: int) -> str:
    return f"from layer {layer}, radius {NEAR}"


def conditions(model: AnyModel) -> dict[str, np.ndarray]:
    """The radius of each layer (layers,), by the name of the condition."""
    depth, far = model.depth, everything(model)
    layers = range(depth)
    found = {WHOLE: within(model, far, layers)}
    for radius in range(far):
        found[all_layers(radius)] = within(model, radius, layers)
    for n in layers:
        found |= {one(n, r): within(model, r, [n]) for r in RADII if r < far}
        found[up_to(n)] = within(model, NEAR, range(n + 1))
        found[from_on(n)] = within(model, NEAR, range(n, depth))
    return found


def measure(
    run: TrainedModel, images: np.ndarray, labels: np.ndarray, classify: Classify
) -> Measured:
    """`hit/CONDITION`, bool, and `cosine/CONDITION`, a value for each image.

    Args:
        images: uint8 (n, height, width, 3), of the model's size.
        classify: from logits and pre-logits (n, ...) to labels.
    """
    found, before = {}, None
    for name, radii in conditions(run.model).items():
        parts = [
            outputs_within(
                run.model,
                run.params,
                normalize(jnp.asarray(images[i : i + BATCH])),
                radii,
            )
            for i in range(0, len(images), BATCH)
        ]
        logits, features = (
            np.concatenate([np.asarray(part[i], np.float32) for part in parts])
            for i in range(2)
        )
        found[f"hit/{name}"] = classify(logits, features) == labels
        unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
        before = unit if before is None else before
        found[f"cosine/{name}"] = (unit * before).sum(-1)
    return found


def lost(found: Measured, condition: str) -> np.ndarray:
    """What a limit costs each image: 1, 0, or -1 for one that becomes right."""
    return found[f"hit/{WHOLE}"] * 1.0 - found[f"hit/{condition}"] * 1.0
