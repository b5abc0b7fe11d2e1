"""How fast does a ViT learn what a CNN is given?

Not in the paper, which shows trained models only (Figs. 7 and 11): locality, 2-D
structure and equivariance along the training, at initialisation and at eight steps of
one run, for a ViT, a hybrid and a ResNet on all the data.

mini: 3 models, 3 seeds at 25 seconds, 4 minutes of two CPU cores, and 6 of measuring.
Steps of one run are compared within it.
"""

from pathlib import Path

import numpy as np

from experiments import data_size
from experiments.bias_profile import curves_and_tables, models
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.measures import array_of_run
from experiments.lab.profiles import Profile, initial_profile, trained_profile
from experiments.lab.records import Claim, Conclusion, Figure, claim_level, judged
from vit_jax.checkpoints.store import Checkpoints

# Images: half as many as in `bias_profile`, as there are three times the profiles.
COUNT = 64
KEPT = {"smoke": "50%", "mini": "12.5%", "small": "12.5%", "full": "12.5%"}
POSITIONS = "positions/rank_correlation"
MEASURES = {
    "attention distance, share of uniform attention's": "attention_ratio/mean",
    "the most local head's": "attention_ratio/min",
    "positions: rank correlation with nearness": POSITIONS,
    "receptive field, share of the whole image's": "receptive_field/rms_ratio",
    "equivariance error, moved in a circle (none: 2)": "equivariance/circular/"
    "whole/grid_8",
    "equivariance error, moved on grey (none: 2)": "equivariance/grey/whole/grid_8",
    "test accuracy": "accuracy",
}


def arms(scale: str) -> dict[str, Arm]:
    """Runs on all the data that keep checkpoints along the way."""
    keep = {"checkpoint.every": KEPT[scale], "checkpoint.keep_every": KEPT[scale]}
    pretraining = data_size.model_arms(scale)
    return {
        model: pretraining[model]._replace(changes=pretraining[model].changes | keep)
        for model in models(scale)
    }


def conclude(results: RunResults) -> Conclusion:
    """Each measure against the step."""
    found = {model: courses(results, model) for model in models(results.scale)}
    steps = next(iter(found.values()))[0]
    cells = {
        title: {
            model: [[row[i][measure] for row in seeds] for i in range(len(steps))]
            for model, (_, seeds) in found.items()
            if all(measure in profile for row in seeds for profile in row)
        }
        for title, measure in MEASURES.items()
    }
    columns = [f"step {step}" for step in steps]
    panels, tables = curves_and_tables(cells, steps, columns)
    figures.lines(
        panels,
        results.folder / "learned_bias.png",
        x_label="step",
        y_label="",
        columns=2,
        log_x=False,
    )
    return Conclusion(
        tables=tables,
        figures=[Figure("Biases along the training", ours="learned_bias.png")],
        claims=claims(found, results.scale),
        notes=NOTES,
    )


def courses(results: RunResults, model: str) -> tuple[list[int], list[list[Profile]]]:
    """Steps, beginning with 0, and for each seed its profiles at these steps."""
    found = [course(folder) for folder in results.runs[model]]
    return found[0][0], [profiles for _, profiles in found]


def course(folder: Path) -> tuple[list[int], list[Profile]]:
    """The steps whose checkpoints a run keeps, beginning with 0, and its profiles."""

    def kept_steps() -> np.ndarray:
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        steps = list(checkpoints.steps)
        checkpoints.close()
        return np.array(steps)

    steps = array_of_run(folder / "steps.json", kept_steps).tolist()
    return [0, *steps], [
        initial_profile(folder, count=COUNT),
        *(trained_profile(folder, step=step, count=COUNT) for step in steps),
    ]


def claims(
    found: dict[str, tuple[list[int], list[list[Profile]]]], scale: str
) -> list[Claim]:
    """The claims that the ViT's biases appear, and do so in the first half."""
    vit = models(scale)[0]
    steps, seeds = found[vit]
    places = {
        "start": 0,
        "half": int(np.searchsorted(steps, steps[-1] / 2)),
        "end": len(steps) - 1,
    }
    result = []
    for text, measure, sign in (
        ("The most local head becomes more local", "attention_ratio/min", -1),
        ("Positions learn the plane", POSITIONS, 1),
        ("It becomes more equivariant on grey", "equivariance/grey/whole/grid_8", -1),
    ):
        headline = measure == POSITIONS
        values = {
            name: [sign * row[i][measure] for row in seeds]
            for name, i in places.items()
        }
        gain = contrast(
            values,
            {"end": 1, "start": -1},
            paired=True,
            level=claim_level(headline=headline),
        )
        early = contrast(values, {"half": 2, "start": -1, "end": -1}, paired=True)
        result += [
            judged(
                f"{text} ({vit})",
                "change from initialisation to the end, positive in the direction "
                "claimed",
                gain,
                unit="",
                factor=1,
                headline=headline,
            ),
            judged(
                f"{text} mostly in the first half of the training ({vit})",
                "change in the first half minus that in the second, positive in the "
                "direction claimed",
                early,
                unit="",
                factor=1,
            ),
        ]
    return result


NOTES = (
    "The learning rate falls as a cosine, so that less can change in the second half. "
    "The first step that is kept is an eighth of the run."
)


EXPERIMENT = Experiment(
    item="Section 4.5",
    title="How fast biases are learned",
    question="How fast does a ViT learn what a CNN is given?",
    conclude=conclude,
    arms=arms,
    measure=course,
)

if __name__ == "__main__":
    main(EXPERIMENT)
