"""Colours, axes and names beside curves, shared by all figures.

Matplotlib is imported where a figure is made, and used without pyplot: no screen, no
backend, nothing left in memory.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np

from vit_jax.storage import output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Family = Literal["ViT", "hybrid", "ResNet"]

COLOURS: dict[str, tuple[str, ...]] = {
    "ViT": ("#0072b2", "#56b4e9", "#003d66", "#8aa6c1", "#7a68b3"),
    "hybrid": ("#009e73", "#6fcfb0", "#005a41", "#9dbfb2"),
    "ResNet": ("#d55e00", "#f0a25f", "#8a3d00", "#cfae97"),
    # Arms without a family.
    "": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"),
}
MARKERS = {"ViT": "o", "hybrid": "s", "ResNet": "^", "": "o"}
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
INK, GREY, PALE = "#222222", "#6b7280", "#e5e7eb"
SMALL = 8.5
_LINE = 1.25  # height of a line of text, in its font size


class Series(TypedDict):
    """A curve, or the points of a family."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]  # None: not measured there
    std: NotRequired[Sequence[float | None]]  # drawn to either side
    family: NotRequired[Family]  # a colour for each series if absent
    labels: NotRequired[Sequence[str]]  # of the points, written beside them


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.08, h_pad=0.08)
    return figure


def save(figure: "Figure", path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Writes PNG, SVG and CSV, the same bytes for the same figure; returns `path`.

    Raises:
        ValueError: the path is not that of a PNG.
    """
    import matplotlib

    if path.suffix != ".png":
        raise ValueError(f"a figure's path ends in .png: got {path}")
    # Letters as outlines: the figure looks the same where its font is not installed.
    settings: Any = {"svg.fonttype": "path", "svg.hashsalt": path.stem}
    with matplotlib.rc_context(settings):
        for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], metadata=metadata)
            output.write(path.with_suffix(suffix), content.getvalue())
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(rows)
    output.write(path.with_suffix(".csv"), table.getvalue())
    return path


def styles_of(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Colour, marker and dashes of each series; those of one family take turns."""
    seen: dict[str, int] = {}
    styles = []
    for one in series:
        family = one.get("family", "")
        turn = seen.get(family, 0)
        seen[family] = turn + 1
        styles.append(
            {
                "color": COLOURS[family][turn % len(COLOURS[family])],
                "marker": MARKERS[family],
                "linestyle": DASHES[turn % len(DASHES)] if family else "-",
                "markersize": 4.5,
                "linewidth": 1.7,
            }
        )
    return styles


def dress(axis: "Axes", title: str, x_label: str, y_label: str) -> None:
    """Sets the titles, and leaves only the lines that reading the values needs."""
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xlabel(x_label, fontsize=9.5, color=INK)
    axis.set_ylabel(y_label, fontsize=9.5, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK)
    axis.grid(axis="y", color=PALE, linewidth=0.8)
    axis.set_axisbelow(True)


def x_axis(axis: "Axes", log: bool, ticks: Mapping[float, str] | None) -> None:
    """The scale of the x axis and its labels."""
    from matplotlib import ticker

    if log:
        axis.set_xscale("log")
        log_labels(axis.xaxis, *axis.get_xlim())
    if ticks:
        axis.xaxis.set_major_locator(ticker.FixedLocator(list(ticks)))
        axis.xaxis.set_major_formatter(ticker.FixedFormatter(list(ticks.values())))
        axis.xaxis.set_minor_locator(ticker.NullLocator())


def log_labels(axis: "Axis", low: float, high: float) -> None:
    """Writes 3k and not 3 · 10³; labels between powers of ten only if they are few."""
    from matplotlib import ticker

    subs = (1, 3) if high / low < 10**3.5 else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_major_formatter(lambda x, _: short_number(x))
    axis.set_minor_formatter(ticker.NullFormatter())


def short_number(x: float) -> str:
    """1500000 as 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """The values as floats, NaN for None."""
    return np.array([math.nan if v is None else v for v in values], float)


def name_ends(axis: "Axes", ends: Sequence[tuple[str, float, str]]) -> None:
    """Writes names right of the axis at the heights of their curves, moved apart.

    Args:
        ends: name, height in data, colour. The figure must have been laid out.
    """
    gap = SMALL * _LINE * axis.figure.dpi / 72
    ends = sorted(ends, key=lambda end: end[1])
    heights = [axis.transData.transform((0, end[1]))[1] for end in ends]
    bottom, top = axis.bbox.y0, axis.bbox.y1
    for place, (name, height, colour) in zip(_apart(heights, gap), ends, strict=True):
        axis.annotate(
            name,
            (1, height),
            (1.04, (place - bottom) / (top - bottom)),
            axis.get_yaxis_transform(),
            "axes fraction",
            {
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.5,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
            },
            annotation_clip=False,
            fontsize=SMALL,
            color=colour,
            va="center",
        )


def name_points(axis: "Axes", series: Sequence[Series]) -> None:
    """Writes the labels of points beside them, where they overlap least."""
    pixels = axis.figure.dpi / 72
    height, letter = SMALL * _LINE * pixels * 0.85, SMALL * 0.58 * pixels
    points = [
        (axis.transData.transform((x, y)), label, style["color"])
        for one, style in zip(series, styles_of(series), strict=True)
        for x, y, label in zip(one["x"], one["y"], one.get("labels", ()), strict=False)
        if y is not None
    ]
    boxes = [_box(place, 5 * pixels, 5 * pixels) for place, *_ in points]
    for place, label, colour in points:
        width = letter * len(label)
        choices = []
        for order, (dx, dy) in enumerate(_AROUND):
            shift = np.array([dx * (width / 2 + 7 * pixels), dy * 9 * pixels])
            box = _box(place + shift, width / 2, height / 2)
            covered = sum(_shared(box, other) for other in boxes)
            outside = _outside(box, axis.bbox)
            choices.append((covered + outside, order, box, shift))
        *_, box, shift = min(choices, key=lambda choice: choice[:2])
        boxes.append(box)
        axis.annotate(
            label,
            tuple(axis.transData.inverted().transform(place)),
            shift / pixels,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=SMALL - 1.5,
            color=colour,
        )


# Directions to try for a point's name, the best first.
_AROUND = ((1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 1), (0.8, -1), (-0.8, 1), (-0.8, -1))


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The sorted heights moved as little as puts `gap` between neighbours.

    Neighbours too close form a block around their mean; blocks that touch merge.
    """
    blocks: list[tuple[list[int], float]] = []
    for number, height in enumerate(heights):
        blocks.append(([number], height))
        while len(blocks) > 1:
            (lower, low), (upper, high) = blocks[-2:]
            if high - low >= gap * (len(lower) + len(upper)) / 2:
                break
            members = lower + upper
            centre = sum(heights[k] for k in members) / len(members)
            blocks[-2:] = [(members, centre)]
    return [
        centre + gap * (order - (len(members) - 1) / 2)
        for members, centre in blocks
        for order in range(len(members))
    ]


def _box(centre: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    half = np.array([half_width, half_height])
    return np.stack([centre - half, centre + half])


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Area that two boxes share."""
    return float(
        np.prod(np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0, None))
    )


def _outside(box: np.ndarray, frame: Any) -> float:
    inside = np.array([[frame.x0, frame.y0], [frame.x1, frame.y1]])
    return float(np.prod(box[1] - box[0])) - _shared(box, inside)
