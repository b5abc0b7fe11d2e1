"""Classification metrics over a whole split: every example exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.data.mix import normalize, one_hot
from vit_jax.losses import LossFn
from vit_jax.models import VisionTransformer

EvalStep = Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]


def make_eval_step(model: VisionTransformer, loss_fn: LossFn) -> EvalStep:
    """Builds `(params, batch) -> sums` over the examples whose `mask` is True."""

    @jax.jit
    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"])
        logits, _ = model.apply({"params": params}, images, train=False)
        labels, mask = batch["label"], batch["mask"]
        # The label's rank, with ties counted against it: a constant output is no hit.
        own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        rank = (logits >= own).sum(-1) - 1
        return {
            "count": mask.sum(),
            "loss": (loss_fn(logits, one_hot(labels, logits.shape[-1])) * mask).sum(),
            "accuracy": ((rank < 1) & mask).sum(),
            "top5": ((rank < 5) & mask).sum(),
        }

    return eval_step


def evaluate(
    eval_step: EvalStep, params: Any, batches: Iterable[dict[str, jax.Array]]
) -> dict[str, float]:
    """Means over a split: `loss`, `accuracy`, `top5` in [0, 1], and the `count`.

    Raises:
        ValueError: no batch holds an example.
    """
    totals: dict[str, float] = {}
    for sums in [eval_step(params, batch) for batch in batches]:
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    count = totals.pop("count", 0.0)
    if not count:
        raise ValueError("there is no example to evaluate on")
    return {name: total / count for name, total in totals.items()} | {"count": count}
