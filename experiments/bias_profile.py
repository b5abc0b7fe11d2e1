"""What does each architecture know before it has seen data, and what do data add?

Not in the paper: its section 3.1 says that ViTs have much less image-specific inductive
bias than CNNs, and section 4.3 that data replace it; neither is measured there. Here
locality (effective receptive field, attention distance), 2-D structure (positions, what
shuffled blocks cost) and translation (equivariance in a circle, on grey and between
crops, by whole and half places; Lie derivative) of a ViT, a hybrid and a ResNet, at
initialisation, after equal training on parts of the data, and with a strong recipe.

The runs on parts of the data are those of `data_size`; the strong recipe adds an arm
for each model. medium: 3 models, 3 amounts, 2 recipes, 3 seeds: 9 to 18 hours of two
CPU cores, and 20 minutes of measuring. Formulas, results and limits: docs/bias.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from experiments import data_size
from experiments.data_size import HYBRID, RESNET, SHARES, VIT, figure_family, label
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import WITH_MEDIUM, Arm, Experiment, RunResults
from experiments.lab.profiles import Profile, initial_profile, trained_profile
from experiments.lab.records import (
    Claim,
    Conclusion,
    Figure,
    Table,
    claim_level,
    criterion,
    judged,
)
from experiments.lab.tables import mean_cell
from vit_jax.figures.style import Series

START, STRONG = "none", "strong recipe"
# Of the test set: shares of accuracy vary by two points with the choice of so many.
IMAGES = 512
# The three parts of arXiv 2605.16390's protocols, all at once.
RECIPE = {
    "mix.cutmix_alpha": 1.0,
    "loss.label_smoothing": 0.1,
    "data.randaug_layers": 2,
    "data.randaug_magnitude": 9.0,
    "data.randaug_variant": "intended",
}
# The name in the profile of each measure, by its title in the report. Models are
# compared at equal grids: 8 x 8 is the ViT's and that of a ResNet's first stage.
FIELD, NEAREST = "receptive_field/rms_ratio", "attention_ratio/min"
POSITIONS, SHUFFLED = "positions/rank_correlation", "accuracy_kept/shuffled_4x4"
# Side in pixels of the canvas on which all stages of a ResNet have grids of 4 x 4 and
# more, and most places are far from the border.
SIDE = 128
CANVAS = f"canvas_{SIDE}/"
CIRCLE = "equivariance/circular/whole/grid_8"
GREY = "equivariance/grey/whole/grid_8"
CROPS = "equivariance/crops/whole/grid_8"
WIDE = f"{CANVAS}equivariance/crops/whole/grid_32"
HALF, LIE = "equivariance/grey/part/grid_8", "lie_derivative/grid_8"
MEASURES = {
    "receptive field, share of the whole image's": FIELD,
    "attention distance, share of uniform attention's": "attention_ratio/mean",
    "the most local head's": NEAREST,
    "positions: rank correlation with nearness": POSITIONS,
    "accuracy above chance kept when 4 x 4 blocks are shuffled": SHUFFLED,
    "equivariance error, in a circle, whole places (none: 2)": CIRCLE,
    "on grey, whole places": GREY,
    "between crops, whole places": CROPS,
    f"between crops of {SIDE} pixels, whole places": WIDE,
    "on grey, half places": HALF,
    "Lie derivative": LIE,
    "accuracy": "accuracy",
}
Values = dict[str, list[float]]


class Comparison(NamedTuple):
    """A claim about a weighted sum of a measure over arms: that it has this sign.

    Attributes:
        quantity: the sum in words, for the criterion.
        arms: weights by arm, with models and amounts of data to be filled in.
        paired: whether the arms are the same runs, before and after training.
        headline: whether it is among the findings, which are corrected together.
    """

    claim: str
    quantity: str
    measure: str
    arms: Mapping[str, float]
    direction: Literal[">", "<"] = ">"
    paired: bool = False
    headline: bool = False


def minus(plus: str, other: str) -> dict[str, float]:
    """The weights of a difference between two arms."""
    return {plus: 1.0, other: -1.0}


VIT_MINUS_RESNET = {
    when: minus(f"{{vit}}, {{{when}}}", f"{{resnet}}, {{{when}}}")
    for when in ("none", "little", "all")
}
LEARNED = minus("{vit}, {all}", "{vit}, {none}")
BY_DATA = minus("{vit}, {all}", "{vit}, {little}")
BY_RECIPE = minus("{vit}, {strong}", "{vit}, {all}")
COMPARISONS = (
    Comparison(
        "Before training a ViT looks further than a ResNet",
        "receptive field before training: ViT minus ResNet",
        FIELD,
        VIT_MINUS_RESNET["none"],
        headline=True,
    ),
    Comparison(
        "With all the data a ViT still looks further than a ResNet",
        "receptive field with all the data: ViT minus ResNet",
        FIELD,
        VIT_MINUS_RESNET["all"],
    ),
    Comparison(
        "A ViT learns to look near",
        "distance of its most local head: with all the data minus before training",
        NEAREST,
        LEARNED,
        "<",
        paired=True,
    ),
    Comparison(
        "More data make a ViT look nearer",
        "distance of its most local head: with all the data minus with {little}",
        NEAREST,
        BY_DATA,
        "<",
        headline=True,
    ),
    Comparison(
        "A strong recipe makes a ViT look nearer",
        "distance of its most local head: strong recipe minus plain, all the data",
        NEAREST,
        BY_RECIPE,
        "<",
        headline=True,
    ),
    Comparison(
        "Positions learn the plane",
        "rank correlation with nearness: with all the data minus before training",
        POSITIONS,
        LEARNED,
        paired=True,
    ),
    Comparison(
        "More data teach the positions more of the plane",
        "rank correlation with nearness: with all the data minus with {little}",
        POSITIONS,
        BY_DATA,
    ),
    Comparison(
        "A ViT depends less on the arrangement of the parts than a ResNet",
        "share of the accuracy above chance kept under shuffling, all the data: ViT "
        "minus ResNet",
        SHUFFLED,
        VIT_MINUS_RESNET["all"],
        headline=True,
    ),
    Comparison(
        "With more data a ViT depends more on the arrangement of the parts",
        "share of its accuracy above chance kept under shuffling: all the data minus "
        "{little}",
        SHUFFLED,
        BY_DATA,
        "<",
    ),
    Comparison(
        "In a circle a ViT before training is more equivariant than a ResNet",
        "error by whole places in a circle before training: ViT minus ResNet",
        CIRCLE,
        VIT_MINUS_RESNET["none"],
        "<",
    ),
    Comparison(
        "On grey a ResNet before training is more equivariant than a ViT",
        "error by whole places on grey before training: ViT minus ResNet",
        GREY,
        VIT_MINUS_RESNET["none"],
    ),
    Comparison(
        "On grey with all the data the ResNet still is",
        "error by whole places on grey with all the data: ViT minus ResNet",
        GREY,
        VIT_MINUS_RESNET["all"],
    ),
    Comparison(
        "With all the data a ResNet follows crops better than a ViT",
        "error by whole places between crops with all the data: ViT minus ResNet",
        CROPS,
        VIT_MINUS_RESNET["all"],
        headline=True,
    ),
    Comparison(
        "Far from the border it follows them better",
        f"error by whole places between crops of {SIDE} pixels with all the data: ViT "
        "minus ResNet",
        WIDE,
        VIT_MINUS_RESNET["all"],
        headline=True,
    ),
    Comparison(
        "More data make a ViT more equivariant",
        "its error by whole places between crops: with all the data minus {little}",
        CROPS,
        BY_DATA,
        "<",
    ),
    Comparison(
        "By half places too the ResNet is more equivariant",
        "error by half places on grey with all the data: ViT minus ResNet",
        HALF,
        VIT_MINUS_RESNET["all"],
    ),
    Comparison(
        "So it is for the smallest moves",
        "Lie derivative with all the data: ViT minus ResNet",
        LIE,
        VIT_MINUS_RESNET["all"],
    ),
    Comparison(
        "The ResNet's lead in accuracy shrinks with data",
        "accuracy, ResNet minus ViT: with {little} minus with all the data",
        "accuracy",
        {arm: -w for arm, w in VIT_MINUS_RESNET["little"].items()}
        | VIT_MINUS_RESNET["all"],
        headline=True,
    ),
)


def models(scale: str) -> list[str]:
    """One model of each family."""
    if scale == "full":
        return ["ViT-B/32", "BiT-R50x1"]
    trained = data_size.model_arms(scale)
    return [model for model in (VIT, HYBRID, RESNET) if model in trained]


def strong(model: str) -> str:
    """The arm of a model with the strong recipe."""
    return f"{model}, {STRONG}"


def arms(scale: str) -> dict[str, Arm]:
    """The arms of these models in `data_size`, and those of the strong recipe."""
    chosen, pretraining = models(scale), data_size.pretraining(scale)
    least, *between, most = SHARES[scale]
    # What the claims compare comes first: at medium the runs take days.
    found = {
        label(m, s): pretraining[label(m, s)] for s in (most, least) for m in chosen
    }
    for model in chosen:
        arm = pretraining[label(model)]
        found[strong(model)] = arm._replace(changes=arm.changes | RECIPE)
    rest = {label(m, s): pretraining[label(m, s)] for s in between for m in chosen}
    return found | rest


def measure_arm(arm: str, folder: Path) -> None:
    """Makes the profiles of a run that `profiles` reads."""
    trained_profile(folder, count=IMAGES)
    if arm.endswith(label("")):
        initial(folder)
        on_canvas(folder)


def initial(folder: Path) -> Profile:
    """The profile of a run before training, which depends on its model and seed only.

    So it is made of the runs on all the data with the plain recipe alone.
    """
    wide = initial_profile(folder, canvas=SIDE)
    return initial_profile(folder, count=IMAGES) | prefixed(wide)


def on_canvas(folder: Path) -> Profile:
    """What is added to the profile of such a run after training."""
    return prefixed(trained_profile(folder, canvas=SIDE))


def prefixed(profile: Profile) -> Profile:
    """The measures of the canvas by their names among the others."""
    return {f"{CANVAS}{name}": value for name, value in profile.items()}


def profiles(results: RunResults) -> dict[str, list[Profile]]:
    """The profiles of each seed, by arm; also those of each model before training."""
    found: dict[str, list[Profile]] = {}
    for arm, folders in results.runs.items():
        found[arm] = [trained_profile(folder, count=IMAGES) for folder in folders]
    for model in models(results.scale):
        folders = results.runs.get(label(model), [])
        found[f"{model}, {START}"] = [initial(folder) for folder in folders]
        for profile, folder in zip(found.get(label(model), []), folders, strict=True):
            profile |= on_canvas(folder)
    return found


def values_of(found: dict[str, list[Profile]], name: str) -> Values:
    """The values of a measure in each seed, by arm; arms without it are left out.

    Shares of accuracy before training are too: all classes are equally likely then.
    """
    return {
        arm: [profile[name] for profile in rows if name in profile]
        for arm, rows in found.items()
        if any(name in profile for profile in rows)
        and not (arm.endswith(START) and name.startswith("accuracy"))
    }


def conclude(results: RunResults) -> Conclusion:
    """Each measure against the amount of data and by recipe."""
    scale, found = results.scale, profiles(results)
    shares = SHARES[scale]
    values = {title: values_of(found, name) for title, name in MEASURES.items()}
    values["accuracy"] = {arm: results.accuracy(arm) for arm in results.runs}
    # No data is drawn at a third of the least amount, since the axis is logarithmic,
    # and the strong recipe beyond all the data.
    places = [shares[0] / 3, *shares, 3 * shares[-1]]
    names = {
        model: [f"{model}, {START}", *(label(model, s) for s in shares), strong(model)]
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
    panels, tables = curves_and_tables(cells, places, [*columns, STRONG])
    ticks = {places[0]: "none", places[-1]: "strong"}
    figures.lines(
        panels,
        results.folder / "bias_profile.png",
        x_label="data of the pre-training",
        y_label="",
        columns=2,
        ticks=ticks | {share: f"{share} %" for share in shares},
    )
    by_name = {name: values[title] for title, name in MEASURES.items()}
    return Conclusion(
        tables=[*tables, by_grid(scale, found)],
        figures=[
            Figure(
                "Bias of ViT, hybrid and ResNet by the amount of data, and with a "
                "strong recipe on all of it",
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


def by_grid(scale: str, found: dict[str, list[Profile]]) -> Table:
    """Errors between crops of the canvas, of all stages of a ResNet."""
    sides = (32, 16, 8)
    names = [f"{CANVAS}equivariance/crops/whole/grid_{side}" for side in sides]
    times = {START: "before training", f"{SHARES[scale][-1]} %": "after it"}
    return Table(
        f"Equivariance error by whole places between crops of {SIDE} pixels, of the "
        "last layer of each grid: all layers of a ViT have one grid, the stages of a "
        "ResNet three",
        columns=["model", "", *(f"{side} x {side} places" for side in sides)],
        rows=[
            [model, words]
            + [mean_cell(values_of(found, name).get(arm, [])) for name in names]
            for model in models(scale)
            for time, words in times.items()
            for arm in [f"{model}, {time}"]
        ],
    )


class Rule(NamedTuple):
    """A comparison at one scale."""

    comparison: Comparison
    quantity: str
    weights: dict[str, float]
    level: float


def rules(scale: str) -> list[Rule]:
    """The comparisons with the arms and the level of their intervals."""
    vit, *_, resnet = models(scale)
    names = {"vit": vit, "resnet": resnet, "none": START, "strong": STRONG}
    names |= {"little": f"{SHARES[scale][0]} %", "all": f"{SHARES[scale][-1]} %"}
    return [
        Rule(
            comparison=one,
            quantity=one.quantity.format(**names),
            weights={arm.format(**names): weight for arm, weight in one.arms.items()},
            level=claim_level(headline=one.headline),
        )
        for one in COMPARISONS
    ]


def criteria(scale: str) -> list[str]:
    """The claims and their rules, as they are written down before the runs."""
    return [
        f"{rule.comparison.claim}. "
        + criterion(rule.quantity, rule.level, rule.comparison.direction)
        for rule in rules(scale)
    ]


def claims(scale: str, values: dict[str, Values]) -> list[Claim]:
    """What section 3.1 says, and what follows from it, each as one contrast.

    A measure that is not defined for the models of a scale (the digits of smoke have
    grids below 4 x 4) has no claim.
    """
    return [
        judged(
            rule.comparison.claim,
            rule.quantity,
            contrast(
                values[rule.comparison.measure],
                rule.weights,
                paired=rule.comparison.paired,
                level=rule.level,
            ),
            rule.comparison.direction,
            unit="",
            factor=1,
            headline=rule.comparison.headline,
        )
        for rule in rules(scale)
        if rule.weights.keys() <= values[rule.comparison.measure].keys()
    ]


NOTES = (
    "Equivariance and the Lie derivative are of the last layer whose grid has 8 x 8 "
    "places: all of a ViT's and a hybrid's, the first stage of a ResNet. In a circle, "
    "what leaves the image comes in on the other side, which suits patches; on grey "
    "the image fades towards the border and nothing leaves it, which suits zero "
    "padding; its blank places do not count. Between two crops of an image and its "
    "mirror images, of places that both show, there is neither seam nor blank; zero "
    "padding still shows a ResNet where the border is, which at 32 pixels every place "
    "of the later stages sees, and at 128 few of the first do. Networks before "
    "training have no classes, so that accuracies begin after it. All runs of a scale "
    "see equally many examples, whatever the amount of data; the strong recipe is "
    "CutMix, label smoothing and RandAugment on all the data."
)


EXPERIMENT = Experiment(
    item="Section 3.1",
    title="The bias profile: what each architecture knows, and what data add",
    question="What does an architecture know before it has seen any data, and how do "
    "data and the recipe change that?",
    conclude=conclude,
    arms=arms,
    measure_arm=measure_arm,
    criteria=criteria,
    seeds=WITH_MEDIUM,
)

if __name__ == "__main__":
    main(EXPERIMENT)
