"""What makes a layer equivariant to translation: borders, strides, positions?

Not in the paper, which names translation equivariance among the biases that a CNN has
and a ViT lacks (section 3.1). What breaks it in a CNN is known: borders and strides
(arXiv 2304.02628, section 1), aliasing in strides and in nonlinearities of both
families (arXiv 2210.02984). Here each cause is taken away by itself: zeros beyond the
border or the opposite side, plain or blurred strides (arXiv 1904.11486) of a ResNet;
learned or no positions, with and without a class token, of a ViT.

Measures: `vit_jax/analysis/equivariance.py`, on 128 test images, of the last layer
with a grid of 8 x 8 in each model and, of the ResNets, 4 x 4; before and after equally
many examples. Accuracy, and how often the class stays when images are moved by 1 to 3
pixels, a whole place of no model. Criteria are of the 95 % intervals over seeds.

mini: 8 arms of 3 seeds, two of which are those of `data_size`; about 15 minutes of two
CPU cores, of which 3 are measuring. medium, small: 3 seeds. A ResNet with blurred
strides costs about twice as much an image, ViTs the same.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.profiles import CONSISTENCY, LARGEST, Profile, moved_profile
from experiments.lab.records import Claim, Conclusion, Figure, Table, judged
from experiments.lab.statistics import Direction
from experiments.lab.tables import mean_cell
from vit_jax.figures.style import Series

ZEROS, CIRCULAR = "ResNet, zeros", "ResNet, circular"
ZEROS_BLURRED, CIRCULAR_BLURRED = f"{ZEROS}, blurred", f"{CIRCULAR}, blurred"
VIT, TOKEN = "ViT", "ViT, class token"
NONE, NONE_TOKEN = "ViT, no positions", "ViT, no positions, class token"
ROUND = {"model.conv_padding": "circular"}
BLURRED = {"model.antialias": True}
READ = {"model.pooling": "token"}
UNPLACED = {"model.positions": "none"}
CHANGES: dict[str, dict[str, Any]] = {
    ZEROS: {},
    CIRCULAR: ROUND,
    ZEROS_BLURRED: BLURRED,
    CIRCULAR_BLURRED: ROUND | BLURRED,
    VIT: {},
    TOKEN: READ,
    NONE: UNPLACED,
    NONE_TOKEN: UNPLACED | READ,
}
TIMES: dict[Literal["start", "end"], str] = {
    "start": "before training",
    "end": "after training",
}
# By title; the grid is filled in.
MEASURES = {
    "moved in a circle by a place": "equivariance/circular/whole/grid_{}",
    "in a circle by half a place": "equivariance/circular/part/grid_{}",
    "on grey by a place": "equivariance/grey/whole/grid_{}",
    "on grey by half a place": "equivariance/grey/part/grid_{}",
    "Lie derivative": "lie_derivative/grid_{}",
}
WHOLE, PART, GREY, _, LIE = (name.format(8) for name in MEASURES.values())
ACCURACY, CHANGE, LEAST = "accuracy", "change", "least"
# Errors of rounding are below 1e-9; unrelated features differ by 2.
EXACT, BROKEN = 1e-3, 1e-2
# Accuracies that differ by no more count as equal.
MARGIN = 0.02
Values = dict[str, list[float]]
# By `TIMES` and arm, for each seed.
Found = dict[str, dict[str, list[Profile]]]


class Comparison(NamedTuple):
    """A claim about a weighted sum of arms, after training.

    Attributes:
        quantity: the sum in words, for the criterion.
        measure: a name in the profiles, or of what `compared` adds.
    """

    claim: str
    quantity: str
    measure: str
    weights: dict[str, float]
    direction: Direction = ">"
    bound: float = 0.0


BY_BLURS = {ZEROS_BLURRED: 0.5, CIRCULAR_BLURRED: 0.5, ZEROS: -0.5, CIRCULAR: -0.5}
BY_BORDERS = {CIRCULAR: 0.5, CIRCULAR_BLURRED: 0.5, ZEROS: -0.5, ZEROS_BLURRED: -0.5}
COMPARISONS = (
    Comparison(
        "With the opposite side beyond the border a ResNet is equivariant to whole "
        "places in a circle",
        "largest error of its layers, mean over plain and blurred strides",
        LARGEST,
        {CIRCULAR: 0.5, CIRCULAR_BLURRED: 0.5},
        "<",
        EXACT,
    ),
    Comparison(
        "Zeros beyond the border break that",
        "the ResNet's error of a whole place in a circle, 8 x 8",
        WHOLE,
        {ZEROS: 1},
        bound=BROKEN,
    ),
    Comparison(
        "Without positions a ViT is equivariant to whole patches in a circle",
        "largest error of its layers, mean over both poolings",
        LARGEST,
        {NONE: 0.5, NONE_TOKEN: 0.5},
        "<",
        EXACT,
    ),
    Comparison(
        "Learned positions break that",
        "the ViT's error of a whole place in a circle, 8 x 8",
        WHOLE,
        {VIT: 1},
        bound=BROKEN,
    ),
    Comparison(
        "Training makes them break it further",
        "the ViT's error of a whole place in a circle, 8 x 8: after training minus "
        "before",
        CHANGE,
        {"end": 1, "start": -1},
    ),
    Comparison(
        "In a circle the usual ViT is more equivariant than the usual ResNet",
        "error of a whole place in a circle, 8 x 8: ViT minus ResNet",
        WHOLE,
        {VIT: 1, ZEROS: -1},
        "<",
    ),
    Comparison(
        "On grey the usual ResNet is more equivariant than the usual ViT",
        "error of a whole place on grey, 8 x 8: ViT minus ResNet",
        GREY,
        {VIT: 1, ZEROS: -1},
    ),
    Comparison(
        "No model is equivariant to half a place",
        "least error of the models by half a place in a circle, 8 x 8",
        LEAST,
        {"all": 1},
        bound=BROKEN,
    ),
    Comparison(
        "Blurred strides lower the error of half a place",
        "error of half a place in a circle, 8 x 8: blurred minus plain strides",
        PART,
        BY_BLURS,
        "<",
    ),
    Comparison(
        "Blurred strides lower the Lie derivative",
        "Lie derivative, 8 x 8: blurred minus plain strides",
        LIE,
        BY_BLURS,
        "<",
    ),
    Comparison(
        "Blurred strides make decisions more consistent",
        "share of images whose class stays under moves by 1 to 3 pixels: blurred minus "
        "plain strides",
        CONSISTENCY,
        BY_BLURS,
    ),
    Comparison(
        "Blurred strides raise the accuracy",
        "test accuracy: blurred minus plain strides",
        ACCURACY,
        BY_BLURS,
    ),
    Comparison(
        "A ResNet does not need to see its border",
        "test accuracy: circular minus zeros",
        ACCURACY,
        BY_BORDERS,
        "within",
        MARGIN,
    ),
)


def arms(scale: str) -> dict[str, Arm]:
    """Each model at the laboratory's size."""
    return {
        name: Arm(
            f"configs/lab.py:family={figure_family(name).lower()},scale={scale}",
            changes,
        )
        for name, changes in CHANGES.items()
    }


def figure_family(name: str) -> Any:
    """ViT or ResNet."""
    return name.partition(",")[0]


def measure(folder: Path) -> dict[str, Profile]:
    """The profiles of a run before and after training, by `TIMES`."""
    return {time: moved_profile(folder, time) for time in TIMES}


def conclude(results: RunResults) -> Conclusion:
    """Tables of all measures, a figure of them before and after, and the claims."""
    measured = {
        arm: [measure(folder) for folder in folders]
        for arm, folders in results.runs.items()
    }
    found: Found = {
        time: {arm: [one[time] for one in seeds] for arm, seeds in measured.items()}
        for time in TIMES
    }
    after = found["end"]
    accuracy = {arm: results.accuracy(arm) for arm in after}
    consistency = values_of(after, CONSISTENCY)
    tables = [
        Table(
            caption="Accuracy, and the same class after moves by 1 to 3 pixels",
            columns=["model", "test accuracy (%)", "consistency (%)"],
            rows=[
                [arm, mean_cell(accuracy[arm], 100), mean_cell(consistency[arm], 100)]
                for arm in after
            ],
        )
    ]
    for grid in (8, 4):
        for time, profiles in found.items():
            by_title = {
                title: values_of(profiles, name.format(grid))
                for title, name in MEASURES.items()
            }
            rows = [
                [arm, *(mean_cell(of_arm[arm]) for of_arm in by_title.values())]
                for arm in next(iter(by_title.values()))
            ]
            if rows:
                caption = f"Equivariance errors, {grid} x {grid} places, {TIMES[time]}"
                tables.append(Table(caption, ["model", *MEASURES], rows))
    figures.lines(
        panels(found),
        results.folder / "border_equivariance.png",
        x_label="",
        y_label="",
        log_x=False,
        columns=2,
        ticks=dict(enumerate(TIMES.values())),
    )
    return Conclusion(
        tables=tables,
        figures=[
            Figure(
                "Equivariance errors on 8 x 8 places before and after training",
                ours="border_equivariance.png",
            )
        ],
        claims=claims(compared(found, accuracy)),
        notes=NOTES,
    )


def values_of(profiles: dict[str, list[Profile]], measure: str) -> Values:
    """The values of a measure in each seed, by arm; arms without it are left out."""
    return {
        arm: [one[measure] for one in seeds]
        for arm, seeds in profiles.items()
        if all(measure in one for one in seeds)
    }


def panels(found: Found) -> dict[str, list[Series]]:
    """A panel for each measure, with a line from before to after for each arm."""
    return {
        title: [
            figures.over_seeds(
                arm,
                list(range(len(TIMES))),
                [values_of(found[time], name.format(8))[arm] for time in TIMES],
                factor=1,
                family=figure_family(arm),
            )
            for arm in found["end"]
        ]
        for title, name in MEASURES.items()
    }


def compared(found: Found, accuracy: Values) -> dict[str, Values]:
    """The values over seeds by arm, by measure of `COMPARISONS`."""
    after = found["end"]
    names = (LARGEST, WHOLE, PART, GREY, LIE, CONSISTENCY)
    values = {name: values_of(after, name) for name in names}
    values[ACCURACY] = accuracy
    values[CHANGE] = {
        time: values_of(profiles, WHOLE)[VIT] for time, profiles in found.items()
    }
    least = [min(seed) for seed in zip(*values[PART].values(), strict=True)]
    return values | {LEAST: {"all": least}}


def claims(values: dict[str, Values]) -> list[Claim]:
    """What each cause does, each as one contrast."""
    shares = (ACCURACY, CONSISTENCY)
    return [
        judged(
            one.claim,
            one.quantity,
            contrast(values[one.measure], one.weights),
            one.direction,
            one.bound,
            unit="points" if one.measure in shares else "",
            factor=100 if one.measure in shares else 1,
        )
        for one in COMPARISONS
    ]


NOTES = (
    "An error of 0 is exact equivariance, 2 is that of unrelated features. In a "
    "circle and by whole places the errors of some models are 0 by construction, "
    "whatever their weights; these claims test the code. A move by half a place is "
    "compared with features that are moved by the phases of their Fourier transform, "
    "so that it counts as an error what a layer shows at the highest frequency of its "
    "grid, also without any stride before it. Moves in a circle bring an edge into "
    "photographs; on grey there is none, but only the middle of the image is seen. On "
    "4 x 4 places the margin of grey is one place, less than what a unit of a ResNet "
    "sees, so that borders count there too. Blurs add arithmetic: models have had "
    "equally many examples, not equal compute."
)


EXPERIMENT = Experiment(
    item="Section 3.1",
    title="Equivariance: borders, strides and positions",
    question="What makes a layer equivariant to translation: borders, strides, "
    "positions?",
    conclude=conclude,
    arms=arms,
    measure=measure,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
