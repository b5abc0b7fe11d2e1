"""Tiles in the form of the paper's figures: similarity of position embeddings, filters,
images with attention.

Each function writes PNG, SVG and CSV (`style.save`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.figures.style import GREY, INK, SMALL, new_figure, save


def similarity_tiles(panels: Mapping[str, np.ndarray], path: Path) -> Path:
    """Cosine similarity of each position to all others, a tile each (Figs. 7, 10).

    Args:
        panels: similarities in [-1, 1] (rows, columns, rows, columns) by title.
    """
    figure = new_figure(4.3 * len(panels) + 0.8, 4.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    lines: list[list[Any]] = [["panel", "row", "column", "similarity to each position"]]
    for axis, (title, similarity) in zip(axes, panels.items(), strict=True):
        rows, columns = similarity.shape[:2]
        gap = max(1, round(0.12 * columns))
        axis.imshow(
            _mosaic(similarity.reshape(-1, rows, columns), columns, gap),
            cmap="viridis",
            vmin=-1,
            vmax=1,
            interpolation="nearest",
        )
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        _tile_axis(axis, rows, columns, gap)
        for row, column in np.ndindex(rows, columns):
            values = np.round(similarity[row, column].ravel(), 4)
            lines.append([title, row, column, *values.tolist()])
    axes[0].set_ylabel("row of the patch", fontsize=9.5)
    bar = figure.colorbar(
        axes[0].images[0], ax=list(axes), shrink=0.85, ticks=(-1, 0, 1)
    )
    bar.set_label("cosine similarity", fontsize=9.5)
    bar.outline.set_visible(False)
    return save(figure, path, lines)


def filter_tiles(filters: np.ndarray, path: Path, *, columns: int = 7) -> Path:
    """The first principal components of the patch embedding's filters (Fig. 7 left).

    Args:
        filters: (n, height, width, 3), of any scale; each is stretched to [0, 1] by
            its own range, as a principal component has no scale or sign.
    """
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    spread = filters.max(axis=(1, 2, 3), keepdims=True) - low
    shown = (filters - low) / np.where(spread > 0, spread, 1)
    gap = max(1, filters.shape[1] // 8)
    rows = -(-len(filters) // columns)
    figure = new_figure(0.75 * columns + 0.2, 0.75 * rows + 0.2)
    axis = figure.subplots()
    axis.imshow(_mosaic(shown, columns, gap), interpolation="nearest")
    axis.set_axis_off()
    height, width = filters.shape[1:3]
    lines: list[list[Any]] = [["filter", f"{height} x {width} x 3 values"]]
    lines += [[k, *np.round(f.ravel(), 5).tolist()] for k, f in enumerate(filters)]
    return save(figure, path, lines)


def image_tiles(
    images: np.ndarray, names: Sequence[str], path: Path, *, columns: int = 8
) -> Path:
    """Images with a name over each.

    Args:
        images: uint8 (n, height, width, 3).
    """
    rows = -(-len(images) // columns)
    figure = new_figure(1.5 * columns, 1.7 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, image, name in zip(axes, images, names, strict=False):
        axis.imshow(image, interpolation="nearest")
        short = name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"
        axis.set_title(short, fontsize=SMALL - 1, color=INK)
    return save(figure, path, [["image", "name"], *enumerate(names)])


def rollout_rows(
    images: np.ndarray, masks: np.ndarray, path: Path, *, names: Sequence[str] = ()
) -> Path:
    """Images beside copies that are dark where the model does not attend (Fig. 6).

    Args:
        images: uint8 (n, height, width, 3).
        masks: attention of the patches (n, rows, columns), at least 0.
        names: written beside the rows.
    """
    figure = new_figure(3.7, 1.7 * len(images) + 0.3)
    axes = figure.subplots(len(images), 2, squeeze=False)
    pairs = zip(images, lit(images, masks), strict=True)
    for row, (image, seen) in enumerate(pairs):
        for axis, picture in zip(axes[row], (image, seen), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        if names:
            axes[row, 0].set_ylabel(names[row], fontsize=9, color=INK)
    for axis, title in zip(axes[0], ("Input", "Attention"), strict=True):
        axis.set_title(title, fontsize=10, fontweight="bold", color=INK)
    return save(figure, path, _mask_rows(masks))


def rollout_grid(
    images: np.ndarray, masks: np.ndarray, path: Path, *, columns: int = 8
) -> Path:
    """As `rollout_rows`, for many images: pairs in a grid (Fig. 14: 128 of them)."""
    pairs = np.concatenate([images, lit(images, masks)], axis=2)
    gap = max(1, images.shape[1] // 12)
    picture = _mosaic(pairs / 255, columns, gap)
    width = 11.0
    figure = new_figure(width, width * picture.shape[0] / picture.shape[1])
    axis = figure.subplots()
    axis.imshow(picture, interpolation="nearest")
    axis.set_axis_off()
    return save(figure, path, _mask_rows(masks))


def lit(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Images times their masks, each mask enlarged and divided by its maximum: uint8.

    Raises:
        ValueError: there is not one mask for each image.
    """
    from PIL import Image

    if len(images) != len(masks):
        raise ValueError(f"{len(images)} images need as many masks: got {len(masks)}")
    height, width = images.shape[1:3]
    shown = np.empty_like(images)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        small = Image.fromarray(mask.astype(np.float32))
        large = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
        share = np.clip(large / max(float(large.max()), 1e-12), 0, 1)
        shown[number] = (image * share[..., None]).astype(np.uint8)
    return shown


def _mosaic(tiles: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Tiles (n, h, w) or (n, h, w, 3) in rows, with white or NaN between them."""
    count, height, width, *channels = tiles.shape
    rows = -(-count // columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, *channels)
    # NaN is drawn as nothing; colours have no NaN, so the gaps are white.
    picture = np.full(size, 1.0 if channels else np.nan)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        picture[top : top + height, left : left + width] = tile
    return picture


def _tile_axis(axis: Any, rows: int, columns: int, gap: int) -> None:
    """Numbers of patches, from 1 as in the paper, at the middle of their tiles."""
    for set_ticks, size in ((axis.set_xticks, columns), (axis.set_yticks, rows)):
        places = [(size - 1) / 2 + k * (size + gap) for k in range(size)]
        set_ticks(places, [str(k + 1) for k in range(size)], fontsize=SMALL - 1)
    axis.set_xlabel("column of the patch", fontsize=9.5)
    axis.tick_params(length=0, labelcolor=GREY)
    axis.spines[:].set_visible(False)


def _mask_rows(masks: np.ndarray) -> list[list[Any]]:
    rows, columns = masks.shape[1:3]
    lines: list[list[Any]] = [["image", f"attention of {rows} x {columns} patches"]]
    return lines + [[k, *np.round(m.ravel(), 6).tolist()] for k, m in enumerate(masks)]
