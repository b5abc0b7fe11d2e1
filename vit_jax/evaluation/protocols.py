"""The protocols of `python -m vit_jax.evaluate` other than classification."""

import argparse
import dataclasses
from typing import Any

import jax

from vit_jax import values
from vit_jax.data.openers import has_no_splits
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.fewshot import FewShot
from vit_jax.evaluation.knn import Knn
from vit_jax.evaluation.linear_probe import LinearProbe
from vit_jax.evaluation.objectnet import evaluate_objectnet
from vit_jax.flags import Positive, Seeds, flag
from vit_jax.interop.trained import TrainedModel

# Protocols on frozen features, which need no head and take data sets of any classes.
FROZEN = {"fewshot": FewShot, "knn": Knn, "probe": LinearProbe}
DATA = {"train_split": "train", "classes": (), "crop": ""}
# The options of each protocol and their defaults; None marks a required one.
OPTIONS: dict[str, dict[str, Any]] = {
    "classification": {},
    "fewshot": DATA | {"shots": (1, 5, 10, 25), "seeds": 3, "l2": 1024.0},
    "knn": DATA | {"neighbours": 20, "temperature": 0.07},
    "probe": DATA,
    "real": {"real_labels": None},
    "imagenet_v2": {},
    "objectnet": {},
}
# The data set and split of a protocol where no other is named.
DATASETS = {
    "real": ("imagenet2012", "validation"),
    "imagenet_v2": ("imagenet_v2/matched-frequency", "test"),
}
MEASURED = (*FROZEN, "objectnet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that choose a protocol and its options."""
    group = parser.add_argument_group("protocols")
    group.add_argument(
        "--protocol",
        choices=tuple(OPTIONS),
        default="classification",
        help="fewshot, knn, probe: what frozen features are worth; real, imagenet_v2, "
        "objectnet: other test sets for models with ImageNet's 1000 classes",
    )
    group.add_argument("--train-split", help="of fewshot, knn, probe; default: train")
    group.add_argument(
        "--classes", type=words, help="of those, only these classes: cat,dog"
    )
    group.add_argument(
        "--crop", help="of those, data.eval_crop; big_vision: resize_center_crop"
    )
    group.add_argument(
        "--shots", type=numbers, help="of fewshot, of each class; default: 1,5,10,25"
    )
    group.add_argument(
        "--seeds",
        type=flag(Seeds),
        help="of fewshot, random choices; default: 3; 0: the first",
    )
    group.add_argument(
        "--l2", type=flag(values.Positive), help="of fewshot, penalty; default: 1024"
    )
    group.add_argument("--neighbours", type=flag(Positive), help="of knn; default: 20")
    group.add_argument(
        "--temperature", type=flag(values.Positive), help="of knn; default: 0.07"
    )
    group.add_argument("--real-labels", help="of real: the file real.json")


def words(text: str) -> tuple[str, ...]:
    """Text between commas."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Integers between commas."""
    return tuple(int(number) for number in text.split(","))


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the protocol, given or default.

    Raises:
        ValueError: an option of another protocol, or one that is needed and not given.
    """
    protocol = arguments.protocol
    own = OPTIONS[protocol]
    given = {
        name: getattr(arguments, name)
        for options in OPTIONS.values()
        for name in options
        if getattr(arguments, name) is not None
    }
    for name in given:
        if name not in own:
            owners = [key for key, options in OPTIONS.items() if name in options]
            raise ValueError(
                f"--{name.replace('_', '-')} is an option of --protocol "
                f"{', '.join(owners)}, and not of {protocol}"
            )
    for name, default in own.items():
        if default is None and name not in given:
            raise ValueError(f"--protocol {protocol} needs --{name.replace('_', '-')}")
    return own | given


def data_of(
    protocol: str, run: TrainedModel, dataset: str | None, split: str | None
) -> Data:
    """The data to evaluate on; its `name` is "" if it is not known.

    Args:
        dataset, split: None for the protocol's own, or else the run's.
    """
    own = run.config.eval.splits[0] if run.config else "test"
    name, default = DATASETS.get(protocol, (run.data.name, own))
    if not split and dataset and has_no_splits(dataset):
        default = "all"
    data = dataclasses.replace(run.data, name=dataset or name, split=split or default)
    if data.name != run.data.name and protocol != "classification":
        # The classes that were trained on, and their field, are not this data set's.
        data = dataclasses.replace(data, classes=(), label="label")
    return data


def measure(
    protocol: str,
    run: TrainedModel,
    data: Data,
    options: dict[str, Any],
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
) -> dict[str, Any]:
    """The metrics of a protocol of `MEASURED` for a run, on all devices.

    Args:
        run: from `load_trained` with this mesh.
        data: the data to evaluate on, its `split` the test split.
        options: from `options_of`.

    Raises:
        ValueError: options, splits or classes that do not go together.
    """
    if protocol == "objectnet":
        return evaluate_objectnet(run, data.name, mesh, batch_size=batch_size)
    evaluator = FROZEN[protocol](
        run.model,
        data,
        mesh,
        name="",
        data_dir="",
        test_split=data.split,
        batch_size=batch_size,
        **options,
    )
    return evaluator(run.params)


def table(metrics: dict[str, float]) -> str:
    """Metrics for the terminal, a line each: shares in percent, deviations behind."""
    names = [name for name in metrics if not name.endswith("_std")]
    width = max(map(len, names))
    lines = []
    for name in names:
        value = metrics[name]
        if name.endswith("shot") or "accuracy" in name or "top5" in name:
            text = f"{100 * value:.2f} %"
        else:
            text = f"{value:g}"
        if f"{name}_std" in metrics:
            text += f" ± {100 * metrics[f'{name}_std']:.2f}"
        lines.append(f"  {name:{width}}  {text}")
    return "\n".join(lines)
