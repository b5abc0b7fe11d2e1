"""Figures of attention: a point for each head, and what a limited radius keeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.figures.style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    SMALL,
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


def radius_tiles(
    values: np.ndarray, radii: Sequence[int], path: Path, *, bar_label: str
) -> Path:
    """A shade for each layer and radius, with its number in it.

    Args:
        values: (layers + 1, radii), the last row of a limit in all layers; shares of 1
            or cosines.
        radii: of the columns.
        bar_label: what the shades are.
    """
    names = [*map(str, range(len(values) - 1)), "all"]
    figure = new_figure(0.7 * len(radii) + 2.2, 0.3 * len(values) + 1.2)
    axis = figure.subplots()
    image = axis.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    dress(axis, "", "radius in patches", "layer with the limit")
    axis.grid(visible=False)
    axis.set_xticks(range(len(radii)), map(str, radii))
    axis.set_yticks(range(len(values)), names)
    rows: list[list[Any]] = [["layer", "radius", bar_label]]
    for (row, column), value in np.ndenumerate(values):
        colour = INK if value > 0.6 else "white"
        text = {"ha": "center", "va": "center", "fontsize": SMALL, "color": colour}
        axis.text(column, row, f"{value:.2f}", **text)
        rows.append([names[row], radii[column], round(float(value), 4)])
    bar = figure.colorbar(image, ax=axis, shrink=0.85)
    bar.set_label(bar_label, fontsize=9.5)
    bar.outline.set_visible(False)
    return save(figure, path, rows)
