"""What does each architecture know before it has seen any data, and what do data add?

Not in the paper: its section 3.1 says that ViTs have much less image-specific inductive
bias than CNNs, and section 4.3 that data replace it; neither is measured there. Here
locality (effective receptive field, attention distance), 2-D structure (positions, what
shuffled blocks cost) and translation (equivariance error, Lie derivative) of a ViT, a
hybrid and a ResNet of equal compute, at initialisation and after equal training on 1 to
100 % of the data.

The runs are those of `data_size`; measuring takes 3 minutes of two CPU cores at mini.
Equivariance is measured where the grids of all models are equally large, 8 x 8.
"""

from typing import Literal, NamedTuple

from experiments import data_size
from experiments.data_size import HYBRID, RESNET, SHARES, VIT, figure_family, label
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.profiles import Profile, initial_profile, trained_profile
from experiments.lab.records import Claim, Conclusion, Figure, Table, judged
from experiments.lab.tables import mean_cell
from vit_jax.figures.style import Series

START = "none"
# The name in the profile of each measure, by its title in the report.
MEASURES = {
    "receptive field, share of the whole image's": "receptive_field/rms_ratio",
    "attention distance, share of uniform attention's": "attention_ratio/mean",
    "positions: rank correlation with nearness": "positions/rank_correlation",
    "accuracy kept when 4 x 4 blocks are shuffled": "accuracy_ratio/shuffled_4x4",
    "equivariance error, moved in a circle (none: 2)": "equivariance/circular/"
    "whole/grid_8",
    "equivariance error, moved on grey (none: 2)": "equivariance/grey/whole/grid_8",
    "Lie derivative": "lie_derivative/grid_8",
}
ERROR, FIELD = "equivariance/grey/whole/grid_8", "receptive_field/rms_ratio"
POSITIONS, SHUFFLED = "positions/rank_correlation", "accuracy_ratio/shuffled_4x4"
Values = dict[str, list[float]]


class Comparison(NamedTuple):
    """A claim about a measure of one arm minus that of another.

    Attributes:
        difference: the rule's own words for it.
        plus, minus: the arms, with the models and amounts of data of a scale to be
            filled in.
        direction: the sign that is claimed.
    """

    claim: str
    difference: str
    measure: str
    plus: str
    minus: str
    direction: Literal[">", "<"] = ">"


COMPARISONS = (
    Comparison(
        "Before training a ViT looks further than a ResNet",
        "receptive field of the ViT minus that of the ResNet",
        FIELD,
        "{vit}, {none}",
        "{resnet}, {none}",
    ),
    Comparison(
        "With all the data, a ViT still looks further than a ResNet",
        "receptive field of the ViT minus that of the ResNet",
        FIELD,
        "{vit}, {all}",
        "{resnet}, {all}",
    ),
    Comparison(
        "Before training a ResNet's layers are more equivariant than a ViT's",
        "equivariance error of the ViT minus that of the ResNet",
        ERROR,
        "{vit}, {none}",
        "{resnet}, {none}",
    ),
    Comparison(
        "A ViT learns equivariance",
        "its equivariance error with all the data minus that before training",
        ERROR,
        "{vit}, {all}",
        "{vit}, {none}",
        "<",
    ),
    Comparison(
        "Positions know nothing of the plane at first, and learn it",
        "rank correlation of the ViT with all the data minus that before training",
        POSITIONS,
        "{vit}, {all}",
        "{vit}, {none}",
    ),
    Comparison(
        "More data teach the positions more of the plane",
        "rank correlation of the ViT with all the data minus that with {little}",
        POSITIONS,
        "{vit}, {all}",
        "{vit}, {little}",
    ),
    Comparison(
        "A ViT depends less on the arrangement of the parts than a ResNet",
        "share of the accuracy kept under shuffling, ViT minus ResNet",
        SHUFFLED,
        "{vit}, {all}",
        "{resnet}, {all}",
    ),
)


def models(scale: str) -> list[str]:
    """One model of each family."""
    if scale == "full":
        return ["ViT-B/32", "BiT-R50x1"]
    trained = data_size.model_arms(scale)
    return [model for model in (VIT, HYBRID, RESNET) if model in trained]


def arms(scale: str) -> dict[str, Arm]:
    """The arms of these models in `data_size`."""
    chosen = models(scale)
    return {
        name: arm
        for name, arm in data_size.pretraining(scale).items()
        if any(name == label(model, s) for model in chosen for s in SHARES[scale])
    }


def profiles(results: RunResults) -> dict[str, list[Profile]]:
    """The profiles of each seed, by arm; also those of each model before training."""
    found = {
        arm: [trained_profile(folder) for folder in folders]
        for arm, folders in results.runs.items()
    }
    for model in models(results.scale):
        folders = results.runs[label(model)]
        found[f"{model}, {START}"] = [initial_profile(f) for f in folders]
    return found


def values_of(found: dict[str, list[Profile]], measure: str) -> Values:
    """The values of a measure in each seed, by arm; arms without it are left out.

    Accuracy before training is left out too: all classes are equally likely then.
    """
    return {
        arm: [profile[measure] for profile in rows if measure in profile]
        for arm, rows in found.items()
        if any(measure in profile for profile in rows)
        and not (arm.endswith(START) and measure.startswith("accuracy"))
    }


def conclude(results: RunResults) -> Conclusion:
    """Each measure against the amount of data."""
    scale, found = results.scale, profiles(results)
    shares = SHARES[scale]
    values = {title: values_of(found, name) for title, name in MEASURES.items()}
    # No data is drawn at a third of the least amount, since the axis is logarithmic.
    places = [shares[0] / 3, *shares]
    names = {
        model: [f"{model}, {START}", *(label(model, s) for s in shares)]
        for model in models(scale)
    }
    cells = {
        title: {
            model: [of_arm.get(arm, []) for arm in arms]
            for model, arms in names.items()
            if of_arm.keys() & set(arms)
        }
        for title, of_arm in values.items()
    }
    columns = ["before training", *(f"{share} % of the data" for share in shares)]
    panels, tables = curves_and_tables(cells, places, columns)
    ticks = {places[0]: "none"} | {share: f"{share} %" for share in shares}
    figures.lines(
        panels,
        results.folder / "bias_profile.png",
        x_label="data of the pre-training",
        y_label="",
        columns=2,
        ticks=ticks,
    )
    by_name = {name: values[title] for title, name in MEASURES.items()}
    return Conclusion(
        tables=tables,
        figures=[
            Figure(
                "Bias profile of ViT, hybrid and ResNet by the amount of data",
                ours="bias_profile.png",
            )
        ],
        claims=claims(scale, by_name),
        notes=NOTES,
    )


def curves_and_tables(
    cells: dict[str, dict[str, list[list[float]]]],
    places: list[float],
    columns: list[str],
) -> tuple[dict[str, list[Series]], list[Table]]:
    """A panel and a table for each measure.

    Args:
        cells: values over seeds at each place, by title of the measure and model.
        places: on the x axis.
        columns: names of the places in the tables.
    """
    panels = {
        title: [
            figures.over_seeds(m, places, row, factor=1, family=figure_family(m))
            for m, row in rows.items()
        ]
        for title, rows in cells.items()
    }
    tables = [
        Table(
            caption=title,
            columns=["model", *columns],
            rows=[[model, *map(mean_cell, row)] for model, row in rows.items()],
        )
        for title, rows in cells.items()
    ]
    return panels, tables


def claims(scale: str, values: dict[str, Values]) -> list[Claim]:
    """What section 3.1 says, and what follows from it, each as one contrast."""
    vit, *_, resnet = models(scale)
    names = {"vit": vit, "resnet": resnet, "none": START}
    names |= {"little": f"{SHARES[scale][0]} %", "all": f"{SHARES[scale][-1]} %"}
    found = []
    for text, difference, measure, plus, minus, direction in COMPARISONS:
        weights = {plus.format(**names): 1.0, minus.format(**names): -1.0}
        side = "above" if direction == ">" else "below"
        rule = f"{difference.format(**names)}: the whole 95 % interval is {side} 0"
        interval = contrast(values[measure], weights)
        found.append(judged(text, rule, interval, direction, unit="", factor=1))
    return found


NOTES = (
    "Equivariance is that of the last layer of each model whose grid is 8 x 8, when "
    "the image is moved by one place of that grid: round the border, which is a "
    "symmetry of everything in a ViT but its positions, and which a CNN's zero "
    "padding marks; and on grey, where nothing leaves the image. The Lie derivative "
    "is of moves within a pixel, to which neither is equivariant, since both skip "
    "pixels. Networks before training have no classes, so that accuracies and "
    "consistency begin after "
    "it. At mini a run has 25,600 examples whatever the amount of data: what more "
    "data add is seen here, what more steps add in `learned_bias`. After the results "
    "at mini were seen, the first claim was reworded (its rule is the same), "
    "accuracies before training were left out, and so was consistency under shifts, "
    "whose moves were of other lengths for each model."
)


EXPERIMENT = Experiment(
    item="Section 3.1",
    title="The bias profile: what each architecture knows, and what data add",
    question="What does an architecture know before it has seen any data, and how does "
    "that change with data?",
    conclude=conclude,
    arms=arms,
)

if __name__ == "__main__":
    main(EXPERIMENT)
