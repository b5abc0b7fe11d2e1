"""What is pre-training without labels worth?

Section 4.6, appendix B.1.2: masked patch prediction, with half of the patches or 15 %
of them corrupted, and three targets: the mean colour of a patch, those of its 4 x 4
cells, all of its pixels. Then fine-tuning on labels, equally long from each of them,
from random parameters, and from pre-training on the same images with their labels.

mini: pre-training on six classes of CIFAR-10, fine-tuning on a tenth of the images of
the four others; patches of 8 pixels: 8 minutes of two CPU cores. full: ViT-B/16, a
million steps on JFT-300M, then ImageNet as in Table 4; from scratch and supervised as
in Table 5.
"""

from configs import lab
from experiments.lab import full, paper
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.figures import bar, bars
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.records import (
    Claim,
    Conclusion,
    Table,
    claim_level,
    judged,
    pair,
    unless_beyond,
)
from experiments.lab.tables import mean_cell

MASKED = {
    "mean colour": {},
    "mean colour, 15 %": {"objective.corrupt_rate": 0.15},
    "4 x 4 cells": {"objective.target": "downscaled"},
    "pixels": {"objective.target": "pixels"},
}
SCRATCH, SUPERVISED, DEFAULT = "from scratch", "supervised", "mean colour"
STARTS = (SCRATCH, *MASKED, SUPERVISED)
# Two are enough to test the code, as each has to be compiled.
SMOKE = (DEFAULT, "pixels")
# Duration of the fine-tuning: ten epochs of a tenth of the images; 50 at small.
TUNING = {"smoke": "2steps", "mini": "20000examples", "small": "100000examples"}
# Larger than the laboratory's 4 pixels, at which a cell of a patch would be a pixel.
PATCHES = {"smoke": "ViT-mu/8", "mini": "ViT-mu/8", "small": "ViT-Ti/8"}
# Appendix B.1.2; the loss is a softmax, also where supervised runs have a sigmoid.
JFT_MASKED = {
    "objective.name": "masked_patch",
    "loss.name": "softmax",
    "model.head_bias_init": 0.0,
    "model.pre_logits": False,
    "optim.learning_rate": 2e-4,
    "optim.schedule": "cosine",
    "train.duration": "1000000steps",
}


def pretraining(label: str) -> str:
    """The label of the run that a fine-tuning starts from."""
    return f"pre-training: {label}"


def arms(scale: str) -> dict[str, Arm]:
    """The pre-trainings, then a fine-tuning from each and from random parameters."""
    if scale == "full":
        tune = "configs/finetune.py:model=ViT-B/16,dataset=imagenet2012"
        pretrain = "configs/pretrain.py:model=ViT-B/16,data={}"
        masked = {x: full.jft("ViT-B/16", JFT_MASKED | y) for x, y in MASKED.items()}
        # Scratch is ImageNet itself, at 224 pixels, before the fine-tuning at 384.
        starts = {SCRATCH: Arm(pretrain.format("imagenet2012"))} | masked
        starts[SUPERVISED] = Arm(pretrain.format("imagenet21k"))
        return {pretraining(x): arm for x, arm in starts.items()} | {
            x: Arm(tune, init=pretraining(x)) for x in STARTS
        }
    config = f"configs/lab.py:scale={scale}"
    model = {"model.name": PATCHES[scale]}
    task = model | {"objective.name": "masked_patch"}
    masked = SMOKE if scale == "smoke" else MASKED
    starts = {x: Arm(config, task | MASKED[x]) for x in masked}
    starts[SUPERVISED] = Arm(config, model)
    changes = model | {
        "data.classes": lab.DATA[scale][2],
        "data.split": "train[:10%]",
        "train.duration": TUNING[scale],
        "fewshot.every": "",
    }
    return {pretraining(x): arm for x, arm in starts.items()} | {
        x: Arm(config, changes, init=pretraining(x) if x in starts else "")
        for x in (SCRATCH, *starts)
    }


def conclude(results: RunResults) -> Conclusion:
    """Accuracy after fine-tuning, and how it compares."""
    accuracy = {x: results.accuracy(x) for x in STARTS if x in results}
    fewshot = {
        x: results.fewshot(pretraining(x))
        for x in accuracy
        if pretraining(x) in results and results.configs[pretraining(x)].fewshot.every
    }
    shots = results.shots(pretraining(DEFAULT))
    draw(results, accuracy)
    rows = [
        [x, mean_cell(accuracy[x], 100), mean_cell(fewshot.get(x, []), 100)]
        for x in accuracy
    ]
    return Conclusion(
        tables=[
            Table(
                caption="Section 4.6: accuracy (%) after fine-tuning, and of the "
                f"pre-trained features without it ({shots} linear)",
                columns=["start", "fine-tuned", shots],
                rows=rows,
            ),
            Table(
                caption="Section 4.6: ViT-B/16, ImageNet accuracy (%)",
                side="paper",
                columns=["start", "fine-tuned"],
                rows=[list(row) for row in paper.SECTION_4_6.items()],
            ),
        ],
        figures=[
            pair(
                "Section 4.6: accuracy after fine-tuning, by where it started",
                "section4_6",
            )
        ],
        claims=claims(accuracy, results.scale),
        notes="At mini the pre-training has 400 steps, and sees each image about once: "
        "likely too few to help. The paper's has a million, of which the first 100,000 "
        "give most. From scratch is here as short as the fine-tuning; the paper's is "
        "300 epochs of ImageNet, so that its gain of 2 points is over a model that is "
        "fully trained.",
    )


def draw(results: RunResults, accuracy: dict[str, list[float]]) -> None:
    """Bars by the kind of pre-training; the axis of ours begins at chance."""
    classes = results.configs[DEFAULT].data.classes
    bars(
        {
            "no pre-training": {SCRATCH: bar(accuracy[SCRATCH])},
            "masked patches": {x: bar(accuracy[x]) for x in MASKED if x in accuracy},
            "with labels": {SUPERVISED: bar(accuracy[SUPERVISED])},
        },
        results.folder / "section4_6.png",
        y_label="accuracy (%)",
        floor=100 / len(classes) if classes else 0,
    )
    bars(
        {label: {label: (value, None)} for label, value in paper.SECTION_4_6.items()},
        results.folder / "section4_6_paper.png",
        y_label="ImageNet accuracy (%)",
        floor=70,
    )


def claims(accuracy: dict[str, list[float]], scale: str) -> list[Claim]:
    """Better than scratch, worse than labels; the variants slightly worse."""
    helps = "Masked patch prediction helps"
    found = [
        judged(
            claim,
            f"accuracy after fine-tuning: {better} minus {worse}",
            contrast(
                accuracy,
                {better: 1, worse: -1},
                level=claim_level(headline=claim == helps),
            ),
            paper=theirs,
            headline=claim == helps,
        )
        for claim, better, worse, theirs in (
            (helps, DEFAULT, SCRATCH, "+2.0"),
            ("Labels help more", SUPERVISED, DEFAULT, "+4.1"),
            (
                "15 % of corrupted patches are worse than half",
                DEFAULT,
                "mean colour, 15 %",
                "slightly",
            ),
            (
                "All pixels are a worse target than the mean colour",
                DEFAULT,
                "pixels",
                "slightly",
            ),
        )
        if better in accuracy and worse in accuracy
    ]
    if scale != "full":
        # Section B.1.2: most of the gain is there after 100,000 steps.
        found[0] = unless_beyond(
            found[0], "pre-training for 100,000 steps of 4,096 images"
        )
    return found


EXPERIMENT = Experiment(
    item="Section 4.6",
    title="Masked patch prediction",
    question="What is pre-training without labels worth?",
    conclude=conclude,
    arms=arms,
)

if __name__ == "__main__":
    main(EXPERIMENT)
