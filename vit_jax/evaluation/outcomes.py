"""The predictions of a model on each example of a split, and the files of them."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vit_jax.data.mix import as_targets
from vit_jax.evaluation.means import EvalStep, label_rank
from vit_jax.figures import pictures
from vit_jax.losses import make_loss, probabilities
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize
from vit_jax.storage import output

TOP = 5  # best classes that are kept for each example, for top-5
# With more, a confusion matrix has only those that occur: 21,843 squared is 3.8 GB.
MATRIX_CLASSES = 2000


class Outcomes(NamedTuple):
    """A row for each example that was evaluated, in the order of the split."""

    index: Int[np.ndarray, " n"]  # number of the record
    label: Int[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]  # rank of the label, see `label_rank`
    loss: Float[np.ndarray, " n"]
    top: Int[np.ndarray, "n k"]  # the best classes, best first, at most five
    probability: Float[np.ndarray, "n k"]  # their probabilities


def make_outcome_step(
    model: AnyModel,
    label_order: Int[np.ndarray, " n"],
    *,
    name: str,
    label_smoothing: float,
    round_up: bool = False,
) -> EvalStep:
    """Builds `(params, batch) -> the fields of Outcomes, and mask`, a row an example.

    Args:
        label_order: the model's class for each label of the batch.
        name, label_smoothing, round_up: the loss.
    """
    loss_fn = make_loss(name=name, label_smoothing=label_smoothing, round_up=round_up)

    @jax.jit
    def outcome_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"])
        labels = jnp.asarray(label_order)[batch["label"]]
        logits, _ = model.apply({"params": params}, images, train=False)
        # Ranked by logits: the probabilities of a very sure model round to ties.
        _, top = jax.lax.top_k(logits, min(TOP, model.num_classes))
        share = jnp.take_along_axis(probabilities(logits, name), top, axis=-1)
        return {
            "mask": batch["mask"],
            "index": batch["index"],
            "label": labels,
            "rank": label_rank(logits, labels),
            "loss": loss_fn(logits, as_targets(labels, model.num_classes)),
            "top": top,
            "probability": share,
        }

    return outcome_step


def summary(outcomes: Outcomes, num_classes: int) -> dict[str, float]:
    """`count`, `loss`, `accuracy`, `ties` and, for more than five classes, `top5`.

    `ties` are the examples that count as no hit although their label was predicted,
    because another class scored the same: none unless the model is degenerate.
    """
    hit = outcomes.rank < 1
    metrics = {
        "count": len(hit),
        "loss": float(outcomes.loss.mean(dtype=np.float64)),
        "accuracy": float(hit.mean()),
        "ties": int(((outcomes.top[:, 0] == outcomes.label) & ~hit).sum()),
    }
    if num_classes > TOP:
        metrics["top5"] = float((outcomes.rank < TOP).mean())
    return metrics


def class_counts(
    outcomes: Outcomes, num_classes: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The number of examples and of hits of each class."""
    hits = outcomes.label[outcomes.rank < 1]
    return (
        np.bincount(outcomes.label, minlength=num_classes),
        np.bincount(hits, minlength=num_classes),
    )


def shown_classes(outcomes: Outcomes, num_classes: int) -> Int[np.ndarray, " c"]:
    """The classes of the confusion matrix; with too many, only those that occur."""
    if num_classes <= MATRIX_CLASSES:
        return np.arange(num_classes)
    return np.union1d(outcomes.label, outcomes.top[:, 0])


def confusion(
    outcomes: Outcomes, classes: Int[np.ndarray, " c"]
) -> Int[np.ndarray, "label prediction"]:
    """How often each class (row) was taken for each (column).

    Args:
        classes: of the rows and columns, sorted; all that occur must be among them.
    """
    counts = np.zeros((len(classes), len(classes)), np.int64)
    pairs = (np.searchsorted(classes, x) for x in (outcomes.label, outcomes.top[:, 0]))
    np.add.at(counts, tuple(pairs), 1)
    return counts


def write_metrics(folder: Path, metrics: dict[str, Any]) -> list[str]:
    """Writes `metrics.json` into a folder; returns the name."""
    path = folder / "metrics.json"
    output.write(path, json.dumps(metrics, indent=2) + "\n")
    return [path.name]


def write_outcomes(
    folder: Path,
    outcomes: Outcomes,
    label_names: Sequence[str],
    record_name: Callable[[int], str],
    facts: dict[str, Any],
) -> list[str]:
    """Writes metrics, per-class accuracy, confusion matrix and predictions.

    Returns the file names.

    Args:
        record_name: the name of a record by its number.
        facts: entries of `metrics.json` before the `summary`.
    """
    metrics = summary(outcomes, len(label_names))
    write_metrics(folder, facts | metrics)
    counts, hits = class_counts(outcomes, len(label_names))
    rows = [
        (name, count, hit, hit / count if count else "")
        for name, count, hit in zip(label_names, counts, hits, strict=True)
    ]
    write_csv(folder / "per_class.csv", ("label", "count", "correct", "accuracy"), rows)
    classes = shown_classes(outcomes, len(label_names))
    names = [label_names[int(number)] for number in classes]
    matrix = confusion(outcomes, classes)
    rows = [(name, *row) for name, row in zip(names, matrix, strict=True)]
    write_csv(folder / "confusion.csv", ("label \\ predicted", *names), rows)
    title = f"{facts['dataset']} {facts['split']}: top-1 {metrics['accuracy']:.2%}"
    pictures.confusion_matrix(matrix, names, title, folder / "confusion.png")
    files = ("metrics.json", "per_class.csv", "confusion.csv", "confusion.png")
    predictions = folder / "predictions.jsonl"
    write_predictions(predictions, outcomes, label_names, record_name)
    return [*files, predictions.name]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table, its header first; a name is one line, with escapes if need be."""
    file = io.StringIO(newline="")
    for row in (header, *rows):
        cells = [output.printable(x) if isinstance(x, str) else x for x in row]
        csv.writer(file).writerow(cells)
    output.write(path, file.getvalue())


def write_predictions(
    path: Path,
    outcomes: Outcomes,
    label_names: Sequence[str],
    record_name: Callable[[int], str],
) -> None:
    """Writes a JSON object a line: record, label, prediction, probability, top5."""
    lines = []
    for row in range(len(outcomes.label)):
        best = named(outcomes.top[row], outcomes.probability[row], label_names)
        label, probability = best[0]
        line = {
            "record": record_name(int(outcomes.index[row])),
            "label": label_names[outcomes.label[row]],
            "prediction": label,
            "probability": probability,
            "top5": as_json(best),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    output.write(path, "".join(lines))


def named(
    top: Int[np.ndarray, " k"],
    probability: Float[np.ndarray, " k"],
    label_names: Sequence[str],
) -> list[tuple[str, float]]:
    """The names of classes with their probabilities, to six digits."""
    return [
        (label_names[int(label)], float(f"{share:.6g}"))
        for label, share in zip(top, probability, strict=True)
    ]


def as_json(best: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Classes as `{"label", "probability"}`, as all our files have them."""
    return [{"label": label, "probability": share} for label, share in best]
