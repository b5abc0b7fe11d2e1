"""Classification metrics over a whole split: every example exactly once.

    python -m vit_jax.evaluate --checkpoint runs/digits --split test
    python -m vit_jax.evaluate --checkpoint ViT-B_16.npz --dataset photos --split val

Training uses `make_eval_step` and `evaluate`, which keep sums only; the command keeps
what became of each example.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from vit_jax import distributed, sharding
from vit_jax.cli import run_command
from vit_jax.data.mix import normalize, one_hot
from vit_jax.data.pipeline import Data, prefetch_to_device
from vit_jax.data.sources import Source, make_source
from vit_jax.evaluators import protocols
from vit_jax.evaluators.features import run_step
from vit_jax.evaluators.real import real_accuracy, real_label_sets
from vit_jax.labels import label_order
from vit_jax.losses import LossFn
from vit_jax.models import AnyModel
from vit_jax.outcomes import (
    Outcomes,
    Step,
    class_counts,
    confusion,
    label_rank,
    make_outcome_step,
    shown_classes,
    summary,
    write_outcomes,
)
from vit_jax.placement import place, place_params
from vit_jax.plots import shorten
from vit_jax.run import CHECKPOINT_HELP, FSDP_HELP, Run, load_run
from vit_jax.storage.paths import as_path, medium


def make_eval_step(model: AnyModel, loss_fn: LossFn) -> Step:
    """Builds `(params, batch) -> sums` over the examples whose `mask` is True."""

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"])
        logits, _ = model.apply({"params": params}, images, train=False)
        labels, mask = batch["label"], batch["mask"]
        rank = label_rank(logits, labels)
        return {
            "count": mask.sum(),
            "loss": (loss_fn(logits, one_hot(labels, logits.shape[-1])) * mask).sum(),
            "accuracy": ((rank < 1) & mask).sum(),
            "top5": ((rank < 5) & mask).sum(),
        }

    return eval_step


def evaluate(
    eval_step: Step, params: Any, batches: Iterable[dict[str, jax.Array]]
) -> dict[str, float]:
    """Means over a split: `loss`, `accuracy`, `top5` in [0, 1], and the `count`.

    Raises:
        ValueError: no batch holds an example.
    """
    totals: dict[str, float] = {}
    for sums in run_step(eval_step, params, batches):
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    count = totals.pop("count", 0.0)
    if not count:
        raise ValueError("there is no example to evaluate on")
    return {name: total / count for name, total in totals.items()} | {"count": count}


def evaluate_run(
    run: Run,
    data: Data,
    *,
    batch_size: int,
    labels_by_index: bool = False,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Outcomes, list[str], float]:
    """Evaluates a run on `data.split`, on all devices, with a live progress line.

    Args:
        data: the run's own, or another one whose label names are the model's, or some
            of them, in any order.
        batch_size: rounded up to a multiple of the devices.
        labels_by_index: go by the numbers of the classes, whatever their names.
        mesh: as of `load_run`, without `tensor`; None has all parameters on each
            device.

    Returns:
        The outcomes, the names of skipped records, and images per second, reading
        included and compilation not.

    Raises:
        ValueError: other label names, unknown split, or a model without a head.
        ImageError: an image that cannot be read, or too many to skip.
    """
    if not run.model.num_classes:
        raise ValueError(
            "the checkpoint has no head, so it gives features and no classes: "
            "fine-tune it first"
        )
    order = label_order(
        data.label_names(), run.label_names, data.name, by_index=labels_by_index
    )
    devices = jax.device_count()
    batch_size = -(-batch_size // devices) * devices
    mesh = mesh or sharding.make_mesh(data=-1, fsdp=1, tensor=1)
    divided = sharding.batch_sharding(mesh)
    several = jax.process_count() > 1
    rows = sharding.local_rows(divided, batch_size) if several else None
    params = place_params(run.params, mesh)
    step = jax.jit(
        sharding.on_mesh(make_outcome_step(run.model, order, **run.loss), mesh),
        out_shardings=sharding.replicated(mesh),
    )
    blank = {
        "image": np.zeros((batch_size, *data.image_size, 3), np.uint8),
        "label": np.zeros(batch_size, np.int32),
        "mask": np.zeros(batch_size, bool),
        "index": np.zeros(batch_size, np.int64),
    }
    # Compiles, which the speed is not to include.
    blank = place(blank, dict.fromkeys(blank, divided))
    jax.block_until_ready(step(params, blank))

    parts = []
    start = time.perf_counter()
    batches = data.eval_batches(data.split, batch_size, rows=rows)
    with (
        prefetch_to_device(batches, divided) as batches,
        tqdm(
            total=data.num_examples(),
            desc="evaluating",
            unit=" images",
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        for part in run_step(step, params, batches):
            mask = part.pop("mask")
            parts.append({name: values[mask] for name, values in part.items()})
            bar.update(int(mask.sum()))
    seconds = time.perf_counter() - start
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    outcomes = Outcomes(**columns)
    return outcomes, batches.skipped, len(outcomes.label) / seconds


def open_source(data: Data) -> Source:
    """The records of `data.split` as they are stored, by number and with names."""
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


def main(arguments: argparse.Namespace) -> None:
    """The command: evaluates, writes the files and prints a table."""
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}: wanted at least 1")
    protocol, options = arguments.protocol, protocols.options_of(arguments)
    if distributed.wanted(arguments):
        distributed.start(arguments)
    mesh = sharding.make_mesh(data=-1, fsdp=arguments.fsdp, tensor=1)
    run = load_run(arguments.checkpoint, ema=arguments.ema, mesh=mesh)
    data = protocols.data_of(protocol, run, arguments.dataset, arguments.split)
    if not data.name:
        raise ValueError(
            f"--dataset is needed: {arguments.checkpoint} does not tell what it was "
            "trained on"
        )
    name = f"{Path(data.name).name}-{data.split}" + ("-ema" if arguments.ema else "")
    if protocol != "classification":
        name += f"-{protocol}"
    if run.config:
        folder = as_path(arguments.checkpoint) / "evaluation" / plain(name)
    else:
        folder = Path("evaluation", plain(arguments.checkpoint), plain(name))
    folder = as_path(arguments.output or folder)
    facts = {
        "protocol": protocol,
        "dataset": data.name,
        "split": data.split,
        "checkpoint": run.source,
        "step": run.step,
        "ema": arguments.ema,
        **options,
    }
    distributed.say(f"{protocol} on {data.name} {data.split}, {run.source}")
    if protocol in protocols.MEASURED:
        metrics = protocols.measure(
            protocol, run, data, options, mesh=mesh, batch_size=arguments.batch_size
        )
        if not distributed.is_primary():
            return
        with medium(folder).filling(folder) as local:
            files = protocols.write_metrics(local, facts | metrics)
        print(protocols.table(metrics))
    else:
        files = classify(run, data, folder, facts, arguments, mesh)
    distributed.say(f"files in {folder}: {', '.join(files)}")


def classify(
    run: Run,
    data: Data,
    folder: Path,
    facts: dict[str, Any],
    arguments: argparse.Namespace,
    mesh: jax.sharding.Mesh,
) -> list[str]:
    """Evaluates the classes, writes the files, prints the table; returns their names.

    Of several processes, the first one writes and prints.

    Args:
        facts: go into `metrics.json`.
    """
    label_sets, real = None, arguments.real_labels
    if real:
        label_sets = real_label_sets(real, open_source(data), run.label_names)
    outcomes, skipped, speed = evaluate_run(
        run,
        data,
        batch_size=arguments.batch_size,
        labels_by_index=arguments.labels_by_index,
        mesh=mesh,
    )
    if not distributed.is_primary():
        return []
    facts |= {"images_per_second": round(speed, 1), "skipped": skipped}
    text = report(outcomes, run.label_names, speed)
    if label_sets is not None:
        facts["real"] = real_accuracy(
            outcomes.top[:, 0], [label_sets[index] for index in outcomes.index]
        )
        text = f"ReaL\n{protocols.table(facts['real'])}\noriginal labels\n{text}"
    record_name = open_source(data).record_name
    with medium(folder).filling(folder) as local:
        files = write_outcomes(local, outcomes, run.label_names, record_name, facts)
    print(text)
    if skipped:
        print(f"{len(skipped)} unreadable images left out, named in metrics.json")
    return files


def plain(name: str) -> str:
    """A name as that of one folder."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.evaluate",
        description="Evaluate a run, or a checkpoint of others: metrics, classes, "
        "confusions, predictions.",
    )
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT_HELP)
    parser.add_argument("--dataset", help="name or folder; default: the run's own")
    parser.add_argument(
        "--split", help="default: the first of the run's eval.splits, else test"
    )
    parser.add_argument(
        "--labels-by-index",
        action="store_true",
        help="class i of the data set is output i, whatever the names",
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--fsdp", type=int, default=1, help=FSDP_HELP)
    parser.add_argument("--ema", action="store_true", help="use averaged parameters")
    parser.add_argument(
        "--output", help="folder; default: in evaluation/, of the run if it is one"
    )
    protocols.add_arguments(parser)
    distributed.add_arguments(parser)
    return parser


if __name__ == "__main__":
    run_command(make_parser(), main)
