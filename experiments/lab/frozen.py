"""Frozen features of whole splits and what is read from them, kept as files.

Features cost a forward pass of every image, and what reads them seconds to minutes:
each is computed once, for the parameters, model and data that its file's name has a
fingerprint of.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.lab.measures import kept
from experiments.lab.profiles import Profile
from vit_jax.evaluation.features import Extractor, Features
from vit_jax.evaluation.fewshot import choose_shots, fewshot_accuracy
from vit_jax.evaluation.knn import knn_accuracy
from vit_jax.evaluation.linear_probe import linear_probe
from vit_jax.interop.trained import TrainedModel
from vit_jax.parallel import sharding
from vit_jax.storage.paths import write_atomically

BATCH = 100
# big_vision's penalty, as `configs/base.py` has it.
FEWSHOT_L2 = 1024.0
# Without the weaker ones of CLIP's grid, which take L-BFGS most of its time.
PROBE_L2 = (1e-1, 1e-2, 1e-3)


def fingerprint(run: TrainedModel) -> str:
    """Ten hexadecimal digits of the parameters, the model and its data's options."""
    digest = hashlib.sha256(f"{run.model} {run.data}".encode())
    for path, array in jax.tree.leaves_with_path(run.params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:10]


def kept_features(run: TrainedModel, split: str, folder: Path) -> Features:
    """The features of a split of the run's data, computed once.

    Args:
        run: its `data` names the data set.
        split: such as "train".

    Raises:
        ValueError: an unknown split.
    """
    side = run.data.image_size[0]
    path = folder / f"features_{split}_{side}px_{fingerprint(run)}.npz"
    extract = Extractor(run.model, run.data, sharding.undivided(), batch_size=BATCH)

    def measure() -> dict[str, np.ndarray]:
        found = extract(run.params, split)._asdict()
        return found | {"features": found["features"].astype(np.float32)}

    return Features(**kept_arrays(path, measure))


def kept_arrays(
    path: Path, measure: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays in a file, measured and written if it is not there."""
    if not path.exists():
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **measure())
        write_atomically(path, content.getvalue())
        print(path.name, flush=True)
    with np.load(path) as arrays:
        return dict(arrays)


def readings(
    run: TrainedModel, shots: tuple[int, ...], choices: int, folder: Path
) -> Profile:
    """Accuracy on the split `test` of what is learned from the features of `train`.

    Returns:
        `Kshot/N` for each number of shots K and choice of examples N; `knn` and `probe`
        of all the training examples. Shares in [0, 1].
    """
    names = run.data.label_names()

    def measure() -> Profile:
        train, test = (kept_features(run, split, folder) for split in ("train", "test"))
        found = {}
        for choice in range(choices):
            chosen = choose_shots(train.labels, max(shots), len(names), choice)
            for count in shots:
                rows = chosen[:, :count].ravel()
                found[f"{count}shot/{choice}"] = fewshot_accuracy(
                    train.features[rows],
                    train.labels[rows],
                    test.features,
                    test.labels,
                    num_classes=len(names),
                    l2=FEWSHOT_L2,
                )
        found["knn"] = knn_accuracy(*train[:2], *test[:2], num_classes=len(names))
        probe = linear_probe(train, test, num_classes=len(names), l2_grid=PROBE_L2)
        found["probe"] = probe.accuracy
        return {name: float(value) for name, value in found.items()}

    most = "-".join(map(str, shots))
    name = f"readings_{most}_{choices}_{fingerprint(run)}.json"
    return kept(folder / name, measure)
