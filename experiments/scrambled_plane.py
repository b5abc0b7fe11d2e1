"""What is the 2-D prior of a CNN worth, and is it worth less with more data?

Section 4.3 of the paper says that large-scale training trumps inductive bias. Here the
bias is made worthless and nothing else is changed: all images, of training and test,
are scrambled by one fixed permutation, of their patches, of the pixels in each patch,
or of both (`vit_jax/data/scramble.py`). What a family loses by it is the worth of what
it was built to know of the plane. A ViT with learned positions must not lose anything:
with its rows permuted alike it is the same function, and its random start knows no
order. A ResNet sees neighbours that are none; a hybrid has both parts.

Arms: ViT, hybrid and ResNet of about equal compute, on all ten classes, plain and
with `both` at each amount of data; `patches` and `pixels` alone at all the data. The
patches are those of the ViT.
Measure: test accuracy at the end; lost accuracy is that of the plain arm minus that of
the scrambled one, in points, independent runs.
Criteria: each is the interval over seeds of one weighted sum of arms, at 95 % or the
level of a headline. The ViT's loss has to be smaller, whatever its sign, than a quarter
of the ResNet's, whose noise is in the interval too.

mini: 18 arms of 3 seeds at 25 seconds, 23 minutes of two CPU cores. medium: 24 arms of
3 seeds at 20 minutes, a day of two CPU cores. small: the same arms on a GPU.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.lab import MODELS
from experiments.data_size import FIGURE_FAMILIES
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast, margins
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.measures import of_run
from experiments.lab.permuted_rows import largest_change
from experiments.lab.profiles import Profile
from experiments.lab.records import (
    Claim,
    Conclusion,
    Figure,
    Table,
    claim_level,
    judged,
    judged_small,
)
from experiments.lab.tables import mean_cell
from vit_jax.data.pipeline import Data

FAMILIES = {"ViT": "vit", "hybrid": "hybrid", "ResNet": "resnet"}
PLAIN, BOTH = "plain", "both"
KINDS = ("patches", "pixels", BOTH)
# What `largest_change` returns.
CHANGES = ("largest", "deviation")
# What is permuted alone, at all the data.
SINGLE = {"smoke": (), "mini": ("patches", "pixels")}
SINGLE |= dict.fromkeys(("medium", "small"), SINGLE["mini"])
# Percent of the data.
SHARES = {"smoke": (50, 100), "mini": (10, 100)}
SHARES |= dict.fromkeys(("medium", "small"), (2, 20, 100))
# Of what the ResNet loses: more than that would be a loss of the ViT's own.
MARGIN = 0.25


def label(family: str, kind: str, share: int = 100) -> str:
    """The name of an arm."""
    return f"{family}, {kind}, {share} %"


def patch_of(scale: str) -> int:
    """The ViT's patch in pixels a side."""
    return int(MODELS[scale]["vit"]["name"].rpartition("/")[2])


def pairs(scale: str) -> list[tuple[str, int]]:
    """Each scrambling with the amount of data at which it is compared with none."""
    both = [(BOTH, share) for share in SHARES[scale]]
    return both + [(kind, 100) for kind in SINGLE[scale]]


def arms(scale: str) -> dict[str, Arm]:
    """Each family, plain and scrambled."""
    plain = [(PLAIN, share) for share in SHARES[scale]]
    return {
        label(name, kind, share): Arm(
            f"configs/lab.py:family={family},scale={scale},classes=all",
            changes(scale, kind, share),
        )
        for name, family in FAMILIES.items()
        for kind, share in plain + pairs(scale)
    }


def changes(scale: str, kind: str, share: int) -> dict[str, Any]:
    """The part of the data, and how it is scrambled."""
    part = {} if share == 100 else {"data.split": f"train[:{share}%]"}
    if kind == PLAIN:
        return part
    return part | {"data.scramble": kind, "data.scramble_patch": patch_of(scale)}


def changes_of_logits(folder: Path) -> Profile:
    """`KIND/largest` and `KIND/deviation` of `largest_change`, kept beside a run."""

    def measure() -> Profile:
        return {
            f"{kind}/{name}": value
            for kind in KINDS
            for name, value in zip(CHANGES, largest_change(folder, kind), strict=True)
        }

    return of_run(folder / "permuted_rows_v1.json", measure)


def measure_arm(arm: str, folder: Path) -> None:
    """Measures the ViT of plain images, the only one whose rows are permuted."""
    if arm == label("ViT", PLAIN):
        changes_of_logits(folder)


def conclude(results: RunResults) -> Conclusion:
    """Accuracy and lost accuracy by the amount of data, and the claims."""
    scale, shares = results.scale, SHARES[results.scale]
    accuracy = {arm: results.accuracy(arm) for arm in arms(scale)}

    def of(name: str, kind: str, share: int) -> list[float]:
        return accuracy.get(label(name, kind, share), [])

    total = Data(**dict(results.configs[label("ViT", PLAIN)].data)).num_examples()
    images = [round(total * share / 100) for share in shares]
    draw(results, accuracy, images)
    amounts = [f"{n:,}" for n in images]
    kinds = (*SINGLE[scale], BOTH)
    reached = [
        [name, kind, *(mean_cell(of(name, kind, s), 100) for s in shares)]
        for name in FAMILIES
        for kind in (PLAIN, *kinds)
    ]
    losses = [
        [name, kind, *(mean_cell(lost(accuracy, name, kind, s), 100) for s in shares)]
        for name in FAMILIES
        for kind in kinds
    ]
    exact = changes_of_logits(results.runs[label("ViT", PLAIN)][0])
    return Conclusion(
        tables=[
            Table(
                "Test accuracy (%) by the number of images",
                columns=["family", "images are", *amounts],
                rows=reached,
            ),
            Table(
                "Lost accuracy (points) by the number of images",
                columns=["family", "permuted", *amounts],
                rows=losses,
            ),
            Table(
                "A trained ViT on scrambled images, its rows permuted alike",
                columns=[
                    "permuted",
                    "largest change of a logit",
                    "standard deviation of the logits",
                ],
                rows=[
                    [kind, *(f"{exact[f'{kind}/{name}']:.1e}" for name in CHANGES)]
                    for kind in KINDS
                ],
            ),
        ],
        figures=[
            Figure(
                "Accuracy on plain images and on images whose patches and pixels are "
                "permuted, and what is lost",
                ours="scrambled_plane.png",
            )
        ],
        claims=claims(scale, accuracy),
        notes=NOTES,
    )


def lost(
    accuracy: Mapping[str, list[float]], family: str, kind: str, share: int
) -> list[float]:
    """What a family loses, in the order of the seeds; none where it was not trained.

    Raises:
        ValueError: a seed of one of the arms is not there.
    """
    plain = accuracy[label(family, PLAIN, share)]
    other = accuracy.get(label(family, kind, share))
    if other is None:
        return []
    if len(plain) != len(other):
        raise ValueError(
            f"{family}, {share} %: {len(plain)} runs on plain images and {len(other)} "
            f"on those with permuted {kind}: wanted the same seeds of both, so train "
            "those that failed again, or leave them out by --seeds"
        )
    return [a - b for a, b in zip(plain, other, strict=True)]


def draw(
    results: RunResults, accuracy: Mapping[str, list[float]], images: list[int]
) -> None:
    """Accuracy with and without the plane above, the difference below."""
    shares = SHARES[results.scale]
    lost_title = "accuracy lost to scrambled patches and pixels (points)"
    panels = {"test accuracy (%)": [], lost_title: []}
    top, bottom = panels.values()
    for name, key in FAMILIES.items():
        colour = FIGURE_FAMILIES[key]
        for kind in (PLAIN, BOTH):
            values = [accuracy[label(name, kind, share)] for share in shares]
            text = name if kind == PLAIN else f"{name}, scrambled"
            top.append(figures.over_seeds(text, images, values, family=colour))
        values = [lost(accuracy, name, BOTH, share) for share in shares]
        bottom.append(figures.over_seeds(name, images, values, family=colour))
    figures.lines(
        panels,
        results.folder / "scrambled_plane.png",
        x_label="images of the training",
        y_label="",
    )


def mean_loss(
    family: str, compared: list[tuple[str, int]], sign: float = 1.0
) -> dict[str, float]:
    """The weights of the arms whose sum is the mean of what a family loses."""
    weights: dict[str, float] = {}
    for kind, share in compared:
        for arm, way in ((PLAIN, sign), (kind, -sign)):
            name = label(family, arm, share)
            weights[name] = weights.get(name, 0.0) + way / len(compared)
    return weights


def claims(scale: str, accuracy: Mapping[str, list[float]]) -> list[Claim]:
    """Who loses what, in which order, and whether less with more data."""
    every, shares = pairs(scale), SHARES[scale]
    vit, hybrid, resnet = (mean_loss(name, every) for name in FAMILIES)
    no_vit, no_hybrid = (mean_loss(name, every, -1) for name in ("ViT", "hybrid"))
    few, whole = ([(BOTH, shares[i])] for i in (0, -1))
    amounts = f"with {shares[0]} % of the data minus with all"
    mean = "lost accuracy, mean over all scramblings and amounts of data"
    effect = {arm: MARGIN * weight for arm, weight in resnet.items()}
    less, more = margins(accuracy, vit, effect, level=claim_level(2, headline=True))
    parts = {
        str(share): [
            loss / plain
            for loss, plain in zip(
                lost(accuracy, "ResNet", BOTH, share),
                accuracy[label("ResNet", PLAIN, share)],
                strict=True,
            )
        ]
        for share in (shares[0], shares[-1])
    }

    def loses(
        text: str, quantity: str, weights: dict[str, float], headline: bool = False
    ) -> Claim:
        gap = contrast(accuracy, weights, level=claim_level(headline=headline))
        return judged(text, quantity, gap, headline=headline)

    return [
        loses(
            "Without the plane a ResNet loses accuracy",
            f"{mean}: ResNet",
            resnet,
            headline=True,
        ),
        judged_small(
            "A ViT loses nothing",
            f"{mean}: the effect, {100 * MARGIN:g} % of what the ResNet loses, minus "
            "and plus what the ViT loses",
            contrast(accuracy, effect, level=claim_level(headline=True)),
            {"effect minus loss": less, "effect plus loss": more},
            comment=f"The ViT loses "
            f"{contrast(accuracy, vit).text('points', 100, sign=True)}.",
            headline=True,
        ),
        loses(
            "A hybrid loses less than a ResNet",
            f"{mean}: ResNet minus hybrid",
            resnet | no_hybrid,
        ),
        loses(
            "A hybrid loses more than a ViT",
            f"{mean}: hybrid minus ViT",
            hybrid | no_vit,
        ),
        loses(
            "The 2-D prior is worth less with more data",
            f"accuracy that the ResNet loses to both, {amounts}",
            mean_loss("ResNet", few) | mean_loss("ResNet", whole, -1),
        ),
        *(
            loses(
                f"A ResNet loses accuracy if only {kind} are permuted",
                "lost accuracy with all the data: ResNet",
                mean_loss("ResNet", [(kind, 100)]),
            )
            for kind in SINGLE[scale]
        ),
        judged(
            "The 2-D prior is a smaller share of the accuracy with more data",
            f"share of its accuracy that the ResNet loses to both, {amounts}",
            contrast(parts, {str(shares[0]): 1.0, str(shares[-1]): -1.0}),
        ),
    ]


NOTES = (
    "That a ViT cannot tell is a theorem, so that its row tests the code: with its "
    "rows permuted a trained ViT is the same function (last table), and training from "
    "a permuted start has the same losses, but for the rounding of sums in another "
    "order (tests/experiments/test_scrambled_plane.py). Crops and flips come before "
    "the permutation, and act on the true plane for all: what they are worth is not "
    "lost. The pixels of a patch stay in it, so that `both` leaves what a grid of "
    "patches tells. Accuracy is that at the end of the training, also where a run "
    "repeats few images many times."
)


EXPERIMENT = Experiment(
    item="Section 4.3",
    title="The scrambled plane: what the 2-D prior is worth",
    question="What is the 2-D prior of a CNN worth, and is it worth less with more "
    "data?",
    conclude=conclude,
    arms=arms,
    measure_arm=measure_arm,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
