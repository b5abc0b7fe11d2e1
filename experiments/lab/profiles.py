"""Bias profiles of the runs of a grid, measured once and kept beside them."""

import functools
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.lab.measures import of_run
from vit_jax.analysis.equivariance import translation_profile
from vit_jax.analysis.profile import bias_profile, logits_of
from vit_jax.analysis.translation import shift_consistency
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source
from vit_jax.interop.trained import TrainedModel, load_trained
from vit_jax.models import AnyModel, init_params
from vit_jax.models.pixels import normalize
from vit_jax.training.step import named_keys

Profile = dict[str, float]
IMAGES = 128
# Fewer on a canvas, where each image has many times the places.
CANVAS_IMAGES = 16
# Of the measures, in the names of the files: another number where they mean something
# else, so that what an older version measured is not taken for it.
VERSION = 3
# What `moved_profile` adds.
LARGEST, CONSISTENCY = "equivariance/circular/whole/max", "shift_consistency/1_to_3"


def trained_profile(
    folder: Path, *, step: int | None = None, count: int = 0, canvas: int = 0
) -> Profile:
    """The profile of a run at its end, or at a step whose checkpoint it has.

    Args:
        count: number of test images; 0 for `IMAGES`, on a canvas `CANVAS_IMAGES`.
        canvas: side in pixels, as in `translation_profile`, whose measures are then
            the only ones; 0 for the whole profile, at the model's own size.
    """

    def measure() -> Profile:
        run = load_trained(folder, step=step)
        return profile_of(run.model, run.params, run.config, count, canvas)

    time = "end" if step is None else str(step)
    return of_run(profile_path(folder, time, count, canvas), measure)


def initial_profile(folder: Path, *, count: int = 0, canvas: int = 0) -> Profile:
    """The profile of a run's model before its first step; see `trained_profile`."""

    def measure() -> Profile:
        run, params = start_of(folder)
        return profile_of(run.model, params, run.config, count, canvas)

    return of_run(profile_path(folder, "start", count, canvas), measure)


def moved_profile(folder: Path, time: Literal["start", "end"]) -> Profile:
    """The `translation_profile` of a run before or after training, and a little more.

    equivariance/circular/whole/max     the largest of these errors of all layers
    shift_consistency/1_to_3            share of images that keep their class when
        they are moved in a circle by 1, 2 and 3 pixels, down and to the right
    """

    def measure() -> Profile:
        run, params = start_of(folder)
        params = params if time == "start" else run.params
        pixels = normalize(jnp.asarray(test_images(run.config, IMAGES)[0]))
        profile = translation_profile(run.model, params, pixels)
        whole = LARGEST.removesuffix("max")
        largest = max(x for name, x in profile.items() if name.startswith(whole))
        predict = functools.partial(logits_of, run.model, params)
        moves = [move for n in (1, 2, 3) for move in ((n, 0), (0, n))]
        same = shift_consistency(predict, pixels, moves)
        return profile | {LARGEST: largest, CONSISTENCY: same}

    return of_run(folder / f"moved_v{VERSION}_{time}_{IMAGES}.json", measure)


def start_of(folder: Path) -> tuple[TrainedModel, dict]:
    """A run, and the parameters that it began with."""
    run = load_trained(folder)
    return run, init_params(run.model, named_keys(run.config.seed).params)


def profile_path(folder: Path, time: str, count: int, canvas: int) -> Path:
    """The file of a profile, by all that it depends on but the run."""
    ground = f"_canvas_{canvas}" if canvas else ""
    return folder / f"bias_v{VERSION}_{time}_{number(count, canvas)}{ground}.json"


def number(count: int, canvas: int) -> int:
    """Number of images, where 0 stands for the usual one."""
    return count or (CANVAS_IMAGES if canvas else IMAGES)


def profile_of(
    model: AnyModel,
    params: dict,
    config: ml_collections.ConfigDict,
    count: int,
    canvas: int,
) -> Profile:
    """The profile of a model on test images of the run's own classes."""
    images, labels = test_images(config, number(count, canvas))
    pixels = normalize(jnp.asarray(images))
    if canvas:
        return translation_profile(model, params, pixels, canvas=canvas)
    # One key, so that blocks are shuffled alike for all models.
    return bias_profile(model, params, pixels, labels, key=jax.random.key(0))


def test_images(
    config: ml_collections.ConfigDict, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images of the model's size (n, h, w, 3), uint8, and labels, evenly spread."""
    return _read_images(config.to_json(), config.eval.splits[0], count)


@functools.lru_cache(maxsize=8)
def _read_images(text: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    data = Data(**json.loads(text)["data"])
    source = make_source(
        data.name,
        split,
        data_dir=data.data_dir or None,
        stage=data.stage,
        classes=data.classes,
    )
    places = np.linspace(0, len(source) - 1, min(count, len(source)))
    records = [source[place] for place in places.round().astype(int).tolist()]
    images = np.stack([data.eval_transform(record["image"]) for record in records])
    return images, np.array([record["label"] for record in records])
