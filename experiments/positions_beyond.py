"""Which positions hold beyond the resolution of the training?

Appendix D.4 of the paper compares positions at one resolution; section 3.2 interpolates
learned ones for a higher one, and trains on. Here nothing is trained on. A ViT learns
objects of 16 pixels that stand anywhere on a grey canvas of 32 (`data.object_size`) and
is tested on canvases of 1, 2, 3 and 4 times the side: with objects of the same pixels,
where only the place is new, and with objects that grow with the canvas, as photographs
of a higher resolution do.

Arms: no positions, learned, sines and cosines, relative (a table of offsets, and an MLP
of them) and rotary ones (centred coordinates, and indices). On a larger grid the first
of each pair below is what the library does by default:

    stretched  learned, relative table, rotary centred: the ends of the grid stay the
               ends, and neighbours come nearer to each other
    continued  sines and cosines, relative MLP, rotary index: neighbours stay as far
               apart as they were, and new offsets are extrapolated

Measure: test accuracy on the first `IMAGES` of the test split, all at one place that
depends on the image alone; what is kept is its ratio to that on the canvas of the
training, of the same run.
Criteria: each is the interval over seeds of one weighted sum of arms, which are
independent runs, at 95 % or the level of a headline.

mini: 7 arms of 3 seeds at 25 seconds, 9 minutes of two CPU cores, and the tests, most
of them on the largest canvas. medium: 3 seeds at 20 minutes, 7 hours. small: 3 seeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.measures import of_run, scale_of
from experiments.lab.records import (
    Claim,
    Conclusion,
    Figure,
    Table,
    claim_level,
    judged,
)
from experiments.lab.statistics import Interval
from experiments.lab.tables import mean_cell
from vit_jax.evaluation.classification import evaluate_run
from vit_jax.evaluation.outcomes import summary
from vit_jax.interop.trained import load_trained

NONE, LEARNED, SINES = "none", "learned", "sines and cosines"
TABLE, MLP = "relative, table", "relative, MLP"
CENTRED, INDEX = "rotary, centred", "rotary, index"
POSITIONS = {
    NONE: {"model.positions": "none"},
    LEARNED: {},
    SINES: {"model.positions": "sincos2d"},
    TABLE: {"model.positions": "relative_bias"},
    MLP: {"model.positions": "relative_mlp"},
    CENTRED: {"model.positions": "rope2d"},
    INDEX: {"model.positions": "rope2d", "model.rope_coordinates": "index"},
}
STRETCHED, CONTINUED = (LEARNED, TABLE, CENTRED), (SINES, MLP, INDEX)
# These are enough to test the code, as each takes seconds to compile.
SMOKE = (NONE, LEARNED, CENTRED, INDEX)
CANVAS, OBJECT = 32, 16  # pixels a side, in training
# Sides of the canvas in the test, in units of that of the training.
FACTORS = {"smoke": (1, 2), "mini": (1, 2, 3, 4)}
FACTORS |= dict.fromkeys(("medium", "small"), FACTORS["mini"])
IMAGES = {"smoke": 300, "mini": 500, "medium": 2000, "small": 10_000}
SAME, GROWN = "objects of the same pixels", "objects that grow with the canvas"
# Images at a time on the canvas of the training; attention takes the fourth power.
BATCH = 256
Values = Mapping[str, Sequence[float]]


class Comparison(NamedTuple):
    """A claim about what arms keep on the largest canvas.

    Attributes:
        plus, minus: the arms whose means are compared.
        reading: of the test.
        direction: the sign that is claimed.
    """

    claim: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    reading: str = SAME
    direction: Literal[">", "<"] = ">"
    headline: bool = False


COMPARISONS = (
    Comparison(
        "Rotary positions of indices outlast centred ones",
        (INDEX,),
        (CENTRED,),
        headline=True,
    ),
    Comparison("Rotary positions outlast learned ones", (INDEX,), (LEARNED,)),
    Comparison("Relative positions outlast learned ones", (TABLE, MLP), (LEARNED,)),
    Comparison(
        "Where objects keep their pixels, continued positions outlast stretched ones",
        CONTINUED,
        STRETCHED,
    ),
    Comparison(
        "Where objects grow with the canvas, stretched positions outlast continued "
        "ones",
        STRETCHED,
        CONTINUED,
        GROWN,
    ),
    Comparison("Without positions least is lost", (NONE,), (*STRETCHED, *CONTINUED)),
)


def arms(scale: str) -> dict[str, Arm]:
    """The ViT of the laboratory with each kind of positions, on all ten classes."""
    config = f"configs/lab.py:family=vit,scale={scale},classes=all"
    return {
        name: Arm(config, {"data.object_size": OBJECT} | POSITIONS[name])
        for name in (SMOKE if scale == "smoke" else POSITIONS)
    }


def accuracies(folder: Path) -> dict[str, float]:
    """Test accuracy of a run on each canvas, by `key`; measured once and kept."""
    scale = scale_of(folder)
    count = IMAGES[scale]

    def measure() -> dict[str, float]:
        found = {}
        for factor in FACTORS[scale]:
            side = CANVAS * factor
            run = load_trained(folder, image_size=side)
            for reading in readings(factor):
                data = dataclasses.replace(
                    run.data,
                    object_size=OBJECT * (factor if reading == GROWN else 1),
                    split=f"test[:{count}]",
                )
                batch = max(1, BATCH // factor**4)
                outcomes, _, _ = evaluate_run(run, data, batch_size=batch)
                accuracy = summary(outcomes, run.model.num_classes)["accuracy"]
                found[key(reading, factor)] = accuracy
        return found

    return of_run(folder / f"beyond_{max(FACTORS[scale])}_{count}.json", measure)


def readings(factor: int) -> tuple[str, ...]:
    """The tests on a canvas; on that of the training both are one."""
    return (SAME,) if factor == 1 else (SAME, GROWN)


def key(reading: str, factor: int) -> str:
    """The name of a test."""
    return f"{SAME if factor == 1 else reading}, {factor}"


def conclude(results: RunResults) -> Conclusion:
    """Accuracy by the side of the canvas, and what is kept of it."""
    scale, factors = results.scale, FACTORS[results.scale]
    found = {
        name: [accuracies(folder) for folder in results.runs[name]]
        for name in arms(scale)
    }
    panels = {
        reading: [
            figures.over_seeds(
                name,
                factors,
                [[run[key(reading, factor)] for run in runs] for factor in factors],
            )
            for name, runs in found.items()
        ]
        for reading in (SAME, GROWN)
    }
    figures.lines(
        panels,
        results.folder / "positions_beyond.png",
        x_label="side of the canvas, in units of the training's",
        y_label="accuracy (%)",
        log_x=False,
        ticks={factor: str(factor) for factor in factors},
        reference=(10.0, "chance"),
    )
    tables = [
        Table(
            f"Test accuracy (%) by the side of the canvas, {reading}",
            columns=["positions", *(f"{factor} x" for factor in factors)],
            rows=[
                [
                    name,
                    *(
                        mean_cell([run[key(reading, factor)] for run in runs], 100)
                        for factor in factors
                    ),
                ]
                for name, runs in found.items()
            ],
        )
        for reading in (SAME, GROWN)
    ]
    return Conclusion(
        tables=tables,
        figures=[
            Figure(
                "Accuracy beyond the canvas of the training, by kind of positions",
                ours="positions_beyond.png",
            )
        ],
        claims=claims(found, factors[-1]),
        notes=NOTES,
    )


def claims(found: Mapping[str, list[dict[str, float]]], factor: int) -> list[Claim]:
    """Positions help where they were learned, and which of them help beyond."""
    first = {name: [run[key(SAME, 1)] for run in runs] for name, runs in found.items()}
    others = tuple(name for name in found if name != NONE)
    result = [
        judged(
            "On the canvas of the training positions help",
            "test accuracy: mean of all others minus none",
            difference(first, others, (NONE,)),
        )
    ]
    for text, plus, minus, reading, direction, headline in COMPARISONS:
        plus, minus = (tuple(x for x in y if x in found) for y in (plus, minus))
        if not plus or not minus:
            continue  # at smoke
        shares = {
            name: [run[key(reading, factor)] / run[key(SAME, 1)] for run in runs]
            for name, runs in found.items()
        }
        quantity = (
            f"share of the accuracy kept at {factor} times the side, {reading}: "
            f"{' and '.join(plus)} minus {' and '.join(minus)}"
        )
        interval = difference(shares, plus, minus, claim_level(headline=headline))
        result.append(judged(text, quantity, interval, direction, headline=headline))
    return result


def difference(
    values: Values, plus: Sequence[str], minus: Sequence[str], level: float = 0.95
) -> Interval:
    """The mean of some arms minus that of others."""
    weights = {name: 1 / len(plus) for name in plus}
    weights |= {name: -1 / len(minus) for name in minus}
    return contrast(values, weights, level=level)


NOTES = (
    "Positions are not the only thing that is new on a larger canvas: the mean over "
    "all patches, which the head reads, is of more grey, and attention is spread over "
    "more tokens. The arm without positions has only that, so that what an arm loses "
    "beyond it is its positions' own. Objects that grow also have other patches, as "
    "they are enlarged by the canvas' factor from images of 32 pixels. Learned tables, "
    "of places and of offsets, are interpolated with the corners on the corners, as in "
    "section 3.2. On the canvas of the training the two rotary arms differ in this "
    "alone: centred coordinates turn 1.6 times as far from patch to patch as indices "
    "do. All arms are tested on the same images at the same places, and intervals are "
    "over seeds: that of other images is not in them."
)


EXPERIMENT = Experiment(
    item="Section 3.2, D.4",
    title="Positions beyond the resolution of the training",
    question="Which positions hold beyond the resolution of the training?",
    conclude=conclude,
    arms=arms,
    measure=accuracies,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
