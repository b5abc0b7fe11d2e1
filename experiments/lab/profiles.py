"""Bias profiles of the runs of a grid, measured once and kept beside them."""

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vit_jax.analysis.profile import bias_profile
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source
from vit_jax.interop.trained import load_trained
from vit_jax.models import AnyModel, init_params
from vit_jax.models.pixels import normalize
from vit_jax.storage.json_files import read_json
from vit_jax.storage.paths import write_atomically
from vit_jax.training.step import named_keys

Profile = dict[str, float]
IMAGES = 128


def trained_profile(
    folder: Path, move: int, *, step: int | None = None, count: int = IMAGES
) -> Profile:
    """The profile of a run at its end, or at a step whose checkpoint it has.

    Args:
        move: pixels by which images are shifted to measure equivariance.
        count: number of test images.
    """
    name = f"bias_{'end' if step is None else step}_{move}_{count}.json"

    def measure() -> Profile:
        run = load_trained(folder, step=step)
        return profile_of(run.model, run.params, run.config, move, count)

    return kept(folder / name, measure)


def initial_profile(folder: Path, move: int, *, count: int = IMAGES) -> Profile:
    """The profile of a run's model before its first step."""

    def measure() -> Profile:
        run = load_trained(folder)
        params = init_params(run.model, named_keys(run.config.seed).params)
        return profile_of(run.model, params, run.config, move, count)

    return kept(folder / f"bias_start_{move}_{count}.json", measure)


def kept(path: Path, measure: Callable[[], Profile]) -> Profile:
    """The profile in a file, measured and written if it is not there, or damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_json(path, Profile)
    profile = measure()
    write_atomically(path, json.dumps(profile, indent=1) + "\n")
    print(f"{path.parent.parent.name}/{path.parent.name}: {path.name}", flush=True)
    return profile


def profile_of(
    model: AnyModel,
    params: dict,
    config: ml_collections.ConfigDict,
    move: int,
    count: int,
) -> Profile:
    """The profile of a model on test images of the run's own classes."""
    images, labels = test_images(config, count)
    pixels = normalize(jnp.asarray(images))
    # One key, so that blocks are shuffled alike for all models.
    key = jax.random.key(0)
    return bias_profile(model, params, pixels, labels, key=key, step=move)


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
