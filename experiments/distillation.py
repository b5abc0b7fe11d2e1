"""Does a teacher hand its inductive bias on to a ViT?

DeiT (arXiv 2012.12877): a ViT learns from the labels and from the decisions of a
teacher that was trained on the same images (`configs/distill.py`). Here it learns
alone, from a ResNet (hard, soft, and hard with a distillation token), and from a ViT
that is its own equal. The paper finds that a convnet is the better teacher, also than
an equally good transformer, and that a taught ViT decides more like the convnet (its
Table 4). Two models that are more often right agree more often, whatever they learnt:
so errors are compared too, by their consistency (arXiv 2006.16736), which is 0 where
they coincide as often as independent errors of these accuracies would.

mini: 6 arms, of which the ResNet is that of `data_size`: about 15 minutes of two CPU
cores. full: ViT-B/16 on ImageNet for 300 epochs, its teachers a BiT-R101x1, where the
paper has RegNetY-16GF, and another ViT-B/16.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import data_size
from experiments.data_size import label
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.figures import bar, bars
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.measures import array_of_run
from experiments.lab.records import (
    Claim,
    Conclusion,
    Table,
    claim_level,
    judged,
    pair,
)
from experiments.lab.tables import mean_cell
from vit_jax.evaluation.classification import evaluate_run
from vit_jax.interop.trained import load_trained

ALONE, RESNET = "ViT alone", "ResNet"
SOFT, HARD = "taught by the ResNet, soft", "taught by the ResNet, hard"
TOKEN = "taught by the ResNet, hard, token"
BY_VIT = "taught by the ViT, hard, token"
STUDENTS = (ALONE, SOFT, HARD, TOKEN, BY_VIT)
# The options `kind` and `token` of `configs/distill.py`, and the teacher.
TAUGHT = {
    SOFT: ("soft", "no", RESNET),
    HARD: ("hard", "no", RESNET),
    TOKEN: ("hard", "yes", RESNET),
    BY_VIT: ("hard", "yes", ALONE),
}
# DeiT-B on ImageNet, by Tables 2 and 3; recalled, not looked up. The ResNet is there a
# RegNetY-16GF, the ViT a DeiT-B.
PAPER = {ALONE: 81.8, RESNET: 82.9, SOFT: 81.8, HARD: 83.0, TOKEN: 83.4, BY_VIT: 81.9}
# Its Table 4: how many percent of the images two models decide otherwise. Recalled.
PAPER_DISAGREEMENT = {ALONE: 13.3, TOKEN: 10.2}


def arms(scale: str) -> dict[str, Arm]:
    """The teachers, one of which is the student alone, then what they teach."""
    if scale == "full":
        config = "configs/distill.py:model=ViT-B/16,teacher="
        found = {
            ALONE: Arm(config),
            RESNET: Arm("configs/bit.py:model=BiT-R101x1,data=imagenet2012"),
        }
        for name, (kind, token, teacher) in TAUGHT.items():
            options = f"{teacher},kind={kind},token={token}"
            found[name] = Arm(config + options, teacher=teacher)
        return found
    resnet = data_size.pretraining(scale)[label(data_size.RESNET)]
    # A distillation token stands beside a class token, so that all have one.
    vit = {"model.pooling": "token"}
    config = f"configs/lab.py:family=vit,scale={scale}"
    found = {ALONE: Arm(config, vit), RESNET: resnet}
    for name, (kind, token, teacher) in TAUGHT.items():
        changes = vit | {
            "objective.name": "distillation",
            "objective.distillation": kind,
            "model.distillation_token": token == "yes",
        }
        if kind == "soft":
            changes |= {"objective.temperature": 3.0, "objective.alpha": 0.1}
        found[name] = Arm(config, changes, teacher=teacher)
    return found


class Decisions(NamedTuple):
    """What a run decides on the test images, and whether it is right."""

    classes: np.ndarray
    right: np.ndarray


def decisions(folder: Path) -> Decisions:
    """The decisions of a run on the split of its evaluation, kept beside it."""

    def decide() -> np.ndarray:
        run = load_trained(folder)
        assert run.config is not None  # a run has one
        split = run.config.eval.splits[0]
        data = dataclasses.replace(run.data, split=split)
        outcomes, _, _ = evaluate_run(run, data, batch_size=run.config.eval.batch_size)
        return np.stack([outcomes.top[:, 0], outcomes.rank < 1])

    classes, right = array_of_run(folder / "decisions.json", decide)
    return Decisions(classes, right.astype(bool))


def disagreement(one: Decisions, other: Decisions) -> float:
    """The share of the images that two runs decide otherwise."""
    return float((one.classes != other.classes).mean())


def consistency(one: Decisions, other: Decisions) -> float:
    """Cohen's kappa of who is right where: 1 for the same errors, 0 by chance."""
    first, second = one.right.mean(), other.right.mean()
    expected = first * second + (1 - first) * (1 - second)
    return float(((one.right == other.right).mean() - expected) / (1 - expected))


def conclude(results: RunResults) -> Conclusion:
    """Tables 2 to 4 of DeiT."""
    accuracy = {name: results.accuracy(name) for name in (*STUDENTS, RESNET)}
    made = {name: [decisions(f) for f in results.runs[name]] for name in accuracy}
    measures = {"disagrees with the ResNet": disagreement, "same errors": consistency}
    near = {
        title: {
            name: [m(*two) for two in zip(made[name], made[RESNET], strict=True)]
            for name in STUDENTS
        }
        for title, m in measures.items()
    }
    ours = {name: bar(values) for name, values in accuracy.items()}
    theirs = {name: (value, None) for name, value in PAPER.items()}
    y_label, folder = "accuracy (%)", results.folder
    bars({"this laboratory": ours}, folder / "taught.png", y_label=y_label)
    path = folder / "taught_paper.png"
    bars({"DeiT-B, ImageNet": theirs}, path, y_label=y_label, floor=80)
    rows = [
        [
            name,
            mean_cell(accuracy[name], 100),
            *(mean_cell(near[title].get(name, []), 100) for title in near),
        ]
        for name in accuracy
    ]
    return Conclusion(
        tables=[
            Table(
                caption="Accuracy; and beside the ResNet of the same seed: how many "
                "test images are decided otherwise, and consistency of the errors (%)",
                columns=["model", "accuracy", *near],
                rows=rows,
            ),
            Table(
                caption="DeiT-B on ImageNet (%): Tables 2, 3 and 4, recalled",
                side="paper",
                columns=["model", "accuracy", "disagrees with the convnet"],
                rows=[[n, v, PAPER_DISAGREEMENT.get(n)] for n, v in PAPER.items()],
            ),
        ],
        figures=[pair("A ViT alone, and taught", "taught")],
        claims=[*claims(accuracy), claim_of_errors(near["same errors"])],
        notes=NOTES,
    )


def claims(accuracy: dict[str, list[float]]) -> list[Claim]:
    """What the accuracies say."""
    convnet = "A convnet is the better teacher than a ViT"
    rows = (
        ("A ViT that a ResNet teaches is better than alone", TOKEN, ALONE, "+1.6"),
        (convnet, TOKEN, BY_VIT, "+1.5"),
        ("Hard distillation is better than soft", HARD, SOFT, "+1.2"),
        ("The distillation token helps", TOKEN, HARD, "+0.4"),
    )
    return [
        judged(
            claim,
            f"accuracy: {better} minus {worse}",
            contrast(
                accuracy,
                {better: 1, worse: -1},
                level=claim_level(headline=claim == convnet),
            ),
            paper=theirs,
            headline=claim == convnet,
        )
        for claim, better, worse, theirs in rows
    ]


def claim_of_errors(near: dict[str, list[float]]) -> Claim:
    """What is inherited beside accuracy."""
    return judged(
        "A ViT takes on the errors of the ResNet that teaches it",
        f"consistency of the errors with the ResNet's: {TOKEN} minus {BY_VIT}",
        contrast(near, {TOKEN: 1, BY_VIT: -1}),
        comment="The paper compares decisions: a distilled DeiT-B disagrees with the "
        "convnet on 10.2 % of the images, DeiT-B on 13.3 %.",
    )


NOTES = (
    "At mini no run sees an image twice, and all models are far from trained: a "
    "teacher that is right in six of ten images is a noisy second label, where the "
    "paper's are right in eight. The ViT that teaches has the student's own seed: the "
    "same first parameters and batches, as in the authors' code. Students see few "
    "augmentations; in the paper's recipe the labels of mixed and distorted images are "
    "often wrong, and a teacher that looks at the image itself corrects them."
)

EXPERIMENT = Experiment(
    item="arXiv 2012.12877",
    title="What a teacher hands on",
    question="Does a teacher hand its inductive bias on to a ViT?",
    conclude=conclude,
    arms=arms,
    measure=decisions,
)

if __name__ == "__main__":
    main(EXPERIMENT)
