"""How much pre-training compute does each architecture need for the same quality?

Table 6, Fig. 5, section 4.4: ViTs, hybrids and ResNets of equal compute an image,
pre-trained for a quarter, half, once and twice the laboratory's number of examples,
each with a schedule of its own, and the ViT of half the width; accuracy against FLOPs
as the paper counts them. Straight lines through log error and log compute, parallel for
two families, say how many times the compute the one needs for the error of the other.

mini: 3 families, 3 seeds: 12 minutes of two CPU cores beside `data_size`, whose runs on
all the data are used. full: Table 6, 18 pre-trainings on JFT-300M and their fine-tuning
to five data sets.
"""

from typing import NamedTuple, cast

import numpy as np

from experiments import data_size
from experiments.data_size import ALL, FEWSHOT, HYBRID, OWN, RESNET, VIT, label
from experiments.lab import figures, full, paper, paper_figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.fits import equal_performance_ratio
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.models import macs_of
from experiments.lab.records import (
    Claim,
    Conclusion,
    Table,
    criterion,
    judged,
    out_of_reach,
    pair,
)
from experiments.lab.statistics import Interval
from experiments.lab.tables import mean_cell
from experiments.transfer import TESTS, finetuning_384
from vit_jax.figures.style import Family, Series
from vit_jax.planning.flops import training_flops

EXAMPLES = {"smoke": 64, "mini": 25_600, "small": 900_000}
FACTORS = (0.25, 0.5, 2)
AVERAGE = "average of 5 data sets"
# Below the crossings of Fig. 4 the paper itself has ResNets ahead of ViTs.
NEEDS = "50 to 4,262 exaFLOPs of pre-training on 303 million images"


def arms(scale: str) -> dict[str, Arm]:
    """The runs of `data_size` on all the data, then those of other durations."""
    if scale == "full":
        return full_arms()
    pretraining = data_size.model_arms(scale)
    found = {label(model): arm for model, arm in pretraining.items()}
    for model in (VIT, HYBRID, RESNET):
        if model not in pretraining:
            continue
        for factor in FACTORS:
            arm = pretraining[model]
            time = {"train.duration": f"{round(factor * EXAMPLES[scale])}examples"}
            found[f"{model}, {factor:g} x"] = arm._replace(changes=arm.changes | time)
    return found


def full_arms() -> dict[str, Arm]:
    """The rows of Table 6 and their fine-tuning."""
    found: dict[str, Arm] = {}
    for row in paper.TABLE_6:
        name = row["name"]
        model = name if "ViT" in name else f"BiT-{name}"
        start = f"{name}, {row['epochs']} epochs"
        found[start] = full.jft(model, epochs=str(row["epochs"]))
        for test in TESTS:
            found[f"{start}, to {test}"] = finetuning_384(start, model, test)
    return found


class Point(NamedTuple):
    """A pre-training in Fig. 5.

    Attributes:
        teraflops: FLOPs / 1e12 of the whole run, as the paper counts them.
        values: accuracy of each seed as a share of 1, by measure.
    """

    label: str
    family: Family
    teraflops: float
    values: dict[str, list[float]]


def point(results: RunResults, label: str, family: str) -> Point:
    """The cost and the accuracies of a pre-training."""
    config = results.configs[label]
    steps, _ = results.curve(label, "accuracy", config.eval.splits[0])
    images = int(steps[-1]) * config.data.batch_size
    if results.scale == "full":
        tests = [results.accuracy(f"{label}, to {test}") for test in TESTS]
        average = [sum(seed) / len(seed) for seed in zip(*tests, strict=True)]
        values = {AVERAGE: average, "ImageNet": tests[0]}
    else:
        values = {FEWSHOT: results.fewshot(label), OWN: results.accuracy(label)}
    flops = training_flops(macs_of(config)) * images
    return Point(label, cast(Family, family), flops / 1e12, values)


def name_of(label: str) -> str:
    """The label of a point within its family, such as `0.5 x`."""
    size, _, length = label.removesuffix(f", {ALL} %").partition(", ")
    return length or ("1 x" if label.endswith("%") else size)


def points(results: RunResults) -> list[Point]:
    """All pre-trainings."""
    if results.scale == "full":
        families = {
            f"{row['name']}, {row['epochs']} epochs": row["family"]
            for row in paper.TABLE_6
        }
    else:
        families = {arm: arm.partition(",")[0] for arm in arms(results.scale)}
    return [point(results, arm, family) for arm, family in families.items()]


def conclude(results: RunResults) -> Conclusion:
    """Fig. 5 and the factors of compute."""
    found = points(results)
    measures = list(found[0].values)
    families = list(dict.fromkeys(p.family for p in found))
    panels: dict[str, list[Series]] = {}
    for measure in measures:
        panels[measure] = []
        for family in families:
            members = [p for p in found if p.family == family]
            values = [p.values[measure] for p in members]
            names = [name_of(p.label) for p in members]
            flops = [p.teraflops for p in members]
            panels[measure].append(
                figures.over_seeds(family, flops, values, family=family, labels=names)
            )
    figures.scatter(
        panels,
        results.folder / "fig5.png",
        x_label="pre-training compute (teraFLOPs)",
        y_label="accuracy (%)",
    )
    paper_figures.figure_5(results.folder / "fig5_paper.png")
    columns = "name epochs average_5 imagenet exaflops".split()
    return Conclusion(
        tables=[
            Table(
                caption="Accuracy (%) by pre-training compute",
                columns=["run", "teraFLOPs", *measures],
                rows=[
                    [p.label, float(f"{p.teraflops:.3g}")]
                    + [mean_cell(p.values[m], 100) for m in measures]
                    for p in found
                ],
            ),
            Table(
                caption="Table 6: accuracy (%) by pre-training compute",
                side="paper",
                columns=["model", "epochs", "Average-5", "ImageNet", "exaFLOPs"],
                rows=[[row[name] for name in columns] for row in paper.TABLE_6],
            ),
        ],
        figures=[pair("Fig. 5: accuracy by pre-training compute", "fig5")],
        claims=[
            claim
            for measure in measures
            for claim in claims_of(measure, found, results.scale)
        ],
        notes=NOTES,
    )


def claims_of(measure: str, found: list[Point], scale: str) -> list[Claim]:
    """Section 4.4: ViTs need less than ResNets; hybrids are ahead at small budgets."""
    published = [
        (row["family"], row["exaflops"], row["average_5"] / 100)
        for row in paper.TABLE_6
    ]
    # A point is a model: its seeds share what the lines do not fit.
    ours = [(p.family, p.teraflops, float(np.mean(p.values[measure]))) for p in found]
    claims = []
    for first, second in (("ViT", "ResNet"), ("hybrid", "ViT")):
        if not {first, second} <= {family for family, *_ in ours}:
            continue
        text = f"A {first} needs less compute than a {second} for the same accuracy"
        claim = f"{text} ({measure})"
        quantity = f"compute that a {first} needs over that of a {second}, by parallel "
        quantity += "lines of log error over log compute"
        unit = "times the compute"
        multiple = factor_of(ours, first, second)
        if second == "ResNet" and scale != "full":
            rule = criterion(quantity, multiple.level, "<", 1, unit=unit, factor=1)
            needs = f"{NEEDS}; here: {multiple.text(unit)}"
            claims.append(out_of_reach(claim, rule, needs))
            continue
        theirs = factor_of(published, first, second).text(unit)
        claims.append(
            judged(
                claim,
                quantity,
                multiple,
                "<",
                1,
                unit=unit,
                factor=1,
                sign=False,
                comment=f"The same of the paper's Table 6, Average-5: {theirs}.",
            )
        )
    values = {p.label: p.values[measure] for p in found}
    short, long = (f"{FACTORS[i]:g} x" for i in (0, -1))
    if f"{HYBRID}, {short}" in values:
        lead = {f"{HYBRID}, {short}": 1.0, f"{VIT}, {short}": -1.0}
        shrinks = lead | {f"{HYBRID}, {long}": -1.0, f"{VIT}, {long}": 1.0}
        claims += [
            judged(
                f"{claim} ({measure})",
                f"accuracy: hybrid minus ViT at {lengths} the length of training",
                contrast(values, weights),
            )
            for claim, weights, lengths in (
                ("With little compute the hybrid is ahead of the ViT", lead, short),
                ("Its lead shrinks with compute", shrinks, f"{short} minus at {long}"),
            )
        ]
    return claims


def factor_of(
    rows: list[tuple[str, float, float]], first: str, second: str
) -> Interval:
    """The compute that `first` needs, as a multiple of that of `second`.

    Args:
        rows: family, compute and accuracy (a share of 1) of each model.
    """
    chosen = {
        family: list(zip(*((x, 1 - y) for f, x, y in rows if f == family), strict=True))
        for family in (first, second)
    }
    return equal_performance_ratio(*chosen[first], *chosen[second])


NOTES = (
    "Compute is varied by the length of the training and hardly by the size of the "
    "models, where the paper does both; accuracy is of held-out classes and of the "
    "pre-training's, where the paper fine-tunes to five data sets. At mini "
    "the longest training is less than two epochs: all families are far from what they "
    "can learn, and a factor here says who learns fast at the start."
)

EXPERIMENT = Experiment(
    item="Table 6, Fig. 5",
    title="Performance against pre-training compute",
    question="How much pre-training compute does each architecture need for the same "
    "quality?",
    conclude=conclude,
    arms=arms,
)

if __name__ == "__main__":
    main(EXPERIMENT)
