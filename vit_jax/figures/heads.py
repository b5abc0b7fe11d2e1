"""A figure with a point for each attention head."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.figures.style import (
    COLOURS,
    GREY,
    MARKERS,
    Family,
    dress,
    name_ends,
    new_figure,
    save,
)


def head_distances(
    panels: Mapping[str, np.ndarray],
    path: Path,
    *,
    families: Mapping[str, Family],
    uniform: float | None = None,
    y_label: str = "mean attention distance (pixels)",
) -> Path:
    """A point for each head of each layer (Figs. 7 right and 11).

    Args:
        panels: distances (layers, heads) by title.
        families: family of each title.
        uniform: the distance of uniform attention, drawn as a dashed line.
    """
    figure = new_figure(5.2, 3.6 * len(panels))
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    rows: list[list[Any]] = [["panel", "layer", "head", "distance"]]
    for axis, (title, distances) in zip(axes, panels.items(), strict=True):
        layers, heads = distances.shape
        colour = COLOURS[families[title]][0]
        depth = np.repeat(np.arange(layers), heads)
        marker = MARKERS[families[title]]
        style = {"color": colour, "marker": marker, "alpha": 0.6, "linewidths": 0}
        axis.scatter(depth, distances.ravel(), 26, **style)
        axis.plot(distances.mean(axis=1), color=colour, linewidth=1, alpha=0.7)
        if uniform is not None:
            axis.axhline(uniform, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        dress(axis, title, "layer", y_label)
        axis.set_ylim(0, 1.12 * max(uniform or 0, *(p.max() for p in panels.values())))
        axis.set_xlim(-0.5, layers - 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
        for layer, head in np.ndindex(distances.shape):
            rows.append([title, layer, head, float(distances[layer, head])])
    if uniform is not None:
        figure.draw_without_rendering()
        for axis in axes:
            name_ends(axis, [("uniform", uniform, GREY)])
    return save(figure, path, rows)
