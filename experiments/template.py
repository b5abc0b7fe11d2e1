"""A template: do register tokens help a small ViT?

Copied to anywhere and renamed, it is an experiment of one's own:
docs/add/experiment.md. The registers, tokens without a patch of the image, are those of
arXiv 2309.16588; here none, and 4 of them. smoke: seconds. mini: 2 arms of 3 seeds,
about 3 minutes of two CPU cores.
"""

from experiments.lab.command import main
from experiments.lab.contrasts import contrast
from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.records import Conclusion, Table, judged
from experiments.lab.tables import mean_cell

COUNTS = (0, 4)


def arms(scale: str) -> dict[str, Arm]:
    """The ViT of the laboratory with each number of registers."""
    config = f"configs/lab.py:family=vit,scale={scale}"
    return {f"{n} registers": Arm(config, {"model.num_registers": n}) for n in COUNTS}


def conclude(results: RunResults) -> Conclusion:
    """A table of test accuracy, and one claim with its interval over seeds."""
    accuracy = {label: results.accuracy(label) for label in results.configs}
    gain = contrast(accuracy, {"4 registers": 1, "0 registers": -1})
    table = Table(
        "Test accuracy by the number of registers",
        columns=["arm", "accuracy (%)"],
        rows=[[label, mean_cell(values, 100)] for label, values in accuracy.items()],
    )
    claim = judged(
        "Four registers are better than none",
        "test accuracy: 4 registers minus none",
        gain,
    )
    return Conclusion(tables=[table], claims=[claim])


EXPERIMENT = Experiment(
    item="arXiv 2309.16588",
    title="Register tokens",
    question="Do register tokens help a small ViT?",
    conclude=conclude,
    arms=arms,
    seeds={"smoke": 1, "mini": 3, "medium": 3, "small": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
