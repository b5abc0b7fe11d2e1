"""Distillation: learning from the labels and from a teacher (arXiv 2012.12877).

The teacher is any checkpoint, of any family, with the classes of the data: a ResNet
hands its inductive bias on to a ViT. It sees the images that the student sees, cropped,
augmented and mixed. Its parameters come with each batch, and so are in no checkpoint
and in no optimizer.
"""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from vit_jax.data.mix import Mix
from vit_jax.interop.trained import load_model, load_trained
from vit_jax.losses import LossFn
from vit_jax.models import AnyModel
from vit_jax.training.initial_weights import same_classes
from vit_jax.training.step import (
    Batch,
    Objective,
    Params,
    RandomKeys,
    classification,
)


def hard_loss(
    logits: Float[Array, "b n"], teacher: Float[Array, "b n"]
) -> Float[Array, " b"]:
    """Cross-entropy with the teacher's decision as the label (Eq. 3)."""
    labels = teacher.argmax(-1)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def soft_loss(
    logits: Float[Array, "b n"], teacher: Float[Array, "b n"], temperature: float
) -> Float[Array, " b"]:
    """Divergence from the teacher at a temperature, times its square (Eq. 2).

    The square keeps the gradient's size. As in the text: the authors' code divides by
    the number of classes too.
    """
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher))
    divergence = optax.losses.kl_divergence_with_log_targets(student, teacher)
    return temperature**2 * divergence


def distil(
    model: AnyModel,
    loss_fn: LossFn,
    mix: Mix,
    *,
    teacher: str,
    kind: str,
    alpha: float,
    temperature: float,
) -> Objective:
    """Learning `1 - alpha` from the labels, `alpha` from the teacher.

    The head of a distillation token, where the model has one, learns from the teacher,
    and the class token's head from the labels (section 4): each from its part alone,
    though the model classifies by the mean of both. Without, one head learns from both.

    Args:
        teacher: what `load_trained` takes.
        kind: `hard` or `soft`, the losses above.
        alpha: share of the teacher in the loss, in [0, 1].
        temperature: of `soft`.

    Raises:
        ValueError: no teacher, or one that cannot teach this model.
        CheckpointError, OSError: the teacher cannot be read.
    """
    if not teacher:
        raise ValueError(
            "objective.name='distillation' needs a trained model to learn from: set "
            "objective.teacher to a run folder, a file or a public name"
        )
    guide = load_model(teacher).clone(image_size=model.image_size, dtype=model.dtype)
    if guide.num_classes != model.num_classes:
        raise ValueError(
            f"objective.teacher={teacher!r} has {guide.num_classes} classes, and the "
            f"data {model.num_classes}: take a teacher trained on the same classes"
        )
    supervised = classification(model, loss_fn, mix)

    def prepare(batch: Batch, keys: RandomKeys) -> tuple[Array, Any]:
        images, labels = supervised.prepare(batch, keys)
        logits, _ = guide.apply({"params": batch["teacher"]}, images, train=False)
        return images, (labels, logits)

    def loss(
        params: Params, images: Array, targets: Any, dropout_key: jax.Array
    ) -> tuple[Array, Array]:
        labels, advice = targets
        applied: Any = model.apply(
            {"params": params}, images, train=True, rngs={"dropout": dropout_key}
        )
        logits, out = applied
        own = out.get("class_logits", logits)
        pupil = out.get("distillation_logits", logits)
        if kind == "hard":
            taught = hard_loss(pupil, advice)
        else:
            taught = soft_loss(pupil, advice, temperature)
        losses = (1 - alpha) * loss_fn(own, labels) + alpha * taught
        return losses.mean(), (logits.argmax(-1) == labels.argmax(-1)).mean()

    return Objective(prepare, loss, guide)


def load_teacher(
    teacher: str,
    image_size: tuple[int, int],
    label_names: tuple[str, ...],
    mesh: jax.sharding.Mesh,
) -> Params:
    """The teacher's parameters for an image size, divided over a mesh.

    Raises:
        ValueError: its classes are others, or in another order.
        CheckpointError, OSError: it cannot be read.
    """
    run = load_trained(teacher, image_size=image_size, mesh=mesh)
    if not same_classes(run.label_names, label_names):
        raise ValueError(
            f"objective.teacher={teacher!r} knows the classes {some(run.label_names)}, "
            f"and the data has {some(label_names)}: they must be the same, in the same "
            "order"
        )
    return run.params


def some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
