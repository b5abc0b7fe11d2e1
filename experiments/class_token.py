"""Class token or global average pooling, each at its own learning rate?

Fig. 9: few-shot accuracy while training. The paper found GAP far worse than the class
token at the same rate, and as good at a lower one.

mini: CIFAR-10, ViT of 4 layers and 8x8-pixel patches, both poolings at three rates: 5
minutes of two CPU cores. full: ViT-B/32 on JFT-300M.
"""

from typing import Any

from experiments.lab import full, paper_figures
from experiments.lab.command import main
from experiments.lab.contrasts import contrast, margins
from experiments.lab.figures import lines, over_seeds
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.records import (
    Claim,
    Conclusion,
    Table,
    claim_level,
    judged,
    judged_small,
    pair,
)
from experiments.lab.statistics import mean_std
from experiments.lab.tables import mean_cell

POOLINGS = {"CLS": "token", "GAP": "gap"}
# From the lowest to the highest; the laboratory's default is 2e-3.
RATES = {
    "smoke": (1e-3, 1e-2),
    "mini": (7e-4, 2e-3, 6e-3),
    "small": (3e-4, 1e-3, 3e-3),
    # Fig. 9 does not show the class token at the lower one.
    "full": (3e-4, 8e-4),
}


def label_of(pooling: str, rate: float) -> str:
    return f"{pooling}, {rate:g}"


def arms(scale: str) -> dict[str, Arm]:
    """Each pooling at each rate."""
    pairs = {label_of(x, rate): (x, rate) for x in POOLINGS for rate in RATES[scale]}
    if scale == "full":
        return {x: full.jft("ViT-B/32", changes(*pair)) for x, pair in pairs.items()}
    lab = f"configs/lab.py:scale={scale}"
    patches = {"model.name": "ViT-mu/8"}
    return {x: Arm(lab, changes(*pair) | patches) for x, pair in pairs.items()}


def changes(pooling: str, rate: float) -> dict[str, Any]:
    """Few-shot accuracy is measured in the course of the training."""
    return {
        "model.pooling": POOLINGS[pooling],
        "optim.learning_rate": rate,
        "fewshot.every": "20%",
    }


def conclude(results: RunResults) -> Conclusion:
    """Curves, and the comparison of the best rates."""
    metric = results.shots(next(iter(results.configs)))
    fewshot = {x: results.fewshot(x) for x in results.configs}
    accuracy = {x: results.accuracy(x) for x in results.configs}
    series = []
    for label in results.configs:
        steps, values = results.curve(label, metric, "fewshot")
        # Poolings by colour, rates by shade.
        family = "ViT" if label.startswith("CLS") else "ResNet"
        places = (100 * steps / steps[-1]).tolist()
        series.append(over_seeds(label, places, values.T, family=family))
    lines(
        {"": series},
        results.folder / "fig9.png",
        x_label="share of the training (%)",
        y_label=f"{metric} accuracy, held-out classes (%)",
        log_x=False,
    )
    paper_figures.figure_9(results.folder / "fig9_paper.png")
    return Conclusion(
        tables=[
            Table(
                caption="Fig. 9: at the end of the training",
                columns=["pooling, rate", f"{metric} (%)", "test (%)"],
                rows=[
                    [x, *(mean_cell(y[x], 100) for y in (fewshot, accuracy))]
                    for x in results.configs
                ],
            )
        ],
        figures=[
            pair(
                "Fig. 9: class token and GAP at several learning rates (ours: "
                "class token in blue, GAP in orange)",
                "fig9",
            )
        ],
        claims=claims(results.scale, accuracy),
        notes="The best rate of each pooling is chosen by the values that are then "
        "compared, as in the paper; intervals are wider for that, as if all rates had "
        "been compared. Claims are judged by test accuracy, which does not depend on "
        "the choice of a few examples.",
    )


def claims(scale: str, accuracy: dict[str, list[float]]) -> list[Claim]:
    """GAP is as good at its own rate, and its own rate is lower."""
    rates = RATES[scale]
    best = {
        pooling: max(rates, key=lambda r: mean_std(accuracy[label_of(pooling, r)])[0])
        for pooling in POOLINGS
    }
    token = label_of("CLS", best["CLS"])
    loss = {token: 1.0, label_of("GAP", best["CLS"]): -1.0}
    own = {label_of("GAP", best["GAP"]): 1.0, token: -1.0}
    # Any rate could have been the class token's best.
    worse = contrast(accuracy, loss, level=claim_level(len(rates)))
    less, more = margins(accuracy, own, loss, level=claim_level(2 * len(rates)))
    shift = {
        label_of(pooling, rate): sign * way
        for pooling, sign in (("GAP", 1), ("CLS", -1))
        for rate, way in ((rates[0], 1), (rates[-1], -1))
    }
    gap = contrast(accuracy, own).text("points", 100, sign=True)
    return [
        judged_small(
            "With its own learning rate GAP is as good as the class token",
            "test accuracy: the effect, what GAP loses at the class token's best rate, "
            "minus and plus its gain over the class token at the best rate of each",
            worse,
            {"loss minus difference": less, "loss plus difference": more},
            comment=f"At the best rates {best['GAP']:g} and {best['CLS']:g} GAP minus "
            f"the class token is {gap}; the paper: -0.4.",
        ),
        judged(
            "At the class token's rate GAP is worse",
            "test accuracy of both at the class token's best rate: class token minus "
            "GAP",
            worse,
            paper="+5.7",
        ),
        judged(
            "GAP wants a lower rate than the class token",
            f"test accuracy that GAP gains from {rates[0]:g} instead of {rates[-1]:g}, "
            "minus what the class token gains",
            contrast(accuracy, shift, level=claim_level(headline=True)),
            headline=True,
        ),
    ]


EXPERIMENT = Experiment(
    item="Fig. 9",
    title="Class token and global average pooling",
    question="Class token or global average pooling, each at its own learning rate?",
    conclude=conclude,
    arms=arms,
)

if __name__ == "__main__":
    main(EXPERIMENT)
