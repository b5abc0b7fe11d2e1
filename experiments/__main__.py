"""`python -m experiments`: all experiments, with the item of the paper of each."""

from experiments.lab.frame import EXPERIMENTS, load_experiment
from vit_jax.command_list import first_line, start

OTHERS = ("all", "report", "pretrained", "template")


def lines() -> list[str]:
    """A line for each experiment, its item of the paper first."""
    experiments = [load_experiment(name) for name in EXPERIMENTS]
    width = max(len(experiment.item) for experiment in experiments)
    return [f"{e.item:{width}}  {e.title}" for e in experiments] + [
        f"{'':{width}}  {first_line(f'experiments.{name}')}" for name in OTHERS
    ]


if __name__ == "__main__":
    start("experiments", (*EXPERIMENTS, *OTHERS), lines)
