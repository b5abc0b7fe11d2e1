"""The predictions of a model on each example with several labels, and their files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from vit_jax.data.mix import as_targets
from vit_jax.data.source_types import label_numbers
from vit_jax.evaluation.means import EvalStep
from vit_jax.evaluation.multi_label import THRESHOLD, average_precisions
from vit_jax.evaluation.outcomes import as_json, named, write_csv, write_metrics
from vit_jax.figures.pictures import shorten
from vit_jax.losses import make_loss
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize
from vit_jax.storage import output


class MultiLabelOutcomes(NamedTuple):
    """A row for each example that was evaluated, in the order of the split."""

    index: Int[np.ndarray, " n"]  # number of the record
    labels: UInt8[np.ndarray, "n classes"]  # 1 for each output that is a label
    scores: Float[np.ndarray, "n classes"]  # the logits
    loss: Float[np.ndarray, " n"]


def make_multi_label_outcome_step(
    model: AnyModel, label_order: Int[np.ndarray, " n"], **loss: Any
) -> EvalStep:
    """Builds `(params, batch) -> the fields of MultiLabelOutcomes, and mask`.

    Args:
        label_order: the model's class for each class of the batch.
        loss: of `make_loss`.
    """
    loss_fn = make_loss(**loss)

    @jax.jit
    def outcome_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits, _ = model.apply(
            {"params": params}, normalize(batch["image"]), train=False
        )
        given = batch["label"]
        labels = jnp.zeros((len(given), model.num_classes), given.dtype)
        labels = labels.at[:, label_order].set(given)
        return {
            "mask": batch["mask"],
            "index": batch["index"],
            "labels": labels,
            "scores": logits.astype(jnp.float32),
            "loss": loss_fn(logits, as_targets(labels, model.num_classes)),
        }

    return outcome_step


def multi_label_summary(
    outcomes: MultiLabelOutcomes,
) -> tuple[dict[str, float], Float[np.ndarray, " classes"]]:
    """`count`, `loss` and `map`; and the average precision of each class, or NaN."""
    precisions = average_precisions(outcomes.scores, outcomes.labels)
    if np.isnan(precisions).all():
        raise ValueError("no example has a label, so that there is nothing to measure")
    metrics = {
        "count": len(outcomes.loss),
        "loss": float(outcomes.loss.mean(dtype=np.float64)),
        "map": float(np.nanmean(precisions)),
    }
    return metrics, precisions


def multi_label_report(
    outcomes: MultiLabelOutcomes, label_names: Sequence[str], speed: float
) -> str:
    """A table for the terminal: the metrics, and the worst classes."""
    metrics, precisions = multi_label_summary(outcomes)
    measured = int(np.isfinite(precisions).sum())
    lines = [
        f"  images  {metrics['count']}",
        f"  mAP     {100 * metrics['map']:.2f} %, the mean of {measured} classes",
        f"  loss    {metrics['loss']:.4f}",
        f"  speed   {speed:.0f} images/s",
        "worst classes by average precision",
    ]
    counts = outcomes.labels.sum(axis=0, dtype=int)
    for i in np.argsort(precisions, kind="stable")[: min(5, measured)]:
        name = shorten(label_names[int(i)], 40)
        lines.append(f"  {100 * precisions[i]:6.2f} %  {name} ({counts[i]} images)")
    return "\n".join(lines)


def write_multi_label_outcomes(
    folder: Path,
    outcomes: MultiLabelOutcomes,
    label_names: Sequence[str],
    record_name: Callable[[int], str],
    facts: dict[str, Any],
) -> list[str]:
    """Writes metrics, average precisions and predictions; returns the file names.

    There is no confusion matrix: a class that an image has takes no other's place.

    Args:
        record_name: the name of a record by its number.
        facts: entries of `metrics.json` before the metrics.
    """
    metrics, precisions = multi_label_summary(outcomes)
    files = write_metrics(folder, facts | metrics)
    files += ["per_class.csv", "predictions.jsonl"]
    counts = outcomes.labels.sum(axis=0, dtype=int)
    rows = [
        (name, count, precision if count else "")
        for name, count, precision in zip(label_names, counts, precisions, strict=True)
    ]
    write_csv(folder / files[1], ("label", "count", "average_precision"), rows)
    # As the logistic function, without an overflow for a very sure "no".
    shares = np.exp(-np.logaddexp(0, -outcomes.scores))
    lines = []
    for index, labels, share in zip(
        outcomes.index, outcomes.labels, shares, strict=True
    ):
        best = np.argsort(-share, kind="stable")[: int((share >= THRESHOLD).sum())]
        line = {
            "record": record_name(int(index)),
            "labels": [label_names[i] for i in label_numbers(labels)],
            "predictions": as_json(named(best, share[best], label_names)),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    output.write(folder / files[2], "".join(lines))
    return files
