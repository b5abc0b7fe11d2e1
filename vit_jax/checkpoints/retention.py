"""Which checkpoints of a run stay, and the removal of the others."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vit_jax.checkpoints.integrity import read_metrics, steps
from vit_jax.storage.paths import medium

logger = logging.getLogger(__name__)


class Retention(NamedTuple):
    """A step stays for any of these reasons.

    Attributes:
        keep_last: how many of the newest steps.
        keep_best: how many of the best steps by `best_metric`, larger is better.
        keep_every: steps that are a multiple of it; 0 for none.
    """

    keep_last: int
    keep_best: int
    keep_every: int
    best_metric: str

    def kept(self, directory: Path) -> dict[int, list[str]]:
        """The steps in a folder of checkpoints that stay, each with the reasons."""
        saved = steps(directory)
        scores = {
            step: metrics[self.best_metric]
            for step in saved
            if self.best_metric in (metrics := read_metrics(directory / str(step)))
        }
        ranked = sorted(scores, key=lambda step: (score(scores[step]), step))
        best = ranked[len(ranked) - min(self.keep_best, len(ranked)) :]
        reasons = {
            "last": saved[len(saved) - min(self.keep_last, len(saved)) :],
            "best": best,
            f"every {self.keep_every}": [
                step for step in saved if self.keep_every and not step % self.keep_every
            ],
        }
        kept = {
            step: [reason for reason, members in reasons.items() if step in members]
            for step in saved
        }
        return {step: why for step, why in kept.items() if why}


def score(value: float) -> float:
    """The key by which a metric is ranked: NaN is below all."""
    return -math.inf if math.isnan(value) else value


def remove(directory: Path, unwanted: Iterable[int]) -> None:
    """Removes steps, each at once for every reader."""
    for step in unwanted:
        try:
            medium(directory).remove(directory / str(step))
        except FileNotFoundError:
            continue  # Somebody else removed it.
        except OSError as error:
            logger.warning("step %d could not be removed: %s", step, error)
