"""Where does a trained ViT need distance?

Section 4.5 finds heads that look far in the lowest layers already; whether they are
needed is not asked. Here attention is limited to a radius in patches
(`vit_jax.analysis.radius`; the larger of rows and columns), without any training after
it: in one layer at a time, in all up to a layer, in all from a layer on, and in all.
The measure is the accuracy lost. Models: the laboratory's ViT on all the data, by its
own classes; and, as `--data vit_s14=FOLDER`, a pre-trained ViT-S/14
(`experiments.pretrained`) on the same images at 112 pixels, by least squares on its
features of 1,000 images, which are of attention without a limit. Both have 8 x 8
patches.

mini: three runs of `data_size`, and 1 minute of measuring; the ViT-S/14 adds 5 to 10
minutes of a CPU core with bfloat16 instructions and JAX 0.12.
"""

import dataclasses
from pathlib import Path

import numpy as np

from experiments.data_size import VIT, label
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.frozen import BATCH, FEWSHOT_L2, fingerprint, kept_arrays
from experiments.lab.measures import of_run, scale_of
from experiments.lab.models import model_of
from experiments.lab.profiles import test_images
from experiments.lab.radii import (
    NEAR,
    RADII,
    WHOLE,
    Measured,
    all_layers,
    from_on,
    lost,
    measure,
    one,
    up_to,
)
from experiments.lab.records import Claim, Conclusion, Figure, Table, judged
from experiments.lab.statistics import Interval, mean_interval
from experiments.lab.tables import mean_cell
from vit_jax.analysis.radius import everything
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.features import Extractor
from vit_jax.evaluation.fewshot import fewshot_scores
from vit_jax.interop.trained import TrainedModel, load_trained
from vit_jax.models import AnyModel
from vit_jax.parallel import sharding

CHECKPOINT, REAL = "vit_s14", "pre-trained ViT-S/14"
LAB = "laboratory's ViT"
# Test images by scale: of the laboratory's ViT, and of the ViT-S/14.
IMAGES = {"smoke": 64, "mini": 1000, "medium": 2000, "small": 2000}
REAL_IMAGES = 200
SIDE = 112
REFERENCE = "train[:1000]"


def arms(scale: str) -> dict[str, Arm]:
    """The ViT of `data_size` on all the data: its very runs."""
    return {label(VIT): Arm(f"configs/lab.py:family=vit,scale={scale}")}


def measure_run(folder: Path) -> Measured:
    """The laboratory's ViT, on test images of its own classes: means over these."""
    count = IMAGES[scale_of(folder)]

    def means() -> dict[str, float]:
        run = load_trained(folder)
        images, labels = test_images(run.config, count)
        found = measure(run, images, labels, lambda logits, _: logits.argmax(-1))
        return {name: float(values.mean()) for name, values in found.items()}

    found = of_run(folder / f"radius_v1_{count}.json", means)
    return {name: np.array([value]) for name, value in found.items()}


def measure_real(results: RunResults) -> tuple[TrainedModel, Measured]:
    """The ViT-S/14, by least squares on its features of other images."""
    folder = results.data[CHECKPOINT]
    run = load_trained(folder, image_size=SIDE, dtype="bfloat16")
    config = results.configs[label(VIT)].copy_and_resolve_references()
    with config.ignore_type():
        config.data.update(image_size=(SIDE, SIDE), classes=())
    run = run._replace(data=dataclasses.replace(Data(**config.data), split="train"))

    def measured() -> Measured:
        extract = Extractor(run.model, run.data, sharding.undivided(), batch_size=BATCH)
        known = extract(run.params, REFERENCE)
        classes = len(run.data.label_names())

        def classify(_: np.ndarray, features: np.ndarray) -> np.ndarray:
            rows = known.features.astype(np.float32), known.labels, features
            scores = fewshot_scores(*rows, num_classes=classes, l2=FEWSHOT_L2)
            return np.asarray(scores).argmax(-1)

        images, labels = test_images(config, REAL_IMAGES)
        return measure(run, images, labels, classify)

    path = results.folder / f"radius_{REAL_IMAGES}_{fingerprint(run)}.npz"
    return run, kept_arrays(path, measured)


def conclude(results: RunResults) -> Conclusion:
    """Accuracy lost by layer and radius, and whether early layers need less of it."""
    model = model_of(results.configs[label(VIT)])
    found = {LAB: (model, [measure_run(folder) for folder in results.runs[label(VIT)]])}
    if CHECKPOINT in results.data:
        run, measured = measure_real(results)
        found[REAL] = run.model, [measured]
    tables = []
    heat: dict[str, np.ndarray] = {}
    for name, (model, measured) in found.items():
        radii = [radius for radius in RADII if radius < everything(model)]
        heat[name] = 100 * np.array(
            [
                [np.mean([lost(m, one(n, r)).mean() for m in measured]) for r in radii]
                for n in range(model.depth)
            ]
        )
        tables += [layer_table(name, model, measured), radius_table(name, measured)]
    figures.heat_maps(
        heat,
        results.folder / "radius.png",
        x_label="radius in patches",
        y_label="layer",
        bar_label="accuracy lost (points)",
    )
    claims = [
        claim
        for name, (model, measured) in found.items()
        for claim in claims_of(name, model.depth, measured)
    ]
    return Conclusion(
        tables=tables,
        figures=[Figure("Accuracy lost by a limit in one layer", "radius.png")],
        claims=claims,
        notes=NOTES,
        status="done" if CHECKPOINT in results.data else f"without the {REAL}",
    )


def layer_table(name: str, model: AnyModel, measured: list[Measured]) -> Table:
    """What a window of 3 x 3 patches costs in, up to and from each layer."""

    def cell(condition: str) -> object:
        return mean_cell([lost(m, condition).mean() for m in measured], 100)

    return Table(
        f"{name}: accuracy lost (points) by attention to 3 x 3 patches",
        columns=["layer", "there alone", "up to there", "from there on"],
        rows=[
            [str(n), cell(one(n, NEAR)), cell(up_to(n)), cell(from_on(n))]
            for n in range(model.depth)
        ],
    )


def radius_table(name: str, measured: list[Measured]) -> Table:
    """Accuracy and change of the pre-logits with a limit in all layers."""
    names = [key.removeprefix("hit/") for key in measured[0] if key.startswith("hit/")]
    rows = [n for n in names if n.startswith("all layers")] + [WHOLE]

    def cell(kind: str, condition: str, factor: float) -> object:
        values = [float(m[f"{kind}/{condition}"].mean()) for m in measured]
        return mean_cell(values, factor)

    return Table(
        f"{name}: a limit in all layers",
        columns=["attention", "accuracy (%)", "cosine of the pre-logits to no limit's"],
        rows=[[n, cell("hit", n, 100), cell("cosine", n, 1)] for n in rows],
    )


def claims_of(name: str, depth: int, measured: list[Measured]) -> list[Claim]:
    """Early layers against late ones, and whether distance is needed at all.

    The values of each seed, a mean or one for each image, are reduced within its run.
    """
    half = depth // 2
    early, late = range(half), range(half, depth)
    joint = [lost(m, from_on(half)) - lost(m, up_to(half - 1)) for m in measured]
    single = [
        np.mean([lost(m, one(n, NEAR)) for n in late], axis=0)
        - np.mean([lost(m, one(n, NEAR)) for n in early], axis=0)
        for m in measured
    ]
    every = [lost(m, all_layers(NEAR)) for m in measured]
    over = "mean over seeds" if name == LAB else "mean over images, of one checkpoint"
    window = "attention to 3 x 3 patches"
    return [
        judged(
            f"Early layers need less distance than late ones ({name})",
            f"accuracy lost by {window} in layers {half} to {depth - 1}, minus that in "
            f"layers 0 to {half - 1}, {over}",
            interval(joint, name),
        ),
        judged(
            f"One early layer needs less distance than one late layer ({name})",
            f"accuracy lost by {window} in one layer, mean of the second half minus "
            f"that of the first half, {over}",
            interval(single, name),
        ),
        judged(
            f"A trained ViT needs more than the neighbours of a patch ({name})",
            f"accuracy lost by {window} in all layers, {over}",
            interval(every, name),
        ),
    ]


def interval(values: list[np.ndarray], name: str) -> Interval:
    """Over the means of the seeds; over images for the one pre-trained checkpoint."""
    if name == REAL:
        (images,) = values
        found = mean_interval(images.tolist())
        return found._replace(method=f"over images, {found.method}")
    return mean_interval([float(value.mean()) for value in values])


NOTES = (
    "A limit takes the place of an attention that the model was trained with: what is "
    "lost without training is an upper bound of what a model needs that was trained "
    "within the limit. Keys beyond the radius get no attention, and the rest is "
    "divided by its sum. Differences are taken within a run, so that a seed is its own "
    "control. Of the ViT-S/14 there is one checkpoint: its intervals are over 200 test "
    "images for these weights, and say nothing about other pre-trainings. It "
    "classifies by a class token, which sees all patches in each layer and carries "
    "what is far past every limit; so its last layer, whose patches nothing reads, "
    "costs nothing by construction, which speaks against the first two claims. The "
    "laboratory's ViT has no such token."
)


EXPERIMENT = Experiment(
    item="Section 4.5",
    title="Attention within a radius",
    question="Where does a trained ViT need distance?",
    conclude=conclude,
    arms=arms,
    measure=measure_run,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
