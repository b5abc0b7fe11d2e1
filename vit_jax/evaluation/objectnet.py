"""ObjectNet: objects seen from unusual sides (arXiv 2010.11929, appendix D.9).

Only the 113 of its 313 classes that ImageNet has too are used. As in BiT (arXiv
1912.11370) the shorter side is resized to 512 and the centre of 480 pixels cut out, the
same share at other sizes. The frame of two red pixels of each image is cut off before,
as the data set's authors do. One class can be several of ImageNet: the score of
"bicycle" is the larger one of "mountain bike" and "tandem bicycle".

The papers do not say whether BiT chose among the overlapping classes or among all 1000:
both are reported. The folder is as it is distributed, with images and mappings.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vit_jax.data import labels
from vit_jax.data.pipeline import Data
from vit_jax.evaluation.features import split_outputs
from vit_jax.evaluation.means import EvalStep, label_rank
from vit_jax.interop.trained import TrainedModel
from vit_jax.models import AnyModel
from vit_jax.models.pixels import normalize
from vit_jax.parallel import sharding
from vit_jax.storage.schema import mismatch, parse

FRAME = 2
RESIZE = 512 / 480
CLASSES = 1000
# Share of the names of ImageNet's classes that must agree with ours: spellings differ,
# but a list that is shifted or sorted otherwise agrees nowhere.
MIN_AGREEMENT = 0.9


class ObjectNetData(Data):
    """Images without their red frame."""

    def eval_transform(self, image: np.ndarray) -> np.ndarray:
        """`Data.eval_transform` of the image without its frame."""
        return super().eval_transform(image[FRAME:-FRAME, FRAME:-FRAME])


def evaluate_objectnet(
    run: TrainedModel, folder: str | Path, mesh: jax.sharding.Mesh, *, batch_size: int
) -> dict[str, float]:
    """Accuracies of a model with ImageNet's 1000 classes.

    Args:
        folder: of the data set, with `images/CLASS/*.png` and `mappings/`.

    Returns:
        `accuracy` and `top5`, in [0, 1], among the overlapping classes;
        `accuracy_of_1000` and `top5_of_1000`, where every class of ImageNet may be
        predicted; the `count` of images.

    Raises:
        ValueError: another model, or mappings that cannot be used.
        FileNotFoundError: the folder lacks images or mappings.
    """
    if run.model.num_classes != CLASSES or not labels.is_imagenet(run.label_names):
        raise ValueError(
            f"ObjectNet is evaluated with the {CLASSES} classes of ImageNet, but the "
            f"model has {run.model.num_classes} classes, such as "
            f"{', '.join(map(repr, run.label_names[:3]))}"
        )
    classes = read_mappings(Path(folder) / "mappings")
    options = {
        f.name: getattr(run.data, f.name) for f in dataclasses.fields(Data) if f.init
    }
    data = ObjectNetData(
        **options
        | {
            "name": str(Path(folder) / "images"),
            "split": "all",
            "classes": tuple(classes),
            "label": "label",
            "eval_crop": "resize_small_center_crop",
            "eval_resize": round(RESIZE * max(run.data.image_size)),
        }
    )
    members = np.zeros((len(classes), CLASSES), bool)
    for row, numbers in enumerate(classes.values()):
        members[row, list(numbers)] = True
    step = jax.jit(
        sharding.on_mesh(make_objectnet_step(run.model, members), mesh),
        out_shardings=sharding.replicated(mesh),
    )
    columns, _ = split_outputs(
        step,
        run.params,
        data,
        data.split,
        batch_size=batch_size,
        mesh=mesh,
        title="ObjectNet",
    )
    return {name: float(values.mean()) for name, values in columns.items()} | {
        "count": len(columns["accuracy"])
    }


def make_objectnet_step(
    model: AnyModel, members: Bool[np.ndarray, "classes imagenet"]
) -> EvalStep:
    """Builds `(params, batch) -> hits`, bool, a row for each image, and its `mask`.

    Args:
        members: which classes of ImageNet belong to a class of ObjectNet.
    """

    def step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"])
        logits, _ = model.apply({"params": params}, images, train=False)
        scores = jnp.where(members, logits[:, None], -jnp.inf).max(-1)
        rank = label_rank(scores, batch["label"])
        _, top = jax.lax.top_k(logits, 5)
        own = jnp.asarray(members)[batch["label"]]
        hits = jnp.take_along_axis(own, top, axis=-1)
        return {
            "mask": batch["mask"],
            "accuracy": rank < 1,
            "top5": rank < 5,
            "accuracy_of_1000": hits[:, 0],
            "top5_of_1000": hits.any(-1),
        }

    return step


def read_mappings(folder: Path) -> dict[str, tuple[int, ...]]:
    """ImageNet's classes, by number, for each image folder that overlaps with it.

    Args:
        folder: `mappings` of the data set.

    Raises:
        FileNotFoundError: one of its four files is not there.
        ValueError: the files contradict each other, or our names of ImageNet's classes.
    """
    folder_labels = read_json(folder / "folder_to_objectnet_label.json", str)
    overlap = read_json(folder / "objectnet_to_imagenet_1k.json", str)
    lines = read_json(folder / "pytorch_to_imagenet_2012_id.json", int)
    names = read_text(folder / "imagenet_to_label_2012_v2").splitlines()
    try:
        # By number of the class, in the order of all released heads.
        names = [names[lines[str(number)]].strip() for number in range(CLASSES)]
        folders = {label: name for name, label in folder_labels.items()}
        numbers = {name: number for number, name in enumerate(names)}
        classes = {
            folders[label]: tuple(numbers[name.strip()] for name in text.split(";"))
            for label, text in overlap.items()
        }
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"the files of {folder} do not fit together: {error} is in one of them and "
            "not in another; take all four from the same download"
        ) from None
    ours = labels.label_names(CLASSES)
    same = np.mean([first(a) == first(b) for a, b in zip(names, ours, strict=True)])
    if same < MIN_AGREEMENT:
        raise ValueError(
            f"by the files of {folder}, only {same:.0%} of ImageNet's classes have the "
            f"names that they should have: class 0 is {names[0]!r}, not {ours[0]!r}"
        )
    return classes


def first(name: str) -> str:
    """The first of the synonyms of a class."""
    return name.split(",")[0].strip().lower()


def read_json(path: Path, kind: type) -> dict[str, Any]:
    """A file with a JSON object, whose values are of one kind."""
    text = read_text(path)
    try:
        content = parse(text)
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
    if problem := mismatch(content, dict[str, kind]):
        raise ValueError(f"{path} is damaged, or no file of ObjectNet: {problem}")
    return content


def read_text(path: Path) -> str:
    """A text file of the data set."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist: wanted the folder of ObjectNet as it is "
            "distributed, with images/ and mappings/ in it"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from None
