"""Pictures of a run, its mistakes and its predictions.

Matplotlib is imported where a figure is made: it takes half a second, and training
needs it only at its end. Figures draw themselves, without pyplot, so no screen or
backend is needed and none stays in memory.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vit_jax.storage import output
from vit_jax.storage.paths import as_path, write_atomically
from vit_jax.storage.run_files import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PIXELS_PER_INCH = 120
# A confusion matrix of more classes is drawn without text, which would not be legible.
_MAX_WRITTEN_CLASSES = 30
_BLUE, _GREEN, _RED = "#3b6fb6", "#2e8b57", "#c0392b"
_GREY, _PALE = "#9aa3ad", "#eef0f2"


class Prediction(NamedTuple):
    """The prediction of a model for an image, with the attention behind it."""

    name: str
    image: np.ndarray  # uint8 (height, width, 3), as the model sees it
    best: list[tuple[str, float]]  # labels and probabilities, best first
    heat: np.ndarray | None  # float (h, w), share of each patch, if computed
    labels: tuple[str, ...] | None  # the true ones, where they are known


def learning_curve(workdir: str | Path) -> Path:
    """Draws loss and accuracy, or mAP, of every split; returns the PNG's path.

    Rows without a metric, or with NaN or Inf for it, are left out of its curve.
    """
    workdir = as_path(workdir)
    figure = _curves(read_metrics(workdir / "metrics.jsonl"))
    # By one name, so that what a kill leaves is replaced by the next start.
    write_atomically(workdir / "learning_curve.png", _png(figure))
    return workdir / "learning_curve.png"


def _curves(rows: list[dict[str, Any]]) -> "Figure":
    from matplotlib.ticker import LogLocator, MaxNLocator

    figure = _figure(10, 4)
    metric = "map" if any("map" in row for row in rows) else "accuracy"
    for axis, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        values = []
        for split in dict.fromkeys(row["split"] for row in rows):
            points = [
                (row["step"], row[name])
                for row in rows
                if row["split"] == split and math.isfinite(row.get(name, math.nan))
            ]
            if not points:
                continue
            steps, column = map(np.array, zip(*points, strict=True))
            if name == metric:
                column = 100 * column
            # A line through one point would not be seen.
            style = "-" if split == "train" and len(points) > 1 else "o-"
            axis.plot(steps, column, style, markersize=3, label=split)
            values += column.tolist()
        axis.set(xlabel="step", ylabel=f"{name} (%)" if name == metric else name)
        axis.grid(alpha=0.3)
        if values:
            axis.legend()
        if name == "loss" and values and min(values) > 0:
            axis.set_yscale("log")
            # Several ticks whatever the range, as 1.5 and not 1.5 x 10^0.
            wide = max(values) > 10 * min(values)
            ticks = LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5)
            axis.yaxis.set_major_locator(ticks)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
    return figure


def confusion_matrix(
    counts: np.ndarray, label_names: Sequence[str], title: str, path: Path
) -> Path:
    """Draws how often each class (row) was taken for each (column); returns the path.

    Args:
        counts: integers (classes, classes).
        label_names: in the order of the rows; written, with the counts, for up to 30
            classes.
    """
    from matplotlib.colors import PowerNorm

    classes = len(counts)
    written = classes <= _MAX_WRITTEN_CLASSES
    side = 3.0 + 0.42 * classes if written else 8.0
    figure = _figure(max(side, 4.5) + 0.8, max(side, 4.5))
    axis = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The root makes single mistakes visible beside an almost full diagonal.
    picture = axis.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axis.set(xlabel="predicted", ylabel="label", title=title)
    bar = figure.colorbar(picture, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the label's images")
    if written:
        names = [shorten(name, 18) for name in label_names]
        upright = max(map(len, names)) > 3
        axis.set_xticks(range(classes), names, rotation=90 if upright else 0)
        axis.set_yticks(range(classes), names)
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.4 else "black"
            axis.text(
                column,
                row,
                str(counts[row, column]),
                color=colour,
                ha="center",
                va="center",
                fontsize=8,
            )
    return _save(figure, path)


def prediction(item: Prediction, path: Path) -> Path:
    """Draws an image, the attention over it and the top classes; returns the path."""
    figure = _figure(9.6, 3.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.18, 0.9))
    layout: Any = figure.get_layout_engine()
    layout.set(wspace=0.06)
    title = shorten(item.name, 70, keep_end=True)
    figure.suptitle(title, fontsize=10)
    left.imshow(item.image, interpolation="nearest")
    height, width = item.image.shape[:2]
    left.set_title(f"input, {height} x {width}", fontsize=9)
    picture = _overlay(middle, item)
    middle.set_title("attention rollout", fontsize=9)
    bar = figure.colorbar(picture, ax=middle, fraction=0.046)
    bar.set_label("times the mean patch", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _bars(right, item)
    for axis in (left, middle, right):
        axis.set_axis_off()
    return _save(figure, path)


def overview(items: Sequence[Prediction], path: Path) -> Path:
    """Draws up to 16 images with their attention and best class; returns the path."""
    items = items[:16]
    columns = min(4, len(items))
    rows = -(-len(items) // columns)
    figure = _figure(3.5 * columns + 0.6, 2.2 * rows)
    # A narrow empty column after each pair.
    ratios = (1, 1, 0.08) * columns
    axes = figure.subplots(rows, 3 * columns, squeeze=False, width_ratios=ratios)
    for axis in axes.flat:
        axis.set_axis_off()
    # One scale for all, so that one colour bar holds for all.
    top = max(_times_mean(item).max() for item in items)
    heats = []
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        left, right = axes[row, 3 * column : 3 * column + 2]
        left.imshow(item.image, interpolation="nearest")
        heats.append(_overlay(right, item, top))
        label, probability = item.best[0]
        title = shorten(item.name, 40, keep_end=True)
        title += f"\n{shorten(label, 18)}  {100 * probability:.1f} %"
        if item.labels is not None and label not in item.labels:
            title += f"  (true: {shorten(', '.join(item.labels), 14)})"
        left.set_title(title, loc="left", fontsize=8, color=_colour(item, label))
    bar = figure.colorbar(heats[-1], ax=axes, fraction=0.02, aspect=30)
    bar.set_label("attention, times the mean patch", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return _save(figure, path)


def shorten(text: str, length: int, *, keep_end: bool = False) -> str:
    """One line of text, or its beginning (or end) and an ellipsis, `length` in all."""
    text = output.printable(text)
    if len(text) <= length:
        return text
    return "…" + text[1 - length :] if keep_end else text[: length - 1] + "…"


def _overlay(axis: "Axes", item: Prediction, top: float | None = None) -> Any:
    """The grey image under the heat, in multiples of the mean patch's share.

    The colours end at `top`, by default at the largest value.
    """
    height, width = item.image.shape[:2]
    # Pixel i covers [i - 1/2, i + 1/2] in matplotlib; the heat must cover the same.
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(
        item.image.mean(axis=-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest"
    )
    return axis.imshow(
        _times_mean(item),
        cmap="inferno",
        vmin=None if top is None else 0,
        vmax=top,
        alpha=0.6,
        extent=extent,
        interpolation="bicubic",
    )


def _times_mean(item: Prediction) -> np.ndarray:
    """The attention to each patch in multiples of that to the mean patch."""
    return item.heat / max(item.heat.mean(), np.finfo(np.float32).tiny)


def _bars(axis: "Axes", item: Prediction) -> None:
    labels, values = zip(*item.best, strict=True)
    places = range(len(labels))
    colours = [_colour(item, labels[0])] + [_GREY] * (len(labels) - 1)
    axis.barh(places, [1] * len(labels), color=_PALE, height=0.34)
    axis.barh(places, values, color=colours, height=0.34)
    for place, label, value in zip(places, labels, values, strict=True):
        mark = "  (true)" if label in (item.labels or ()) else ""
        text = f"{shorten(label, 26)}{mark}"
        axis.text(0, place - 0.24, text, fontsize=9, va="bottom")
        text = f"{100 * value:.1f} %"
        axis.text(1, place - 0.24, text, fontsize=9, va="bottom", ha="right")
    # Room for five, so that fewer bars do not become thick.
    axis.set(xlim=(0, 1), ylim=(max(len(labels), 5) - 0.6, -0.8))


def _colour(item: Prediction, prediction: str) -> str:
    if item.labels is None:
        return _BLUE
    return _GREEN if prediction in item.labels else _RED


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_PIXELS_PER_INCH, layout="constrained")


def _save(figure: "Figure", path: Path) -> Path:
    output.write(path, _png(figure))
    return path


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
