"""What a run learns, by the config section `objective`."""

from typing import Annotated, Any

from vit_jax.config import chosen
from vit_jax.data.mix import make_mix
from vit_jax.evaluation.means import EvalStep, make_eval_step, make_multi_label_step
from vit_jax.losses import make_loss
from vit_jax.models import AnyModel
from vit_jax.training.labels import ONE_LABEL, Labels
from vit_jax.training.step import Objective, classification
from vit_jax.values import Choice, Positive, Range, Share


def make_objective(
    model: AnyModel,
    loss: dict[str, Any],
    mix: dict[str, Any],
    labels: Labels = ONE_LABEL,
    *,
    name: Annotated[str, Choice("classification", "distillation", "masked_patch")],
    target: Annotated[str, Choice("mean_colour", "downscaled", "pixels")],
    corrupt_rate: Annotated[float, Range(0, 1, left_open=True)],
    teacher: str,
    distillation: Annotated[str, Choice("hard", "soft")],
    alpha: Share,
    temperature: Positive,
) -> tuple[AnyModel, Objective, EvalStep]:
    """The model with the heads that it needs, its objective, its step of evaluation.

    Args:
        loss, mix: those sections of the config, of `make_loss` and `make_mix`; not for
            `masked_patch`.
        labels: how many an image has, and the weights of their classes.
        name: `classification`, `distillation` or `masked_patch`, which has no classes.
        target, corrupt_rate: of `masked_patch`, see there.
        teacher, distillation, alpha, temperature: of `distillation`, see there.

    Raises:
        ValueError: options that do not go together.
    """
    if name in ("classification", "distillation"):
        options = chosen(loss, make_loss)
        # Weights are of the training: the loss of an evaluation is that of all images.
        plain_loss, mixing = make_loss(**options), make_mix(**mix)
        loss_fn = make_loss(**options, weights=labels.weights)
        if name == "classification":
            objective = classification(model, loss_fn, mixing, labels.several)
        else:
            # Imported where it is asked for, as below: most runs have labels alone.
            from vit_jax.training.distillation import distil

            options = {"alpha": alpha, "temperature": temperature}
            objective = distil(
                model, loss_fn, mixing, teacher=teacher, kind=distillation, **options
            )
        if labels.several:
            return model, objective, make_multi_label_step(model, plain_loss)
        return model, objective, make_eval_step(model, plain_loss)
    for key, value, off in (
        ("loss.name", loss["name"], "softmax"),
        ("loss.label_smoothing", loss["label_smoothing"], 0),
        ("loss.round_up", loss["round_up"], False),
        ("loss.class_weights", loss["class_weights"], ""),
        ("mix.mixup_alpha", mix["mixup_alpha"], 0),
        ("mix.cutmix_alpha", mix["cutmix_alpha"], 0),
    ):
        if value != off:
            raise ValueError(
                f"objective.name='masked_patch' has no labels to which {key} could "
                f"apply, but it is {value!r}: set it to {off!r}"
            )
    from vit_jax.training.masked_patch import masked_patch

    return masked_patch(model, target, corrupt_rate)
