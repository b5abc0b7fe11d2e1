"""Checkpoints from one layout to another, checked by reading them back."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax import interop
from vit_jax.interop.layout import Facts
from vit_jax.interop.model_card import Origin, Result
from vit_jax.interop.trained import TrainedModel, load_trained
from vit_jax.models import AnyModel
from vit_jax.storage import output
from vit_jax.storage.paths import as_path, on_disk
from vit_jax.storage.run_files import read_metrics

TOLERANCE = 1e-5


class ConversionError(RuntimeError):
    """What was written does not compute what was read."""


def convert(
    source: str | Path,
    destination: str | Path,
    layout: str,
    *,
    license: str = "",
    **changes: Any,
) -> None:
    """Writes a checkpoint in another layout; prints what was read and what written.

    Args:
        source: what `load_trained` takes.
        destination: .npz for google and big_vision; .safetensors or a folder for the
            others. What is there already is replaced, but for the README.md of a
            folder, which is a model card if there is none.
        license: for the card, its identifier on the hub, such as "apache-2.0".
        **changes: arguments of `load_trained`: num_classes, image_size, patch_size,
            resample, ema, options of the model.

    Raises:
        ValueError: the source cannot be read, or the layout cannot hold the model.
        ConversionError: the file that was written gives other outputs.
    """
    destination = on_disk(destination)
    interop.check_path(layout, destination)
    is_folder = destination.suffix not in (".npz", ".safetensors")
    output.check(destination, [source], is_folder=is_folder)
    run = load_trained(source, dtype="float32", **changes)
    if run.config is not None:  # `load_trained` describes checkpoints of other projects
        print(f"{run.source}: {interop.describe(run.model)}")
    origin = origin_of(run, source, changes)._replace(license=license)
    lost = interop.save_checkpoint(
        destination,
        run.model,
        run.params,
        layout=layout,
        facts=facts_of(run),
        origin=origin,
    )
    files = destination.glob("*") if destination.is_dir() else [destination]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    description = f"{layout} layout: {interop.describe(run.model)}"
    print(f"{destination}, {megabytes:.1f} MB: {description}")
    verify(run, destination, layout, lost)


def origin_of(
    run: TrainedModel, source: str | Path, changes: Mapping[str, Any]
) -> Origin:
    """What a model card says of a run or a checkpoint; of paths, their names alone.

    Args:
        changes: arguments of `load_trained` that the model was loaded with.
    """
    changed = tuple(
        f"{name}={value}"
        for name, value in changes.items()
        if value is not None and name not in ("ema", "resample", "layout")
    )
    exists = Path(source).exists()
    name = Path(source).resolve().name if exists else str(source)
    if run.config is None:
        return Origin(f"the checkpoint {name} ({run.source})", changed)
    average = ", its averaged weights" if changes.get("ema") else ""
    text = f"step {run.step} of the vit_jax run {name}{average}"
    config = json.loads(run.config.to_json_best_effort())
    results = () if changed else measured(run, as_path(source), changes)
    return Origin(text, changed, results, config)


def measured(
    run: TrainedModel, folder: Path, changes: Mapping[str, Any]
) -> tuple[Result, ...]:
    """The accuracies in the run's metrics.jsonl at the step of these weights."""
    data, results = Path(run.data.name).name, []
    for row in read_metrics(folder / "metrics.jsonl"):
        split = row["split"].removesuffix("_ema")
        averaged = split != row["split"]
        # Rows of the training itself have no count.
        if row["step"] == run.step and {"accuracy", "count"} <= row.keys():
            if averaged == bool(changes.get("ema")):
                found = Result(data, split, row["accuracy"], int(row["count"]))
                results.append(found)
    return tuple(results)


def facts_of(run: TrainedModel) -> Facts:
    """The facts of a run for a layout's config: labels and preprocessing."""
    longer = max(run.model.image_size)
    crops = run.data.eval_crop == "resize_small_center_crop"
    # No config can express a crop after a resize that ignores the aspect.
    known = run.data.eval_crop != "resize_center_crop"
    return Facts(
        label_names=run.label_names,
        eval_crop=run.data.eval_crop if known else "",
        crop_share=longer / (run.data.eval_resize or longer * 8 / 7) if crops else 0.0,
        interpolation=run.data.eval_interpolation,
    )


def verify(run: TrainedModel, path: Path, layout: str, lost: dict[str, Any]) -> None:
    """Reads a checkpoint back and compares outputs for random images; prints how far.

    Args:
        lost: attributes of the model that the file does not store.

    Raises:
        ConversionError: with those attributes given, outputs differ by more than 1e-5.
    """
    size = {"image_size": run.model.image_size}
    numerics = {name: lost[name] for name in lost if name not in size}
    read = functools.partial(
        interop.load_checkpoint, path, layout=layout, dtype="float32", **size
    )
    difference = largest_difference(run, read(**numerics))
    if not difference <= TOLERANCE:
        raise ConversionError(
            f"{path} was written, but read back its outputs differ by {difference:.1e} "
            f"from those of the source, wanted at most {TOLERANCE}: do not use it"
        )
    print(f"read back: outputs differ by at most {difference:.1e}")
    if numerics:
        difference = largest_difference(run, read())
        print(f"with the {layout} code's own numerics they differ by {difference:.1e}")


def largest_difference(run: TrainedModel, loaded: interop.Loaded) -> float:
    """Between logits, and between representations, of two random images."""
    images = jax.random.uniform(
        jax.random.key(0), (2, *run.model.image_size, 3), minval=-1, maxval=1
    )
    ours = outputs(run.model, run.params, images)
    theirs = outputs(loaded.model, loaded.params, images)
    return float(
        np.max([jnp.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)])
    )


@functools.partial(jax.jit, static_argnames="model")
def outputs(
    model: AnyModel, params: Any, images: Float[Array, "b height width 3"]
) -> tuple[Float[Array, "b n"], Float[Array, "b d"]]:
    """Logits and representation; the head alone may be all zeros."""
    applied: Any = model.apply({"params": params}, images, train=False)
    logits, out = applied
    return logits, out["pre_logits"]
