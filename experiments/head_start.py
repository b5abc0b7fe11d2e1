"""What does a user gain from a checkpoint, instead of training from scratch?

Not in the paper, whose models are all pre-trained. A public self-supervised ViT-S/14
(`experiments.pretrained`), given as `--data vit_s14=FOLDER`, and the same architecture
from random parameters, on CIFAR-10. Frozen: least squares on 1 to 25 images a class,
nearest neighbours and a linear probe of all images. Fine-tuned: on few images, for
equally many examples, beside the laboratory's small ViT. The unit of repetition is the
choice of the images to learn from, of which all arms see the same.

mini: 56 pixels (4 x 4 patches), 100 images a class, 4,000 examples a run, three
choices. Two CPU cores with bfloat16 instructions pass 260 images a second under JAX
0.12 (JAX 0.10 has no kernels for them: 100; at 112 pixels 70): 4 minutes for each of
the two sets of features, which are kept, and 6 of training. medium and small: 112
pixels, 1,000 images a class. smoke: the laboratory's ViT of other classes stands for
the checkpoint, so that nothing is downloaded.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import data_size
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import Arms, Weights, contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.frozen import readings
from experiments.lab.measures import require_checkpoint
from experiments.lab.profiles import Profile
from experiments.lab.records import Claim, Conclusion, Figure, Table, judged
from experiments.lab.statistics import Interval
from experiments.lab.tables import mean_cell
from vit_jax.data.pipeline import Data
from vit_jax.figures.style import Series
from vit_jax.interop.trained import TrainedModel, load_trained
from vit_jax.models import init_params

CHECKPOINT = "vit_s14"
MISSING = (
    "needs the pre-trained ViT-S/14: make its folder with `python -m "
    "experiments.pretrained`, and give it as --data vit_s14=FOLDER"
)
TUNED, SCRATCH, SMALL = "pre-trained", "from scratch", "laboratory's ViT, from scratch"
STARTS = (TUNED, SCRATCH, SMALL)
WHOLE = "laboratory's ViT, all images"
# Choices of images of the fine-tuning, of which there are as many as seeds.
MOST = 5
OTHER = data_size.label(data_size.VIT)
SHOTS = (1, 5, 10, 25)
# Random choices of the few images that least squares learn from.
CHOICES = {"smoke": 2, "mini": 10, "medium": 10, "small": 10}
# The architecture of the checkpoint; its branches are scaled, and its pixels normalised
# by ImageNet's mean and deviation.
VIT_S14 = {
    "model.name": "ViT-S/14",
    "model.depth": 12,
    "model.width": 384,
    "model.mlp_dim": 1536,
    "model.num_heads": 6,
    "model.pooling": "token",
    "model.activation": "gelu",
    "model.layer_scale_init": 1.0,
    "model.pixel_mean": (0.485, 0.456, 0.406),
    "model.pixel_std": (0.229, 0.224, 0.225),
    "model.dtype": "bfloat16",
}


class Budget(NamedTuple):
    """What a fine-tuning has: images in all, examples of training, test images."""

    images: int
    examples: int
    test: str
    side: int
    rates: dict[str, float]


RATES = {TUNED: 1e-4, SCRATCH: 5e-4, SMALL: 2e-3}
BUDGETS = {
    "smoke": Budget(64, 64, "test", 32, dict.fromkeys(RATES, 1e-3)),
    "mini": Budget(1000, 4_000, "test[:2000]", 56, RATES),
    "medium": Budget(10_000, 100_000, "test", 112, RATES),
    "small": Budget(10_000, 300_000, "test", 112, RATES),
}


def label(start: str, choice: int) -> str:
    """The name of an arm."""
    return f"{start}, images {choice + 1}"


def arms(scale: str) -> dict[str, Arm]:
    """Each start on each choice of images, and the small ViT on all of them."""
    lab = f"configs/lab.py:scale={scale},classes=all"
    found = {WHOLE: Arm(lab)}
    if scale == "smoke":
        found[OTHER] = data_size.model_arms(scale)[data_size.VIT]
    for choice in range(MOST):
        for start in STARTS:
            arm = Arm(lab, changes(scale, start, choice), seeds=1, choice=choice)
            if start == TUNED and scale == "smoke":
                arm = arm._replace(init=OTHER)
            elif start == TUNED:
                arm = arm._replace(checkpoint=CHECKPOINT)
            found[label(start, choice)] = arm
    return found


def changes(scale: str, start: str, choice: int) -> dict[str, Any]:
    """Few images, the model, its image size and its learning rate."""
    budget = BUDGETS[scale]
    first = choice * budget.images
    few = {
        "data.split": f"train[{first}:{first + budget.images}]",
        "data.batch_size": 32,
        "train.duration": f"{budget.examples}examples",
        "eval.splits": (budget.test,),
        "optim.learning_rate": budget.rates[start],
    }
    if start == SMALL or scale == "smoke":
        return few
    return few | VIT_S14 | {"data.image_size": (budget.side, budget.side)}


def measure_arm(arm: str, folder: Path) -> None:
    """At smoke a run stands for the checkpoint, which is too large to be kept."""
    if arm == OTHER:
        require_checkpoint(folder, "frozen features")


def encoders(results: RunResults) -> dict[str, TrainedModel]:
    """The checkpoint and the same architecture before training, with the data."""
    side = BUDGETS[results.scale].side
    if results.scale == "smoke":
        run = load_trained(results.runs[OTHER][0])
    else:
        folder = results.data[CHECKPOINT]
        run = load_trained(folder, image_size=side, dtype="bfloat16")
    config = results.configs[label(SCRATCH, 0)]
    data = dataclasses.replace(Data(**config.data), split="train")
    run = run._replace(data=data)
    untrained = init_params(run.model, jax.random.key(0))
    return {TUNED: run, SCRATCH: run._replace(params=untrained)}


def shots_of(found: Profile, shots: int) -> list[float]:
    """The few-shot accuracy of each choice of images."""
    return [value for key, value in found.items() if key.startswith(f"{shots}shot/")]


def conclude(results: RunResults) -> Conclusion:
    """Frozen and fine-tuned, each from the checkpoint and from scratch."""
    scale, budget = results.scale, BUDGETS[results.scale]
    tuned = {
        start: {
            choice: value
            for choice in range(MOST)
            for value in accuracy(results, label(start, choice))
        }
        for start in STARTS
    }
    whole = accuracy(results, WHOLE)
    per_class = budget.images // 10
    table = Table(
        f"Trained as a whole: test accuracy (%) after {budget.examples:,} examples of "
        f"{per_class} images a class; the last row is the laboratory's own run of all "
        "images",
        columns=["start", "accuracy (%)"],
        rows=[
            *([start, mean_cell([*x.values()], 100)] for start, x in tuned.items()),
            [WHOLE, mean_cell(whole, 100)],
        ],
    )
    if not tuned[TUNED]:
        return Conclusion(tables=[table], status=f"not run: {MISSING}")
    frozen = {
        start: readings(run, SHOTS, CHOICES[scale], results.folder)
        for start, run in encoders(results).items()
    }
    few = {
        start: [shots_of(found, count) for count in SHOTS]
        for start, found in frozen.items()
    }
    series: list[Series] = [
        figures.over_seeds(f"{start}, frozen", SHOTS, values)
        for start, values in few.items()
    ]
    figures.lines(
        {"": series},
        results.folder / "head_start.png",
        x_label="images of each class",
        y_label="test accuracy (%)",
        ticks={count: str(count) for count in SHOTS},
    )
    return Conclusion(
        tables=[frozen_table(frozen), table],
        figures=[Figure("Least squares on frozen features", "head_start.png")],
        claims=claims(few, tuned, whole, per_class),
        notes=NOTES,
    )


def accuracy(results: RunResults, arm: str) -> list[float]:
    """The accuracy of the runs of an arm; none if it has not run."""
    return results.accuracy(arm) if arm in results else []


def frozen_table(frozen: dict[str, Profile]) -> Table:
    """Each reading of each encoder."""
    return Table(
        "Frozen features: test accuracy (%); nearest neighbours and the linear probe "
        "of all training images",
        columns=["features", *(f"{n}-shot" for n in SHOTS), "neighbours", "probe"],
        rows=[
            [start, *(mean_cell(shots_of(found, n), 100) for n in SHOTS)]
            + [100 * found["knn"], 100 * found["probe"]]
            for start, found in frozen.items()
        ],
    )


def claims(
    few: dict[str, list[list[float]]],
    tuned: dict[str, dict[int, float]],
    whole: list[float],
    per_class: int,
) -> list[Claim]:
    """What the checkpoint adds, each as one contrast over the choices of images.

    Args:
        few: few-shot accuracy of each choice by number of shots, of each encoder.
        tuned: accuracy by choice of each start. Those that are not of all starts, as
            where a run failed, are left out.
        whole: accuracy of the laboratory's ViT on all images, over its seeds.
    """
    mean = "mean over choices of images"
    gain: dict[str, float] = {TUNED: 1.0, SCRATCH: -1.0}
    found = []
    for place, count in enumerate(SHOTS):
        of_count = {start: values[place] for start, values in few.items()}
        images = "one image" if count == 1 else f"{count} images"
        found.append(
            judged(
                f"Frozen, a checkpoint is ahead with {images} of each class",
                f"{count}-shot accuracy, {mean}: pre-trained minus untrained features",
                within_choices(of_count, gain),
            )
        )
    choices = sorted(set.intersection(*(set(tuned[start]) for start in STARTS)))
    trained = {start: [tuned[start][n] for n in choices] for start in STARTS}
    found.append(
        judged(
            "Fine-tuned, a checkpoint is ahead of the same training from scratch",
            f"test accuracy with {per_class} images a class, {mean}: pre-trained minus "
            "from scratch",
            within_choices(trained, gain),
        )
    )
    found.append(
        judged(
            "From scratch on few images a small ViT is ahead of the ViT-S/14",
            f"test accuracy with {per_class} images a class, {mean}: the laboratory's "
            "ViT minus the ViT-S/14, both from scratch",
            within_choices(trained, {SMALL: 1.0, SCRATCH: -1.0}),
        )
    )
    frozen = {"frozen": few[TUNED][-1]}
    found.append(
        judged(
            "A frozen checkpoint with 25 images of each class is ahead of the "
            "laboratory's ViT trained on all images",
            "test accuracy: 25-shot pre-trained minus the small ViT's run on all "
            "training images",
            contrast(frozen | {WHOLE: whole}, {"frozen": 1.0, WHOLE: -1.0}),
        )
    )
    return found


def within_choices(arms: Arms, weights: Weights) -> Interval:
    """Arms see the same images in each choice, so that they are compared within it."""
    found = contrast(arms, weights, paired=True)
    return found._replace(method=found.method.replace("runs", "choices of images"))


NOTES = (
    "One checkpoint: intervals are over the choice of the images to learn from (ten "
    "for the frozen features, as many as seeds for the fine-tuning, whose initial head "
    "and order of batches are one seed's), not over pre-trainings. It has seen "
    "millions of photographs, which may include scenes like CIFAR-10's, and was made "
    "with a compute that no arm here has. CIFAR-10's images are enlarged from 32 "
    "pixels, and positions are resampled from 37 x 37 patches. Learning rates are "
    "chosen beforehand and not tuned: 1e-4 for the checkpoint, 5e-4 for the ViT-S/14 "
    "from scratch, the laboratory's 2e-3 for its small ViT."
)


EXPERIMENT = Experiment(
    item="arXiv 2304.07193 (DINOv2)",
    title="A head start: what a checkpoint is worth",
    question="What does a user gain from a checkpoint, instead of training from "
    "scratch?",
    conclude=conclude,
    arms=arms,
    measure_arm=measure_arm,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
