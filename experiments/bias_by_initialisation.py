"""Does a bias that is planted before training survive it, and does it help?

Two initial values give a ViT's attention what trained ViTs, or CNNs, have: mimetic
(arXiv 2305.09828), queries times keys near the identity, and impulse (arXiv
2505.19985), a head for each offset of a 3 x 3 convolution; see
`vit_jax/models/initialization.py`. Both papers report higher accuracy where data are
few. Mimetic comes with sines for positions, as in its paper, impulse with learned ones,
as in its authors' code; each is compared with the default initial values and the same
positions, on parts of CIFAR-10 with all its classes, in runs of equal length.

Measured before and after training: the attention distance, mean and of the most local
head, the attention within the 3 x 3 patches around the query, and test accuracy.

Criterion: a difference, planted minus default, has the claimed sign at 95 %, that of
survival on all the data at the level of a headline. Three seeds. mini: 24 runs of 25
seconds on 10 and 100 % of the data, 15 minutes of two CPU cores. medium: 36 runs of 20
minutes on 2, 20 and 100 %, 12 hours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.profiles import Profile, initial_profile, trained_profile
from experiments.lab.records import (
    Claim,
    Conclusion,
    Figure,
    Table,
    claim_level,
    judged,
)
from experiments.lab.tables import mean_cell

LEARNED, SINES = "default, learned positions", "default, sines"
MIMETIC, IMPULSE = "mimetic, sines", "impulse, learned positions"
MODELS: dict[str, dict[str, Any]] = {
    LEARNED: {},
    SINES: {"model.positions": "sincos2d"},
    MIMETIC: {"model.positions": "sincos2d", "model.initialization": "mimetic"},
    IMPULSE: {"model.initialization": "impulse"},
}
# What each is compared with: the default initial values at the same positions.
BESIDE = {MIMETIC: SINES, IMPULSE: LEARNED}
SHARES = {  # percent of the data
    "smoke": (10, 100),
    "mini": (10, 100),
    "medium": (2, 20, 100),
    "small": (2, 20, 100),
}
START = "before training"
DISTANCE, WITHIN = "attention_ratio/mean", "attention_mass_within_1/mean"
TITLES = {
    DISTANCE: "attention distance, share of uniform attention's",
    "attention_ratio/min": "attention distance of the most local head",
    WITHIN: "attention within 3 x 3 patches",
    "attention_mass_within_1/block_00": "attention within 3 x 3 patches, first block",
}
ACCURACY = "test accuracy"
Values = dict[str, list[float]]


def label(model: str, share: int) -> str:
    """The name of an arm."""
    return f"{model}, {share} %"


def arms(scale: str) -> dict[str, Arm]:
    """Each model on each part of the data."""
    config = f"configs/lab.py:family=vit,scale={scale},classes=all"
    return {
        label(model, share): Arm(config, changes | part(share))
        for model, changes in MODELS.items()
        for share in SHARES[scale]
    }


def part(share: int) -> dict[str, str]:
    """Changes of the config for a part of the data; none for all of it."""
    return {} if share == 100 else {"data.split": f"train[:{share}%]"}


def conclude(results: RunResults) -> Conclusion:
    """Each measure by initial values and amount of data."""
    shares = SHARES[results.scale]
    found = profiles(results)
    values: dict[str, Values] = {
        measure: {arm: [x[measure] for x in rows] for arm, rows in found.items()}
        for measure in TITLES
    }
    accuracy = {arm: results.accuracy(arm) for arm in results.runs}
    cells = {
        title: {m: [values[measure][x] for x in places(m, shares)] for m in MODELS}
        for measure, title in TITLES.items()
    }
    # There are no classes before training: all logits are equal.
    cells[ACCURACY] = {
        m: [[], *(accuracy[label(m, share)] for share in shares)] for m in MODELS
    }
    # No data is drawn at a third of the least amount, since the axis is logarithmic.
    x = [shares[0] / 3, *map(float, shares)]
    panels = {
        title: [figures.over_seeds(m, x, row, factor=1) for m, row in rows.items()]
        for title, rows in cells.items()
    }
    figures.lines(
        panels,
        results.folder / "bias_by_initialisation.png",
        x_label="data of the training",
        y_label="",
        columns=2,
        ticks={x[0]: "none"} | {share: f"{share} %" for share in shares},
    )
    return Conclusion(
        tables=tables(cells, shares),
        figures=[
            Figure(
                "Locality and accuracy by initial values and amount of data",
                ours="bias_by_initialisation.png",
            )
        ],
        claims=[
            claim
            for planted in BESIDE
            for claim in claims(planted, values[DISTANCE], accuracy, shares)
        ],
        notes=NOTES,
    )


def measure_arm(arm: str, folder: Path) -> None:
    """Measures the runs on all the data before training, too."""
    if arm in {label(model, 100) for model in MODELS}:
        initial_profile(folder)


def profiles(results: RunResults) -> dict[str, list[Profile]]:
    """The profiles of each seed, by arm; also those of each model before training."""
    found = {
        arm: [trained_profile(folder) for folder in folders]
        for arm, folders in results.runs.items()
    }
    for model in MODELS:
        # Of the runs on all the data, so that each has its own end to compare with.
        folders = results.runs[label(model, 100)]
        found[started(model)] = [initial_profile(folder) for folder in folders]
    return found


def started(model: str) -> str:
    """The name of a model before training."""
    return f"{model}, {START}"


def places(model: str, shares: tuple[int, ...]) -> list[str]:
    """The columns of a model in tables and figure."""
    return [started(model), *(label(model, share) for share in shares)]


def tables(
    cells: Mapping[str, Mapping[str, list[list[float]]]], shares: tuple[int, ...]
) -> list[Table]:
    """A table for each measure, accuracy in percent."""
    columns = ["initial values", START, *(f"{share} % of the data" for share in shares)]
    found = []
    for title, rows in cells.items():
        factor, unit = (100, " (%)") if title == ACCURACY else (1, "")
        lines = [[m, *(mean_cell(x, factor) for x in row)] for m, row in rows.items()]
        found.append(Table(title + unit, columns, lines))
    return found


def claims(
    planted: str, distance: Values, accuracy: Values, shares: tuple[int, ...]
) -> list[Claim]:
    """What planting is for: locality that is there, stays, and replaces data."""
    default, (little, *_, most) = BESIDE[planted], shares

    def local(
        text: str,
        before: str,
        after: str,
        words: str,
        paired: bool = False,
        headline: bool = False,
    ) -> Claim:
        level = claim_level(headline=headline)
        return judged(
            text,
            f"{TITLES[DISTANCE]}: {words}",
            contrast(distance, {after: 1, before: -1}, paired=paired, level=level),
            "<",
            unit="",
            factor=1,
            headline=headline,
        )

    def gain(share: int) -> dict[str, float]:
        return {label(planted, share): 1.0, label(default, share): -1.0}

    shrinks = gain(little) | {arm: -weight for arm, weight in gain(most).items()}
    difference = f"{planted} minus {default}"
    return [
        local(
            f"Planted locality is there before training ({planted})",
            started(default),
            started(planted),
            difference,
        ),
        local(
            f"Planted locality survives training on all the data ({planted})",
            label(default, most),
            label(planted, most),
            difference,
            headline=True,
        ),
        local(
            f"Planted locality survives training on {little} % of the data ({planted})",
            label(default, little),
            label(planted, little),
            difference,
        ),
        local(
            f"Training makes attention less local than it was planted ({planted})",
            label(planted, most),
            started(planted),
            "before training minus after training on all the data, within each run",
            paired=True,
        ),
        judged(
            f"Planted locality helps accuracy where data are few ({planted})",
            f"test accuracy with {little} % of the data: {difference}",
            contrast(accuracy, gain(little)),
        ),
        judged(
            f"It helps more with few data than with all ({planted})",
            f"test accuracy: {difference} with {little} % of the data, minus the same "
            "with all",
            contrast(accuracy, shrinks),
        ),
    ]


NOTES = (
    "The structure of impulse is that of the positions in the first block. Patches "
    "and what the blocks add to the tokens disturb it in the others, so that its mean "
    "over the blocks says less than the first block. It makes the positions 18 times "
    "larger, which the default does not: what larger positions alone would do is not "
    "measured. Heads have 16 features at mini, too few for an impulse on 64 patches, "
    "32 at medium and 64 at small. The authors of impulse train on CIFAR-10 for 300 "
    "epochs with mixes and RandAugment; here there are crops and flips only. All runs "
    "are equally long, so that on a small part of the data images are seen more "
    "often, and the accuracy is that of the last step."
)


EXPERIMENT = Experiment(
    item="arXiv 2305.09828, 2505.19985",
    title="Biases planted by initial values",
    question="Does locality that is planted before training survive it, and does it "
    "replace data?",
    conclude=conclude,
    arms=arms,
    measure=trained_profile,
    measure_arm=measure_arm,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
