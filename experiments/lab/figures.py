"""Curves, points and bars in the form of the paper's figures.

Every function takes plain dicts and sequences, draws one figure and writes three files
of the same stem: PNG, SVG and a CSV of the numbers drawn. The path is that of the PNG.
ViTs are blue with circles, hybrids green with squares, ResNets orange with triangles,
in all figures; the colours are Okabe and Ito's, which the colour-blind can tell apart.
Panels lie one below the other, so that the paper's and ours can be read side by side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.statistics import mean_std
from vit_jax.figures.style import (
    GREY,
    INK,
    SMALL,
    Family,
    Series,
    dress,
    log_labels,
    name_ends,
    name_points,
    new_figure,
    numbers,
    save,
    styles_of,
    x_axis,
)


def over_seeds(
    name: str,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    factor: float = 100.0,
    **options: Any,
) -> Series:
    """Means over seeds and their standard deviations, as a curve.

    Args:
        values: those of each seed, for each x; empty where there are none.
        factor: multiplies the values: shares are shown in percent.
        options: the rest of a `Series`, such as its family.
    """
    bars = [bar(row, factor) if len(row) else (None, None) for row in values]
    means, stds = [mean for mean, _ in bars], [std for _, std in bars]
    return {"name": name, "x": x, "y": means, "std": stds, **options}


def bar(values: Sequence[float], factor: float = 100.0) -> tuple[float, float | None]:
    """The mean over seeds, and the standard deviation where there are several."""
    mean, std, count = mean_std(values)
    return factor * mean, factor * std if count > 1 else None


def lines(
    panels: Mapping[str, Sequence[Series]],
    path: Path,
    *,
    x_label: str,
    y_label: str,
    log_x: bool = True,
    log_y: bool = False,
    ticks: Mapping[float, str] | None = None,
    reference: tuple[float, str] | None = None,
    columns: int = 1,
) -> Path:
    """Curves with bands of a standard deviation, named at their right ends.

    For learning curves, accuracy against data, shapes, epochs, speed (Figs. 3, 4, 8, 9
    and 12). Curves of one family differ by shade and dashes.

    Args:
        panels: series by title of the panel, one below the other; "" for no title.
        ticks: labels by place on the x axis; chosen by the numbers if not given.
        reference: height and name of a dashed line, such as chance.
        columns: number of panels side by side.
    """
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns, (3.6 if columns == 1 else 2.9) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    axes = grid[: len(panels)]
    for axis in grid[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        for one, style in zip(series, styles_of(series), strict=True):
            _curve(axis, one, style)
        if reference:
            axis.axhline(reference[0], color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        if log_y:
            axis.set_yscale("log")
            log_labels(axis.yaxis, *axis.get_ylim())
        dress(axis, title, x_label, y_label)
        x_axis(axis, log_x, ticks)
    figure.draw_without_rendering()
    for axis, series in zip(axes, panels.values(), strict=True):
        styles = styles_of(series)
        ends = [
            (one["name"], _last(one["y"]), style["color"])
            for one, style in zip(series, styles, strict=True)
        ]
        if reference:
            ends.append((reference[1], reference[0], GREY))
        name_ends(axis, [end for end in ends if end[1] is not None])
    return save(figure, path, _series_rows(panels, x_label, y_label))


def scatter(
    panels: Mapping[str, Sequence[Series]],
    path: Path,
    *,
    x_label: str,
    y_label: str,
    log_x: bool = True,
) -> Path:
    """Points of families, such as accuracy over pre-training compute (Figs. 5 and 13).

    `labels` name the points; `std` is drawn as an error bar.
    """
    figure = new_figure(5.2, 3.8 * len(panels))
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        for one, style in zip(series, styles_of(series), strict=True):
            style = style | {"linestyle": "none", "markersize": 7}
            error = numbers(one.get("std") or [None] * len(one["x"]))
            axis.errorbar(
                one["x"],
                numbers(one["y"]),
                yerr=error if np.isfinite(error).any() else None,
                label=one["name"],
                elinewidth=1,
                alpha=0.9,
                **style,
            )
        dress(axis, title, x_label, y_label)
        x_axis(axis, log_x, None)
        axis.margins(0.12)
    axes[0].legend(frameon=False, fontsize=9, loc="lower right", handletextpad=0.2)
    figure.draw_without_rendering()
    for axis, series in zip(axes, panels.values(), strict=True):
        name_points(axis, series)
    return save(figure, path, _series_rows(panels, x_label, y_label))


def bars(
    panels: Mapping[str, Mapping[str, tuple[float, float | None]]],
    path: Path,
    *,
    y_label: str,
    families: Mapping[str, Family] | None = None,
    floor: float = 0.0,
) -> Path:
    """Bars in groups, their numbers written on them (Fig. 2).

    Args:
        panels: mean and standard deviation by name, by title of the panel.
        families: of the names, for their colours.
        floor: where the y axis begins; the paper's Fig. 2 does not begin at zero.
    """
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    empty: list[Series] = [{"name": n, "x": (), "y": ()} for n in names]
    for one in empty:
        if families and one["name"] in families:
            one["family"] = families[one["name"]]
    colours = {
        one["name"]: style["color"]
        for one, style in zip(empty, styles_of(empty), strict=True)
    }
    widest = max(map(len, panels.values()))
    figure = new_figure(max((0.36 * widest + 0.2) * len(panels), 3.2) + 0.9, 3.6)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    rows = [["panel", "name", "mean", "std"]]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for place, (name, (mean, std)) in enumerate(panel.items()):
            axis.bar(place, mean - floor, 0.72, floor, color=colours[name], label=name)
            if std is not None:
                axis.errorbar(place, mean, std, color=INK, capsize=3, linewidth=1)
            text = f"{mean:.1f}"
            top = mean + (std or 0)
            axis.annotate(
                text,
                (place, top),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=SMALL,
                color=INK,
            )
            rows.append([title, name, mean, std])
        dress(axis, title, "", y_label if axis is axes[0] else "")
        axis.set_xticks([])
        axis.set_xlim(-0.6, widest - 0.4)
    handles = [Patch(color=colours[name], label=name) for name in names]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return save(figure, path, rows)


def heat_maps(
    panels: Mapping[str, np.ndarray],
    path: Path,
    *,
    x_label: str,
    y_label: str,
    bar_label: str,
) -> Path:
    """Numbers by row and column as shades, each written in its cell.

    Panels lie side by side and have one scale, with zero in its middle.

    Args:
        panels: (rows, columns) by title; both are counted from 0, rows upwards.
    """
    most = max(float(np.abs(panel).max()) for panel in panels.values()) or 1.0
    tallest = max(len(panel) for panel in panels.values())
    figure = new_figure(3.4 * len(panels) + 0.8, 0.3 * tallest + 1.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    rows: list[list[Any]] = [["panel", y_label, x_label, bar_label]]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.imshow(
            panel, cmap="PuOr", vmin=-most, vmax=most, origin="lower", aspect="auto"
        )
        dress(axis, title, x_label, y_label)
        axis.grid(visible=False)
        axis.set_xticks(range(panel.shape[1]))
        axis.set_yticks(range(panel.shape[0]))
        for (row, column), value in np.ndenumerate(panel):
            colour = "white" if abs(value) > 0.7 * most else INK
            axis.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=SMALL,
                color=colour,
            )
            rows.append([title, row, column, round(float(value), 4)])
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.85)
    bar.set_label(bar_label, fontsize=9.5)
    bar.outline.set_visible(False)
    return save(figure, path, rows)


def _curve(axis: Any, one: Series, style: dict[str, Any]) -> None:
    x, y = np.asarray(one["x"], float), numbers(one["y"])
    axis.plot(x, y, **style)
    error = numbers(one.get("std") or [None] * len(x))
    if np.isfinite(error).any():
        colour = style["color"]
        axis.fill_between(
            x, y - error, y + error, color=colour, alpha=0.18, linewidth=0
        )


def _last(values: Sequence[float | None]) -> float | None:
    return next((v for v in reversed(values) if v is not None), None)


def _series_rows(
    panels: Mapping[str, Sequence[Series]], x_label: str, y_label: str
) -> list[list[Any]]:
    rows: list[list[Any]] = [["panel", "series", "label", x_label, y_label, "std"]]
    for title, series in panels.items():
        for one in series:
            empty = [None] * len(one["x"])
            columns = (one.get("labels", empty), one["x"], one["y"])
            std = one.get("std") or empty
            for row in zip(*columns, std, strict=True):
                rows.append([title, one["name"], *row])
    return rows
