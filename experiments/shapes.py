"""Which way should a ViT grow: depth, width, MLP, smaller patches, or all together?

Fig. 8: models scaled from one base along one axis at a time, against compute relative
to the base, which is counted here from the forward pass of each model. What doubling
the compute gains is the slope of an axis at the base, where the curves of all axes
meet; they share one bend.

mini: CIFAR-10, base of 2 layers and 8x8-pixel patches, 13 shapes: 8 minutes of two CPU
cores. small: base of 6 layers of ViT-Ti/8. full: the paper's base on JFT-300M; layers
and widths of its points are not printed, and are chosen here to have their compute.
"""

from experiments.lab import full, paper, paper_figures
from experiments.lab.command import main
from experiments.lab.contrasts import Rays
from experiments.lab.figures import lines, over_seeds
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.models import macs_of
from experiments.lab.records import (
    Claim,
    Conclusion,
    Table,
    claim_level,
    judged,
    pair,
)
from experiments.lab.statistics import Interval, mean_std
from experiments.lab.tables import mean_cell
from vit_jax.figures.style import Series

BASE = "base"
AXES = tuple(paper.FIGURE_8)  # All, Depth, Patch size, Width MLP, Width
DEPTH, PATCH, MLP, WIDTH = AXES[1:]
Shape = tuple[int, int, int, int, int]  # layers, width, MLP width, heads, patch size

# By scale: the base, then the other shapes along each axis.
SHAPES: dict[str, tuple[Shape, dict[str, tuple[Shape, ...]]]] = {
    "smoke": (
        (2, 16, 32, 2, 8),
        {
            "All": ((1, 8, 16, 1, 16),),
            DEPTH: ((1, 16, 32, 2, 8), (3, 16, 32, 2, 8)),
            PATCH: ((2, 16, 32, 2, 16),),
            MLP: ((2, 16, 64, 2, 8), (2, 16, 128, 2, 8)),
            WIDTH: ((2, 32, 32, 4, 8),),
        },
    ),
    "mini": (
        (2, 64, 128, 4, 8),
        {
            "All": ((1, 32, 64, 2, 16), (4, 96, 192, 6, 8)),
            DEPTH: ((1, 64, 128, 4, 8), (4, 64, 128, 4, 8), (8, 64, 128, 4, 8)),
            PATCH: ((2, 64, 128, 4, 16), (2, 64, 128, 4, 4)),
            MLP: ((2, 64, 256, 4, 8), (2, 64, 512, 4, 8)),
            WIDTH: ((2, 32, 128, 2, 8), (2, 96, 128, 6, 8), (2, 144, 128, 9, 8)),
        },
    ),
    "small": (
        (6, 192, 384, 3, 8),
        {
            "All": ((3, 128, 256, 2, 16), (12, 384, 768, 6, 4)),
            DEPTH: ((3, 192, 384, 3, 8), (12, 192, 384, 3, 8), (24, 192, 384, 3, 8)),
            PATCH: ((6, 192, 384, 3, 16), (6, 192, 384, 3, 4)),
            MLP: ((6, 192, 768, 3, 8), (6, 192, 1536, 3, 8)),
            WIDTH: ((6, 128, 384, 2, 8), (6, 320, 384, 5, 8), (6, 448, 384, 7, 8)),
        },
    ),
    "full": (
        (8, 1024, 2048, 16, 32),
        {
            "All": ((4, 512, 1024, 8, 32), (16, 2048, 4096, 32, 32)),
            DEPTH: tuple((n, 1024, 2048, 16, 32) for n in (2, 4, 16, 25, 50)),
            PATCH: tuple((8, 1024, 2048, 16, n) for n in (64, 44, 22, 16)),
            MLP: ((8, 1024, 4096, 16, 32), (8, 1024, 10240, 16, 32)),
            WIDTH: tuple((8, 64 * n, 2048, n, 32) for n in (6, 11, 23, 32)),
        },
    ),
}


def label_of(axis: str, shape: Shape) -> str:
    """Such as `Depth: 4 x 64, MLP 128, patch 8`."""
    depth, width, mlp, _, patch = shape
    return f"{axis}: {depth} x {width}, MLP {mlp}, patch {patch}"


def arms(scale: str) -> dict[str, Arm]:
    """The base, then the shapes axis by axis."""
    base, axes = SHAPES[scale]
    labels = {BASE: base} | {
        label_of(axis, shape): shape for axis in axes for shape in axes[axis]
    }
    return {label: arm_of(scale, shape) for label, shape in labels.items()}


def arm_of(scale: str, shape: Shape) -> Arm:
    depth, width, mlp_dim, num_heads, patch = shape
    sizes = {"depth": depth, "width": width, "mlp_dim": mlp_dim, "num_heads": num_heads}
    changes = {f"model.{name}": size for name, size in sizes.items()}
    if scale == "full":
        # 224 pixels, or the next fewer that the patches divide.
        side = 224 // patch * patch
        changes |= {"model.name": f"ViT-L/{patch}", "data.image_size": (side, side)}
        return full.jft("ViT-L/32", changes)
    return Arm(
        f"configs/lab.py:scale={scale}", changes | {"model.name": f"ViT-mu/{patch}"}
    )


def conclude(results: RunResults) -> Conclusion:
    """Curves of accuracy by relative compute, and the slopes of the axes."""
    labels = {
        axis: [BASE, *(label_of(axis, shape) for shape in shapes)]
        for axis, shapes in SHAPES[results.scale][1].items()
    }
    unit = macs_of(results.configs[BASE])
    compute = {x: macs_of(config) / unit for x, config in results.configs.items()}
    accuracy = {x: results.accuracy(x) for x in results.configs}
    fewshot = {x: results.fewshot(x) for x in results.configs}
    shots = results.shots(BASE)
    panels = {
        title: [series(axis, labels[axis], compute, values) for axis in AXES]
        for title, values in (("test", accuracy), (shots, fewshot))
    }
    path, x_label = results.folder / "fig8.png", "relative compute"
    lines(panels, path, x_label=x_label, y_label="accuracy (%)")
    paper_figures.figure_8(results.folder / "fig8_paper.png")
    ours, theirs = fitted(labels, compute, accuracy), published()
    shapes = Table(
        caption="Fig. 8: shapes",
        columns=["shape", "relative compute", "test (%)", f"{shots} (%)"],
        rows=[
            [
                label,
                compute[label],
                mean_cell(accuracy[label], 100),
                mean_cell(fewshot[label], 100),
            ]
            for label in results.configs
        ],
    )
    return Conclusion(
        tables=[shapes, slopes_table(ours, theirs)],
        figures=[pair("Fig. 8: accuracy of shapes scaled from one base", "fig8")],
        claims=claims(ours, theirs),
        notes=NOTES,
    )


def fitted(
    labels: dict[str, list[str]],
    compute: dict[str, float],
    accuracy: dict[str, list[float]],
) -> Rays:
    """Curves through our shapes; the base counts once, though it is on every axis."""
    return Rays(
        {
            axis: [
                (compute[label], 100 * mean_std(accuracy[label])[0])
                for label in labels[axis]
                if label != BASE or axis == DEPTH
            ]
            for axis in AXES
        }
    )


def published() -> Rays:
    """Curves through the points of the paper's figure; the base counts once."""
    return Rays(
        {
            axis: [(x, 100 * share) for x, share, _ in row if x != 1 or axis == DEPTH]
            for axis, row in paper.FIGURE_8.items()
        }
    )


def series(
    axis: str,
    labels: list[str],
    compute: dict[str, float],
    values: dict[str, list[float]],
) -> Series:
    """The curve of an axis in percent, by increasing compute."""
    labels = sorted(labels, key=lambda label: compute[label])
    places = [compute[label] for label in labels]
    return over_seeds(axis, places, [values[label] for label in labels])


def slopes_table(ours: Rays, theirs: Rays) -> Table:
    """Points gained by doubling the compute along each axis."""

    def cell(slope: Interval) -> str:
        return f"{slope.value:.1f} [{slope.low:.1f}, {slope.high:.1f}]"

    rows = [[axis, cell(ours.slopes[axis]), cell(theirs.slopes[axis])] for axis in AXES]
    return Table(
        caption="Points of accuracy gained by twice the compute, 95 % CI (paper: "
        "ImageNet 5-shot, fitted in the same way to the points of its figure)",
        side="both",
        columns=["axis", "ours", "paper"],
        rows=rows,
    )


def claims(ours: Rays, theirs: Rays) -> list[Claim]:
    """Depth helps most, width least, smaller patches robustly."""

    def against(axis: str, sign: float, headline: bool = False) -> dict[str, Interval]:
        level = claim_level(3, headline=headline)
        return {
            f"against {other}": ours.sum({axis: sign, other: -sign}, level=level)
            for other in (DEPTH, PATCH, MLP, WIDTH)
            if other != axis
        }

    slopes = {axis: slope.value for axis, slope in theirs.slopes.items()}
    listed = ", ".join(f"{axis} {slopes[axis]:+.1f}" for axis in (DEPTH, PATCH, MLP))
    listed = f"The paper's slopes: {listed}, {WIDTH} {slopes[WIDTH]:+.1f}."
    slope = "slope of test accuracy per doubling of the base's compute"
    return [
        judged(
            "Depth gains most",
            f"{slope}: depth minus each other single axis",
            against(DEPTH, 1, headline=True),
            factor=1,
            comment=listed,
            headline=True,
        ),
        judged(
            "Width gains least",
            f"{slope}: each other single axis minus width",
            against(WIDTH, -1),
            factor=1,
            comment=listed,
        ),
        judged(
            "Smaller patches gain without new parameters",
            f"{slope}: patch size",
            ours.slopes[PATCH],
            factor=1,
            paper=f"{slopes[PATCH]:+.1f}",
        ),
    ]


NOTES = (
    "All shapes are trained on the same number of examples, with one "
    "learning rate. At mini that is 400 steps, in which deep models are likely "
    "still behind because they train more slowly: the gain of an axis is not only "
    "that of its capacity. Lines in the logarithm of compute are a summary: the "
    "paper's own curves flatten, and by the criteria here its own points leave "
    "depth and width undecided."
)

EXPERIMENT = Experiment(
    item="Fig. 8",
    title="Shapes",
    question="Which way should a ViT grow: depth, width, MLP, smaller patches, or all "
    "together?",
    conclude=conclude,
    arms=arms,
)

if __name__ == "__main__":
    main(EXPERIMENT)
