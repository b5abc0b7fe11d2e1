"""What do trained models look at, and what are their filters and positions?

Figs. 6 and 14: attention rollout. Fig. 7: filters, similarity of position embeddings,
attention distance of each head. Fig. 11: attention distance of a ViT and of a hybrid.

The models are the ViT and the hybrid of `data_size`, and, if given, a pre-trained
ViT-S/14 with photographs: `--data vit_s14=FOLDER` (made by `experiments.pretrained`)
and `--data photos=FOLDER` (any images). full: ViT-L/16 and R50+ViT-L/16 on JFT-300M.
mini: a minute and no training of its own.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from experiments import data_size
from experiments.data_size import HYBRID, VIT, label
from experiments.lab import full, paper_figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.measures import array_of_run
from experiments.lab.models import model_of
from experiments.lab.profiles import start_of, test_images
from experiments.lab.records import Claim, Conclusion, Figure, Table, judged
from experiments.lab.statistics import Direction, Interval
from experiments.position_embedding import similarities
from vit_jax.analysis.attention import uniform_attention_distance
from vit_jax.data.files import Files, find_images
from vit_jax.evaluation.predictions import prepared
from vit_jax.figures import model as drawing
from vit_jax.figures.heads import head_distances
from vit_jax.figures.model import Trained
from vit_jax.figures.tiles import filter_tiles, rollout_grid, similarity_tiles
from vit_jax.interop.trained import load_trained

# Of the distances, and of the rollout.
IMAGES, LIT_IMAGES = 128, 32
REAL_IMAGES = 16
FULL = ("ViT-L/16", "R50+ViT-L/16")
REAL = "pre-trained ViT-S/14"


def arms(scale: str) -> dict[str, Arm]:
    """A ViT and a hybrid on all the data."""
    if scale == "full":
        return {model: full.jft(model, epochs="14") for model in FULL}
    pretraining = data_size.model_arms(scale)
    return {label(m): pretraining[m] for m in (VIT, HYBRID) if m in pretraining}


def conclude(results: RunResults) -> Conclusion:
    """The figures of the models here, and of the pre-trained one."""
    folder = results.folder
    vit, *others = [arm for arm in arms(results.scale) if arm in results]
    first = results.runs[vit][0]
    distances = {
        arm: [distances_of(run, "end") for run in results.runs[arm]]
        for arm in (vit, *others)
    }
    model = model_of(results.configs[vit])
    uniform = uniform_attention_distance(model.grid, model.patch_size)
    filter_tiles(filters(first), folder / "filters.png")
    similarity_tiles({vit: similarities(first)}, folder / "positions.png")
    head_distances(
        {arm: seeds[0] for arm, seeds in distances.items()},
        folder / "distances.png",
        families=dict(zip(distances, ("ViT", "hybrid"), strict=False)),
        uniform=uniform,
    )
    paper_figures.figure_11(folder / "fig11_paper.png")
    images, _ = test_images(results.configs[vit], LIT_IMAGES)
    rollout_grid(images, rollouts(first), folder / "rollout.png")
    # The paper's photographs and weights are not public: only its numbers are redrawn.
    figures = [
        Figure("Fig. 7, left: filters of the patch embedding", "filters.png"),
        Figure("Fig. 7, centre: similarity of positions", "positions.png"),
        Figure("Figs. 7, right, and 11: distance", "distances.png", "fig11_paper.png"),
        Figure("Fig. 14: attention rollout", "rollout.png"),
    ]
    if "vit_s14" in results.data and "photos" in results.data:
        figures += pretrained_figures(results)
    return Conclusion(
        tables=[distance_table(distances, uniform)],
        figures=figures,
        claims=claims(
            distances, [distances_of(run, "start") for run in results.runs[vit]]
        ),
        notes=NOTES,
    )


def measure_arm(arm: str, folder: Path) -> None:
    """Measures what the figures, the table and the claims show of a run."""
    distances_of(folder, "end")
    if arm in (label(VIT), FULL[0]):
        distances_of(folder, "start")
        filters(folder)
        similarities(folder)
        rollouts(folder)


def distances_of(folder: Path, time: Literal["start", "end"]) -> np.ndarray:
    """Distances (layers, heads) before or after the training of a run; kept."""

    def measure() -> np.ndarray:
        run, params = start_of(folder)
        params = params if time == "start" else run.params
        images, _ = test_images(run.config, IMAGES)
        return drawing.distances_of(Trained(run.model, params), images)

    path = folder / f"attention_distance_v1_{time}_{IMAGES}.json"
    return array_of_run(path, measure)


def filters(folder: Path) -> np.ndarray:
    """Principal filters (n, height, width, 3) of a run; kept with four decimals."""

    def measure() -> np.ndarray:
        run = load_trained(folder)
        found = drawing.filters_of(Trained(run.model, run.params))
        return np.asarray(found, float).round(4)

    return array_of_run(folder / "filters_v1.json", measure)


def rollouts(folder: Path) -> np.ndarray:
    """Rollout (n, rows, columns) of a run on the first images; kept, five decimals."""

    def measure() -> np.ndarray:
        run = load_trained(folder)
        images, _ = test_images(run.config, LIT_IMAGES)
        found = drawing.rollouts_of(Trained(run.model, run.params), images)
        return np.asarray(found, float).round(5)

    return array_of_run(folder / f"rollout_v1_{LIT_IMAGES}.json", measure)


def pretrained_figures(results: RunResults) -> list[Figure]:
    """All figures of a real pre-trained ViT, on photographs."""
    run = load_trained(results.data["vit_s14"], image_size=224)
    files = Files(find_images([results.data["photos"]])[:REAL_IMAGES])
    images = np.stack([prepared(run, files[i]["image"]) for i in range(len(files))])
    trained, folder = Trained(run.model, run.params), results.folder
    drawing.rollouts(trained, images[:3], folder / "real_rollout.png", rows=True)
    drawing.filters(trained, folder / "real_filters.png")
    drawing.similarities({REAL: trained}, folder / "real_positions.png")
    drawing.distances({REAL: trained}, images, folder / "real_distances.png")
    paper_figures.figure_11(folder / "fig11_paper.png")
    return [
        Figure(f"Fig. 6: attention rollout, {REAL}", "real_rollout.png"),
        Figure(f"Fig. 7, left: filters, {REAL}", "real_filters.png"),
        Figure(
            f"Fig. 7, centre: similarity of positions, {REAL}", "real_positions.png"
        ),
        Figure(
            f"Fig. 7, right: attention distance, {REAL}",
            "real_distances.png",
            "fig11_paper.png",
        ),
    ]


def distance_table(distances: dict[str, list[np.ndarray]], uniform: float) -> Table:
    """The nearest and the furthest head of each layer, of the first seed."""
    layers = range(len(next(iter(distances.values()))[0]))
    return Table(
        caption="Attention distance in pixels, nearest to furthest head; uniform "
        f"attention is {uniform:.1f}",
        columns=["model", *(f"layer {i}" for i in layers)],
        rows=[
            [arm, *(f"{row.min():.1f} to {row.max():.1f}" for row in seeds[0])]
            for arm, seeds in distances.items()
        ],
    )


def claims(
    distances: dict[str, list[np.ndarray]], initial: list[np.ndarray]
) -> list[Claim]:
    """Section 4.5 and appendix D.7, each with an interval over seeds.

    Args:
        distances: (layers, heads) of each run, by arm, the ViT's first.
        initial: of the ViT's runs before their first step.
    """
    vit, *others = distances
    layers = {
        "first": [float(d[0].mean()) for d in distances[vit]],
        "last": [float(d[-1].mean()) for d in distances[vit]],
    }
    nearest = {arm: [float(d[0].min()) for d in ds] for arm, ds in distances.items()}
    nearest["start"] = [float(d[0].min()) for d in initial]
    found = [
        in_pixels(
            "Attention distance grows with depth",
            "mean distance of the last layer minus that of the first",
            contrast(layers, {"last": 1, "first": -1}, paired=True),
        ),
        in_pixels(
            "Training makes some heads of the first layer local",
            "distance of the first layer's nearest head: after training minus at the "
            "run's own initialisation",
            contrast(nearest, {vit: 1, "start": -1}, paired=True),
            "<",
        ),
    ]
    if others:
        hybrid = in_pixels(
            "A hybrid's first layer has less local heads than a ViT's",
            "distance of the first layer's nearest head: hybrid minus ViT",
            contrast(nearest, {others[0]: 1, vit: -1}),
        )
        found.append(hybrid)
    return found


def in_pixels(
    claim: str, quantity: str, interval: Interval, direction: Direction = ">"
) -> Claim:
    """A claim about a distance in pixels."""
    return judged(claim, quantity, interval, direction, unit="pixels", factor=1)


NOTES = (
    "The models of mini have four layers of four heads and 400 steps: too few to "
    "become as local as ViT-L/16. Where the pre-trained ViT-S/14 is given, its figures "
    "show what training at scale makes of the same architecture; it is self-supervised "
    "(DINOv2), not the paper's."
)


EXPERIMENT = Experiment(
    item="Figs. 6, 7, 11, 14",
    title="What trained models look at",
    question="How far do heads look, and what do filters and positions show?",
    conclude=conclude,
    arms=arms,
    measure_arm=measure_arm,
)

if __name__ == "__main__":
    main(EXPERIMENT)
