"""Evaluates a run, or a checkpoint of another project, over a whole split.

    python -m vit_jax.evaluate --checkpoint runs/digits --split test
    python -m vit_jax.evaluate --checkpoint runs/photos --dataset more_photos
    python -m vit_jax.evaluate --checkpoint ViT-B_16.npz --dataset imagenet2012 \\
        --split validation

A data set is the run's own, a name, or a folder of labelled images: a folder a class,
all of which are evaluated, or train/CLASS, val/CLASS, test/CLASS; or a CSV file of
their labels. Where an image may have several, the metric is mean average precision.
Images without labels are for `vit_jax.predict`.
"""

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import jax

from vit_jax.cli import (
    IMAGE_SIZE_HELP,
    add_checkpoint_argument,
    add_model_options,
    command_parser,
    image_size,
    run_command,
)
from vit_jax.data.pipeline import Data
from vit_jax.evaluation import protocols
from vit_jax.evaluation.classification import evaluate_run, open_source, report
from vit_jax.evaluation.multi_label_outcomes import (
    MultiLabelOutcomes,
    multi_label_report,
    write_multi_label_outcomes,
)
from vit_jax.evaluation.outcomes import write_metrics, write_outcomes
from vit_jax.evaluation.real import real_accuracy, real_label_sets
from vit_jax.flags import BatchSize, flag
from vit_jax.interop.trained import FSDP_HELP, TrainedModel, load_trained
from vit_jax.parallel import distributed, sharding
from vit_jax.storage import output
from vit_jax.storage.paths import as_path


def main(arguments: argparse.Namespace) -> None:
    """The command: evaluates, prints a table and writes the files."""
    protocol, options = arguments.protocol, protocols.options_of(arguments)
    if distributed.wanted(arguments):
        distributed.start(arguments)
    mesh = sharding.make_mesh(data=-1, fsdp=arguments.fsdp, tensor=1)
    run = load_trained(
        arguments.checkpoint,
        ema=arguments.ema,
        image_size=arguments.image_size,
        mesh=mesh,
        **arguments.model_options,
    )
    dataset = arguments.dataset or arguments.folder
    if dataset and Path(dataset).is_file() and not dataset.lower().endswith(".csv"):
        raise ValueError(
            f"{dataset} is a file: give a folder of labelled images, or a CSV file of "
            "labels, and files of images to vit_jax.predict"
        )
    data = protocols.data_of(protocol, run, dataset, arguments.split)
    if not data.name:
        raise ValueError(
            f"--dataset is needed: {arguments.checkpoint} does not tell what it was "
            "trained on"
        )
    folder = results_folder(arguments, run, data)
    if distributed.is_primary():
        read = (arguments.checkpoint, data.name)
        try:
            output.check(folder, read, is_folder=True, results=True)
        except output.DiskError as error:
            # The numbers are printed all the same, before this error at the end.
            logging.warning(f"{error}; nothing but the table will be left")
    facts = {
        "protocol": protocol,
        "dataset": data.name,
        "split": data.split,
        "checkpoint": run.source,
        "step": run.step,
        "ema": arguments.ema,
        "image_size": list(run.model.image_size),
        **options,
    }
    distributed.say(f"{protocol} on {data.name} {data.split}, {run.source}")
    if protocol != "objectnet":  # whose classes are matched before it is opened
        distributed.say(data.in_words((data.split,)))
    if protocol in protocols.MEASURED:
        metrics = protocols.measure(
            protocol, run, data, options, mesh=mesh, batch_size=arguments.batch_size
        )
        if not distributed.is_primary():
            return
        print(protocols.table(metrics))
        with output.filling(folder) as local:
            files = write_metrics(local, facts | metrics)
    else:
        files = classify(run, data, folder, facts, arguments, mesh)
    distributed.say(f"files in {folder}: {', '.join(files)}")


def results_folder(
    arguments: argparse.Namespace, run: TrainedModel, data: Data
) -> Path:
    """The place of the files: --output, or named by data, split and protocol."""
    name = f"{Path(data.name).name}-{data.split}" + ("-ema" if arguments.ema else "")
    if arguments.protocol != "classification":
        name += f"-{arguments.protocol}"
    base = Path("evaluation", folder_name(arguments.checkpoint))
    if run.config:
        base = as_path(arguments.checkpoint) / "evaluation"
    return as_path(arguments.output or base / folder_name(name))


def classify(
    run: TrainedModel,
    data: Data,
    folder: Path,
    facts: dict[str, Any],
    arguments: argparse.Namespace,
    mesh: jax.sharding.Mesh,
) -> list[str]:
    """Evaluates the classes, prints a table, writes files; returns their names.

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
    if isinstance(outcomes, MultiLabelOutcomes):
        text = multi_label_report(outcomes, run.label_names, speed)
    else:
        text = report(outcomes, run.label_names, speed)
        if label_sets is not None:
            facts["real"] = real_accuracy(
                outcomes.top[:, 0], [label_sets[index] for index in outcomes.index]
            )
            table = protocols.table(facts["real"])
            text = f"ReaL\n{table}\noriginal labels\n{text}"
    record_name = open_source(data).record_name
    print(text)
    if skipped:
        print(f"{len(skipped)} unreadable images left out, named in metrics.json")
    with output.filling(folder) as local:
        rest = run.label_names, record_name, facts
        if isinstance(outcomes, MultiLabelOutcomes):
            return write_multi_label_outcomes(local, outcomes, *rest)
        return write_outcomes(local, outcomes, *rest)


def folder_name(name: str) -> str:
    """A name as that of one folder."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = command_parser("vit_jax.evaluate", __doc__)
    add_checkpoint_argument(
        parser, words="folder", most=1, help="of labelled images; the same as --dataset"
    )
    add_model_options(parser)
    parser.add_argument("--image-size", type=image_size, help=IMAGE_SIZE_HELP)
    parser.add_argument("--dataset", help="name or folder; default: the run's own")
    parser.add_argument(
        "--split",
        help="default: the first of the run's eval.splits, else test; all of another "
        "folder without split folders",
    )
    parser.add_argument(
        "--labels-by-index",
        action="store_true",
        help="class i of the data set is output i, whatever the names",
    )
    parser.add_argument("--batch-size", type=flag(BatchSize), default=256)
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
