"""Classification of a whole split, each example exactly once."""

import time

import jax
import numpy as np

from vit_jax.data.labels import label_order
from vit_jax.data.pipeline import Data
from vit_jax.data.source_types import Source
from vit_jax.data.sources import make_source
from vit_jax.data.stream import EVAL_COLUMNS, columns
from vit_jax.evaluation.features import rounded_up, split_outputs
from vit_jax.evaluation.multi_label_outcomes import (
    MultiLabelOutcomes,
    make_multi_label_outcome_step,
)
from vit_jax.evaluation.outcomes import (
    Outcomes,
    class_counts,
    confusion,
    make_outcome_step,
    shown_classes,
    summary,
)
from vit_jax.figures.pictures import shorten
from vit_jax.interop.trained import TrainedModel
from vit_jax.parallel import sharding
from vit_jax.parallel.placement import place, place_params


def evaluate_run(
    run: TrainedModel,
    data: Data,
    *,
    batch_size: int,
    labels_by_index: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Outcomes | MultiLabelOutcomes, list[str], float]:
    """Evaluates a run on `data.split`, on all devices, with a live progress line.

    Args:
        data: the run's own, or another one whose label names are among the model's, in
            any order.
        batch_size: rounded up to a multiple of the devices.
        labels_by_index: match classes by number, whatever their names.
        mesh: as in `load_trained`, without `tensor`; None puts all parameters on each
            device.

    Returns:
        The outcomes, the names of skipped records, and images per second, reading
        included and compilation not.

    Raises:
        ValueError: other label names, unknown split, a model without a head, or several
            labels an image for a softmax.
        ImageError: an image that cannot be read, or too many to skip.
        ArithmeticError: outputs that are NaN or infinite.
    """
    if not run.model.num_classes:
        raise ValueError(
            "the checkpoint has no head, so it gives features and no classes: "
            "fine-tune it first"
        )
    order = label_order(
        data.label_names(), run.label_names, data.name, by_index=labels_by_index
    )
    make_step, kind = make_outcome_step, Outcomes
    if data.is_multi_label():
        make_step, kind = make_multi_label_outcome_step, MultiLabelOutcomes
        if run.loss["name"] != "sigmoid":
            raise ValueError(
                f"an image of {data.name} may have several labels, and {run.source} "
                "was trained with loss.name='softmax', for one: take a run that was "
                "trained with sigmoid"
            )
    mesh = mesh or sharding.make_mesh(data=-1, fsdp=1, tensor=1)
    params = place_params(run.params, mesh)
    step = jax.jit(
        sharding.on_mesh(make_step(run.model, order, **run.loss), mesh),
        out_shardings=sharding.replicated(mesh),
    )
    size = rounded_up(batch_size, mesh)
    shapes = columns(data.image_size, data.source(data.split)) | EVAL_COLUMNS
    blank = {
        name: np.zeros((size, *shape), dtype) for name, (shape, dtype) in shapes.items()
    }
    blank = place(blank, dict.fromkeys(blank, sharding.batch_sharding(mesh)))
    # Compiles, which the speed does not include.
    jax.block_until_ready(step(params, blank))

    start = time.perf_counter()
    results, skipped = split_outputs(
        step, params, data, data.split, batch_size=size, mesh=mesh, title="evaluating"
    )
    speed = len(results["loss"]) / (time.perf_counter() - start)
    outcomes = kind(**results)
    wrong = int((~np.isfinite(outcomes.loss)).sum())
    if wrong:
        raise ArithmeticError(
            f"{run.source} gives outputs that are NaN or infinite for {wrong} of "
            f"{len(outcomes.loss)} images, as none can be evaluated: its weights are "
            "too large, or its dtype is too narrow"
        )
    return outcomes, skipped, speed


def open_source(data: Data) -> Source:
    """The records of `data.split` as they are stored, not decoded in advance."""
    return make_source(
        data.name,
        data.split,
        classes=data.classes,
        label=data.label,
        data_dir=data.data_dir or None,
        stage=data.stage,
        holdout=data.holdout,
        cache="never",
    )


def report(outcomes: Outcomes, label_names: tuple[str, ...], speed: float) -> str:
    """A table for the terminal: the metrics, the worst classes and confusions."""
    metrics = summary(outcomes, len(label_names))
    lines = [f"  images  {metrics['count']}"]
    lines.append(f"  top-1   {100 * metrics['accuracy']:.2f} %")
    if "top5" in metrics:
        lines.append(f"  top-5   {100 * metrics['top5']:.2f} %")
    if metrics["ties"]:
        lines.append(f"  ties    {metrics['ties']}, counted as wrong")
    lines.append(f"  loss    {metrics['loss']:.4f}")
    lines.append(f"  speed   {speed:.0f} images/s")

    counts, hits = class_counts(outcomes, len(label_names))
    accuracy = hits / np.maximum(counts, 1)
    worst = [i for i in np.argsort(accuracy, kind="stable") if hits[i] < counts[i]][:5]
    lines += ["worst classes"] if worst else []
    for i in worst:
        name = shorten(label_names[i], 40)
        lines.append(f"  {100 * accuracy[i]:6.2f} %  {name} ({counts[i]} images)")

    classes = shown_classes(outcomes, len(label_names))
    errors = confusion(outcomes, classes)
    np.fill_diagonal(errors, 0)
    largest = np.argsort(-errors, axis=None, kind="stable")[:5]
    pairs = [divmod(int(i), len(classes)) for i in largest if errors.flat[i]]
    lines += ["most frequent confusions"] if pairs else []
    for label, prediction in pairs:
        names = [shorten(label_names[classes[i]], 30) for i in (label, prediction)]
        number = errors[label, prediction]
        lines.append(f"  {number:6}    {names[0]} taken for {names[1]}")
    return "\n".join(lines)
