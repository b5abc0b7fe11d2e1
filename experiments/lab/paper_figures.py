"""The paper's figures, drawn again from its numbers in `paper.py`.

The report shows them beside ours. Figures 1, 6, 7, 10 and 14 have no numbers in the
paper, and are not drawn.
"""

from pathlib import Path
from typing import cast

from experiments.lab import figures, paper
from vit_jax.figures.style import Family, Series


def family_of(model: str) -> Family:
    """The family of a model by its name in the paper."""
    if "+" in model:
        return "hybrid"
    return "ViT" if "ViT" in model else "ResNet"


def figure_2(path: Path) -> Path:
    """VTAB by groups of tasks."""
    panels = {
        group: {name: (values[k], None) for name, values in paper.FIGURE_2.items()}
        for k, group in enumerate(paper.FIGURE_2_GROUPS)
    }
    families = {name: family_of(name) for name in paper.FIGURE_2}
    return figures.bars(
        panels, path, y_label="accuracy (%)", families=families, floor=50
    )


def figure_3(path: Path) -> Path:
    """ImageNet by pre-training set; BiT's weakest and strongest model."""
    places = range(len(paper.FIGURE_3_SETS))
    series: list[Series] = []
    for name in paper.TABLE_5_MODELS:
        values = [paper.TABLE_5[s]["ImageNet"].get(name) for s in paper.FIGURE_3_SETS]
        series.append({"name": name, "x": places, "y": values, "family": "ViT"})
    for name, row in paper.FIGURE_3_BIT.items():
        series.append({"name": name, "x": places, "y": row, "family": "ResNet"})
    return figures.lines(
        {"": series},
        path,
        x_label="pre-training data set",
        y_label="ImageNet accuracy (%)",
        log_x=False,
        ticks=dict(enumerate(paper.FIGURE_3_SETS)),
    )


def figure_4(path: Path) -> Path:
    """ImageNet 5-shot by the number of pre-training images."""
    images = paper.FIGURE_4["images"]
    series: list[Series] = [
        {"name": name, "x": images, "y": row, "family": family_of(name)}
        for name, row in paper.FIGURE_4["accuracy"].items()
    ]
    return figures.lines(
        {"": series},
        path,
        x_label="JFT pre-training images",
        y_label="ImageNet 5-shot accuracy (%)",
        ticks={n: f"{n / 1e6:.0f}M" for n in images},
    )


def figure_5(path: Path) -> Path:
    """Transfer by pre-training compute: Table 6."""
    panels: dict[str, list[Series]] = {}
    for title, column in (("Average-5", "average_5"), ("ImageNet", "imagenet")):
        panels[title] = []
        for family in ("ViT", "hybrid", "ResNet"):
            rows = [row for row in paper.TABLE_6 if row["family"] == family]
            panels[title].append(
                {
                    "name": family,
                    "x": [row["exaflops"] for row in rows],
                    "y": [row[column] for row in rows],
                    "family": cast(Family, family),
                    "labels": [row["name"].replace("ViT-", "") for row in rows],
                }
            )
    return figures.scatter(
        panels,
        path,
        x_label="pre-training compute (exaFLOPs)",
        y_label="transfer accuracy (%)",
    )


def figure_8(path: Path) -> Path:
    """5-shot accuracy along each axis of the shape."""
    panels: dict[str, list[Series]] = {}
    for column, title in ((1, "ImageNet 5-shot"), (2, "average 5-shot")):
        panels[title] = [
            {"name": axis, "x": [p[0] for p in row], "y": [p[column] for p in row]}
            for axis, row in paper.FIGURE_8.items()
        ]
    return figures.lines(
        panels, path, x_label="relative compute", y_label="accuracy (share)"
    )


def figure_9(path: Path) -> Path:
    """Class token and global average pooling, by epoch."""
    series: list[Series] = [
        {"name": name, "x": paper.FIGURE_9["epochs"], "y": row}
        for name, row in paper.FIGURE_9["accuracy"].items()
    ]
    return figures.lines(
        {"": series},
        path,
        x_label="epochs of pre-training",
        y_label="ImageNet 5-shot accuracy (%)",
        log_x=False,
    )


def figure_11(path: Path) -> Path:
    """Attention distance: the nearest and the furthest head of each layer."""
    layers = paper.FIGURE_11["layers"]
    panels: dict[str, list[Series]] = {}
    for model in paper.FIGURE_11["least"]:
        panels[model] = [
            {
                "name": name,
                "x": layers,
                "y": paper.FIGURE_11[key][model],
                "family": family_of(model),
            }
            for name, key in (("furthest head", "most"), ("nearest head", "least"))
        ]
    return figures.lines(
        panels,
        path,
        x_label="layer",
        y_label="mean attention distance (pixels)",
        log_x=False,
        reference=(paper.FIGURE_11["uniform"], "uniform"),
    )


def figure_12(path: Path) -> Path:
    """Images per second and largest batch by image size, a TPUv3 core."""
    panels: dict[str, list[Series]] = {}
    for title, values in (
        ("images per second", paper.FIGURE_12_SPEED),
        ("largest batch", paper.FIGURE_12_BATCH),
    ):
        panels[title] = []
        for name, row in values.items():
            own = name == "ViT-H/14"
            sizes = paper.FIGURE_12_SIZES_H14 if own else paper.FIGURE_12_SIZES
            panels[title].append(
                {"name": name, "x": sizes, "y": row, "family": family_of(name)}
            )
    return figures.lines(
        panels,
        path,
        x_label="image size (pixels)",
        y_label="a TPUv3 core",
        log_x=False,
        log_y=True,
        ticks={size: str(size) for size in paper.FIGURE_12_SIZES},
    )


def figure_13(path: Path) -> Path:
    """Axial models: accuracy by compute and by speed."""
    panels: dict[str, list[Series]] = {}
    for title, column in (("by exaFLOPs", 1), ("by images/s of a TPUv3 core", 2)):
        panels[title] = []
        for family in ("ViT", "ResNet"):
            rows = {n: r for n, r in paper.FIGURE_13.items() if family_of(n) == family}
            panels[title].append(
                {
                    "name": family,
                    "x": [row[column] for row in rows.values()],
                    "y": [100 * row[0] for row in rows.values()],
                    "family": cast(Family, family),
                    "labels": list(rows),
                }
            )
    return figures.scatter(
        panels,
        path,
        x_label="exaFLOPs, or images per second",
        y_label="ImageNet 5-shot accuracy (%)",
    )
