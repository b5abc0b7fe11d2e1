"""What happens when a step goes wrong: a loss or gradient of NaN or Inf, or a spike."""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from vit_jax.values import Choice, Count, Range

# Weight of a step in the running mean of the loss: it remembers some 100 steps.
MEAN_WEIGHT = 0.01


class FaultyStep(ArithmeticError):
    """A step that the guard does not let pass.

    Attributes:
        next_index: place in the stream of examples after the step's batch.
    """

    def __init__(self, message: str, next_index: int) -> None:
        super().__init__(message)
        self.next_index = next_index

    def explained(self, text: str) -> "FaultyStep":
        """The same with more words."""
        return FaultyStep(f"{self}; {text}", self.next_index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """The config section `guard`.

    Attributes:
        policy: for a faulty step: "stop"; "skip": the state stays as it was, but for
            the number of the step; "rollback": back to the last checkpoint, and on
            with the data that follows the faulty batch.
        spike: a loss so many times its running mean is a fault; 0 for none.
        max_faults: steps in a row that are skipped, or rollbacks of a process, before
            the training stops.
    """

    policy: Annotated[str, Choice("stop", "skip", "rollback")]
    spike: Annotated[float, Range(1, left_open=True, off=True)]
    max_faults: Count

    def __call__(
        self, old: Any, new: Any, metrics: dict[str, jax.Array]
    ) -> tuple[Any, dict[str, jax.Array]]:
        """The state to go on with, and the metrics with `fault`, 1 or 0.

        Args:
            old, new: TrainState before and after the step.
            metrics: with `loss` and `grad_norm`.
        """
        loss, mean = metrics["loss"], old.loss_mean
        fault = ~jnp.isfinite(loss) | ~jnp.isfinite(metrics["grad_norm"])
        if self.spike:
            fault |= (mean > 0) & (loss > self.spike * mean)
        moved = jnp.where(mean > 0, mean + MEAN_WEIGHT * (loss - mean), loss)
        new = new.replace(
            loss_mean=jnp.where(fault, mean, moved), skipped=old.skipped + fault
        )
        if self.policy == "skip":
            kept = old.replace(step=new.step, skipped=new.skipped)
            new = jax.tree.map(lambda a, b: jnp.where(fault, a, b), kept, new)
        return new, metrics | {"fault": fault}


class Faults:
    """What the guard found, step by step, on the host.

    Args:
        start: number of the step before the first.
        first_index: place in the stream of examples at which the first step begins.
    """

    def __init__(
        self, guard: Guard, start: int, first_index: int, batch_size: int
    ) -> None:
        self.guard = guard
        self._start, self._first_index, self._batch = start, first_index, batch_size
        self._in_a_row = 0
        self._new: list[tuple[int, str]] = []

    def accept(self, step: int, row: dict[str, float]) -> bool:
        """Whether a step counts; `row` are its metrics, without `fault` afterwards.

        Raises:
            FaultyStep: it ends the training, or asks for a rollback.
        """
        if not row.pop("fault"):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        message = f"{reason_of(row)} at step {step}"
        next_index = self._first_index + (step - self._start) * self._batch
        if self.guard.policy != "skip":
            raise FaultyStep(message, next_index)
        if self._in_a_row > self.guard.max_faults:
            raise FaultyStep(
                f"{message}, after guard.max_faults={self.guard.max_faults} steps that "
                "were skipped in a row",
                next_index,
            )
        self._new.append((step, message))
        return False

    def take(self) -> list[tuple[int, str]]:
        """The faults that were not taken yet: steps and what was wrong."""
        new, self._new = self._new, []
        return new


def reason_of(row: dict[str, float]) -> str:
    """What was wrong with a step, from its metrics."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row[name]):
            return f"{name} is {row[name]}"
    return f"loss is {row['loss']:.4g}, a spike above guard.spike times its mean"
