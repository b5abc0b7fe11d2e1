"""Metrics of a split as sums and means: every example exactly once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.data.mix import as_targets
from vit_jax.losses import LossFn
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize

# `(parameters, batch) -> arrays` of one batch.
EvalStep = Callable[[Any, dict[str, jax.Array]], dict[str, Any]]


class Evaluator(Protocol):
    """Measures parameters; built once, called at intervals of the training."""

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics by name. In several processes, all of them must call it."""
        ...


def make_eval_step(model: AnyModel, loss_fn: LossFn) -> EvalStep:
    """Builds `(params, batch) -> sums` over the examples whose `mask` is True."""

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"])
        logits, _ = model.apply({"params": params}, images, train=False)
        labels, mask = batch["label"], batch["mask"]
        targets = as_targets(labels, logits.shape[-1])
        rank = label_rank(logits, labels)
        return {
            "count": mask.sum(),
            "loss": (loss_fn(logits, targets) * mask).sum(),
            "accuracy": ((rank < 1) & mask).sum(),
            "top5": ((rank < 5) & mask).sum(),
        }

    return eval_step


def make_multi_label_step(model: AnyModel, loss_fn: LossFn) -> EvalStep:
    """Builds `(params, batch) -> sums`, as `make_eval_step`, and `rows`.

    The rows are `mask`, `scores`, the logits, and `labels` of each example of the
    batch: an average precision is no mean over batches.
    """

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, Any]:
        images, mask = normalize(batch["image"]), batch["mask"]
        logits, _ = model.apply({"params": params}, images, train=False)
        losses = loss_fn(logits, as_targets(batch["label"], model.num_classes))
        rows = {
            "mask": mask,
            "scores": logits.astype(jnp.float32),
            "labels": batch["label"],
        }
        return {"count": mask.sum(), "loss": (losses * mask).sum(), "rows": rows}

    return eval_step


def evaluate(
    eval_step: EvalStep, params: Any, batches: Iterable[dict[str, jax.Array]]
) -> dict[str, float]:
    """Means over a split: `loss`, `accuracy`, `top5` in [0, 1], and the `count`.

    Of several labels an image, `loss`, `map` in [0, 1] and the `count`.

    Raises:
        ValueError: no batch holds an example.
    """
    totals: dict[str, float] = {}
    rows: list[dict[str, np.ndarray]] = []
    for sums in run_step(eval_step, params, batches):
        if "rows" in sums:
            rows.append(sums.pop("rows"))
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    count = totals.pop("count", 0.0)
    if not count:
        raise ValueError("there is no example to evaluate on")
    means = {name: total / count for name, total in totals.items()}
    if rows:
        # Imported where an image has several labels.
        from vit_jax.evaluation.multi_label import metrics_of

        means |= metrics_of(rows)
    return means | {"count": count}


def run_step(
    step: EvalStep, params: Any, batches: Iterable[dict[str, jax.Array]]
) -> Iterator[dict[str, Any]]:
    """Runs a step on each batch and yields its results as arrays on the host.

    The device computes one batch while the results of another are fetched. Dispatching
    all at once would fill its memory with images.
    """
    ahead = None
    for batch in batches:
        if jax.process_count() > 1 and jax.default_backend() == "cpu":
            # Messages of two programs between the processes would mix there.
            jax.block_until_ready(ahead)
        done, ahead = ahead, step(params, batch)
        if done is not None:
            yield jax.device_get(done)
    if ahead is not None:
        yield jax.device_get(ahead)


def label_rank(
    logits: Float[Array, "b n"], labels: Int[Array, " b"]
) -> Int[Array, " b"]:
    """How many other classes are not below the label's: 0 where it is the top one.

    Ties and NaN count against the label, so a constant or broken output is no hit.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return (~(logits < own)).sum(-1) - 1
