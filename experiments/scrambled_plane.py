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
Criteria: written before the first run; each is the 95 % interval over seeds of one
weighted sum of arms. The ViT's loss has to lie within a quarter of the ResNet's.

mini: 18 arms of 3 seeds at 25 seconds, 23 minutes of two CPU cores. medium: 24 arms of
3 seeds at 20 minutes, a day of two CPU cores. small: the same arms on a GPU.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from configs.lab import MODELS
from experiments.data_size import FIGURE_FAMILIES
from experiments.lab import figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.profiles import test_images
from experiments.lab.records import Claim, Conclusion, Figure, Table, judged
from experiments.lab.tables import mean_cell
from vit_jax.data.pipeline import Data
from vit_jax.data.scramble import patch_order, pixel_order, scrambled
from vit_jax.interop.trained import load_trained
from vit_jax.models.pixels import normalize

FAMILIES = {"ViT": "vit", "hybrid": "hybrid", "ResNet": "resnet"}
PLAIN, BOTH = "plain", "both"
# What is permuted alone, at all the data.
SINGLE = {"smoke": (), "mini": ("patches", "pixels")}
SINGLE |= dict.fromkeys(("medium", "small"), SINGLE["mini"])
# Percent of the data.
SHARES = {"smoke": (50, 100), "mini": (10, 100)}
SHARES |= dict.fromkeys(("medium", "small"), (2, 20, 100))
# Of what the ResNet loses: more than that would be a loss of the ViT's own.
MARGIN = 0.25
# Test images on which a permuted ViT is compared with itself.
COUNT = 128


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


def permuted(params: dict[str, Any], grid: tuple[int, int], kind: str) -> dict:
    """The parameters with which a ViT sees scrambled images as it saw plain ones.

    Token j of a scrambled image is made of patch `patch_order[j]`, and gets its
    position; pixel q of a patch is pixel `pixel_order[q]`, and gets its row of the
    patch embedding. What follows treats all tokens alike. Sums over tokens and pixels
    change their order: equal but for rounding, in training too.

    Args:
        params: of a `VisionTransformer` with positions `learned`, whose patch is that
            of the scrambling.
        grid: rows and columns of its patches.
    """
    kernel, table = params["embedding"]["kernel"], params["positions"]["embedding"]
    if kind != "pixels":
        prefix = table.shape[1] - grid[0] * grid[1]
        rows = np.r_[np.arange(prefix), prefix + patch_order(grid)]
        table = table[:, rows]
    if kind != "patches":
        side = kernel.shape[0]
        rows = kernel.reshape(side * side, *kernel.shape[2:])[pixel_order(side)]
        kernel = rows.reshape(kernel.shape)
    return params | {
        "embedding": params["embedding"] | {"kernel": kernel},
        "positions": {"embedding": table},
    }


def largest_change(folder: Path, kind: str) -> tuple[float, float]:
    """How far logits of a trained ViT move when images and rows are permuted.

    Returns:
        The largest difference of a logit, and the standard deviation of all logits.
    """
    run = load_trained(folder)
    side = run.model.patch_size
    plain, _ = test_images(run.config, COUNT)
    moved = np.stack([scrambled(image, side, kind) for image in plain])

    def logits(params: dict[str, Any], images: np.ndarray) -> np.ndarray:
        pixels = normalize(jnp.asarray(images))
        return np.asarray(run.model.apply({"params": params}, pixels, train=False)[0])

    before = logits(run.params, plain)
    after = logits(permuted(run.params, run.model.grid, kind), moved)
    return float(np.abs(after - before).max()), float(before.std())


def conclude(results: RunResults) -> Conclusion:
    """Accuracy and lost accuracy by the amount of data, and the claims."""
    scale, shares = results.scale, SHARES[results.scale]
    accuracy = {arm: results.accuracy(arm) for arm in arms(scale)}
    total = Data(**dict(results.configs[label("ViT", PLAIN)].data)).num_examples()
    images = [round(total * share / 100) for share in shares]
    draw(results, accuracy, images)
    amounts = [f"{n:,}" for n in images]
    kinds = (*SINGLE[scale], BOTH)
    reached = [
        [
            name,
            kind,
            *(mean_cell(accuracy.get(label(name, kind, s), []), 100) for s in shares),
        ]
        for name in FAMILIES
        for kind in (PLAIN, *kinds)
    ]
    losses = [
        [name, kind, *(mean_cell(lost(accuracy, name, kind, s), 100) for s in shares)]
        for name in FAMILIES
        for kind in kinds
    ]
    vit = results.runs[label("ViT", PLAIN)][0]
    exact = [[k, *largest_change(vit, k)] for k in ("patches", "pixels", BOTH)]
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
                rows=exact,
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
    """What a family loses, in the order of the seeds; none where it was not trained."""
    plain = accuracy[label(family, PLAIN, share)]
    other = accuracy.get(label(family, kind, share), plain[:0])
    return [a - b for a, b in zip(plain, other, strict=False)]


def draw(
    results: RunResults, accuracy: Mapping[str, list[float]], images: list[int]
) -> None:
    """Accuracy with and without the plane above, the difference below."""
    shares = SHARES[results.scale]
    panels = {"test accuracy": [], "lost to scrambled patches and pixels (points)": []}
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
        y_label="accuracy (%)",
    )


def claims(scale: str, accuracy: Mapping[str, list[float]]) -> list[Claim]:
    """Who loses what, in which order, and whether less with more data."""
    compared, shares = pairs(scale), SHARES[scale]

    def weights(family: str, sign: float, chosen: list[tuple[str, int]]) -> dict:
        """Those of the mean loss of a family."""
        found: dict[str, float] = {}
        for kind, share in chosen:
            for arm, way in ((PLAIN, 1), (kind, -1)):
                name = label(family, arm, share)
                found[name] = found.get(name, 0.0) + sign * way / len(chosen)
        return found

    def loss(family: str, chosen: list[tuple[str, int]] = compared) -> Any:
        return contrast(accuracy, weights(family, 1, chosen))

    def more(first: str, second: str) -> Any:
        both = weights(first, 1, compared) | weights(second, -1, compared)
        return contrast(accuracy, both)

    mean = "mean lost accuracy over all scramblings and amounts of data"
    resnet = loss("ResNet")
    found = [
        judged(
            "Without the plane a ResNet loses accuracy",
            f"{mean}, ResNet: the whole 95 % interval is above 0",
            resnet,
        ),
        judged(
            "A ViT loses nothing",
            f"{mean}, ViT: the whole interval is within {MARGIN:.0%} of what the "
            f"ResNet loses, {100 * resnet.value:.1f} points, on both sides of 0",
            loss("ViT"),
            "within",
            max(0.0, MARGIN * resnet.value),
        ),
        judged(
            "A hybrid loses less than a ResNet",
            f"{mean}, ResNet minus hybrid: the whole interval is above 0",
            more("ResNet", "hybrid"),
        ),
        judged(
            "A hybrid loses more than a ViT",
            f"{mean}, hybrid minus ViT: the whole interval is above 0",
            more("hybrid", "ViT"),
        ),
    ]
    found += [
        judged(
            f"A ResNet loses accuracy if only {kind} are permuted",
            "its lost accuracy with all the data: the whole interval is above 0",
            loss("ResNet", [(kind, 100)]),
        )
        for kind in SINGLE[scale]
    ]
    few, whole = (weights("ResNet", 1, [(BOTH, s)]) for s in (shares[0], shares[-1]))
    fewer = contrast(accuracy, few | {arm: -weight for arm, weight in whole.items()})
    parts = {
        str(share): [
            1 - b / a
            for a, b in zip(
                accuracy[label("ResNet", PLAIN, share)],
                accuracy[label("ResNet", BOTH, share)],
                strict=False,
            )
        ]
        for share in (shares[0], shares[-1])
    }
    smaller = contrast(parts, {str(shares[0]): 1.0, str(shares[-1]): -1.0})
    amounts = f"with {shares[0]} % of the data minus with all"
    return [
        *found,
        judged(
            "The 2-D prior is worth less with more data",
            f"accuracy that the ResNet loses to both, {amounts}: the whole interval is "
            "above 0",
            fewer,
            comment="The paper has no such number: its section 4.3 says that bias "
            "helps with small data, and is trumped by large.",
        ),
        judged(
            "The 2-D prior is a smaller share of the accuracy with more data",
            f"share of its accuracy that the ResNet loses to both, {amounts}: the "
            "whole interval is above 0",
            smaller,
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
    "repeats few images many times. The bound of the second claim is the measured "
    "value, without its own uncertainty."
)


EXPERIMENT = Experiment(
    item="Section 4.3",
    title="The scrambled plane: what the 2-D prior is worth",
    question="What is the 2-D prior of a CNN worth, and is it worth less with more "
    "data?",
    conclude=conclude,
    arms=arms,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
