"""The paper's figures of what a model has learned (Figs. 6, 7, 10, 11, 14)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vit_jax.analysis.attention import uniform_attention_distance
from vit_jax.analysis.features import apply, output_rollout, position_tables
from vit_jax.analysis.filters import principal_filters
from vit_jax.analysis.heads import attention_measures
from vit_jax.analysis.positions import position_similarity
from vit_jax.figures.heads import head_distances
from vit_jax.figures.style import Family
from vit_jax.figures.tiles import (
    filter_tiles,
    rollout_grid,
    rollout_rows,
    similarity_tiles,
)
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.models.pixels import normalize

BATCH = 16
FILTERS = 28


class Trained(NamedTuple):
    """A model with its parameters."""

    model: AnyModel
    params: Any

    @property
    def family(self) -> Family:
        """ViT, hybrid or ResNet, which also stands for a Mixer."""
        if not isinstance(self.model, VisionTransformer):
            return "ResNet"
        return "ViT" if self.model.resnet_stem is None else "hybrid"


def draw_model(
    trained: Trained, images: UInt8[np.ndarray, "n height width 3"], folder: Path
) -> dict[str, Path]:
    """Draws all figures that exist for a model.

    Args:
        images: of the model's size; 128 in the paper.

    Returns:
        The pictures by name: `filters`; for models with attention `attention_distance`
        and `rollout`; for models with a position table `position_similarity`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"filters": filters(trained, folder / "filters.png")}
    if position_tables(*trained):
        path = folder / "position_similarity.png"
        drawn["position_similarity"] = similarities({"": trained}, path)
    if isinstance(trained.model, VisionTransformer):
        path = folder / "attention_distance.png"
        drawn["attention_distance"] = distances({"": trained}, images, path)
        drawn["rollout"] = rollouts(trained, images, folder / "rollout.png")
    return drawn


def filters(trained: Trained, path: Path) -> Path:
    """Principal components of the filters that see the pixels (Fig. 7, left)."""
    return filter_tiles(filters_of(trained), path)


def filters_of(trained: Trained) -> Float[np.ndarray, "n height width 3"]:
    """What `filters` draws."""
    params = trained.params
    kernel = (params.get("resnet", {}).get("root") or params["embedding"])["kernel"]
    rank = min(int(np.prod(kernel.shape[:3])), kernel.shape[-1] - 1)
    return principal_filters(kernel, min(FILTERS, rank)).components


def similarities(models: Mapping[str, Trained], path: Path) -> Path:
    """Cosine similarity of position embeddings, a panel for each model (Figs. 7, 10).

    Models with a table in each layer show that of the first.
    """
    panels = {}
    for title, (model, params) in models.items():
        table = next(iter(position_tables(model, params).values()))
        rows, columns = model.grid
        similarity = position_similarity(table)
        panels[title] = similarity.reshape(rows, columns, rows, columns)
    return similarity_tiles(panels, path)


def distances(
    models: Mapping[str, Trained],
    images: UInt8[np.ndarray, "n height width 3"],
    path: Path,
) -> Path:
    """Mean attention distance of each head, a panel for each model (Figs. 7 and 11).

    All models must have the same grid of tokens.
    """
    panels = {title: distances_of(trained, images) for title, trained in models.items()}
    first = next(iter(models.values())).model
    return head_distances(
        panels,
        path,
        families={title: trained.family for title, trained in models.items()},
        uniform=uniform_attention_distance(first.grid, first.patch_size),
    )


def distances_of(
    trained: Trained, images: UInt8[np.ndarray, "n height width 3"]
) -> Float[np.ndarray, "layers heads"]:
    """Mean attention distance in pixels."""
    pixels = np.asarray(normalize(jnp.asarray(images)))
    layers = attention_measures(*trained, pixels, batch_size=BATCH)
    return np.stack([np.asarray(layer.distance) for layer in layers.values()])


def rollouts(
    trained: Trained,
    images: UInt8[np.ndarray, "n height width 3"],
    path: Path,
    *,
    rows: bool = False,
) -> Path:
    """Images with their attention rollout: a grid (Fig. 14) or rows (Fig. 6)."""
    draw = rollout_rows if rows else rollout_grid
    return draw(images, rollouts_of(trained, images), path)


def rollouts_of(
    trained: Trained, images: UInt8[np.ndarray, "n height width 3"]
) -> Float[np.ndarray, "n rows columns"]:
    """Attention rollout of each image."""
    masks = [
        np.asarray(rollout(*trained, images[i : i + BATCH]))
        for i in range(0, len(images), BATCH)
    ]
    return np.concatenate(masks)


@partial(jax.jit, static_argnames="model")
def rollout(
    model: VisionTransformer, params: Any, images: UInt8[Array, "b height width 3"]
) -> Float[Array, "b rows columns"]:
    """Attention rollout of the class token, or of the mean over patches."""
    images = normalize(images)
    return output_rollout(model, apply(model, params, images, return_attention=True)[1])
