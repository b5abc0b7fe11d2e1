"""Masked patch prediction: learning from images without labels (appendix B.1.2).

Of each image, a share of the patch embeddings is corrupted, and from the outputs of
those patches the model is to tell what their pixels were, in one of three ways
(`TARGETS`). Axes: `b` batch, `l` patches row by row, `k` predictions a patch.
"""

import dataclasses
from typing import Any, cast

import einops
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from vit_jax.evaluation.means import EvalStep
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.models.pixels import normalize
from vit_jax.training.step import Batch, Objective, Params, RandomKeys

TARGETS = ("mean_colour", "downscaled", "pixels")
# Upper bits of each channel that make a colour class, and how many classes there are.
BITS = 3
COLOURS = 2 ** (3 * BITS)
# Cells a side of the down-scaled patch.
CELLS = 4
# Of the corrupted patches: those that get the mask token, and another patch's
# embedding; the others keep their own.
MASKED, SWAPPED = 0.8, 0.1
# The masks of evaluation: the same examples have the same ones in every run.
EVALUATION_SEED = 0


def cut_patches(
    images: Float[Array, "b height width c"], patch_size: int
) -> Float[Array, "b l p q c"]:
    """The patches of images, row by row, each `patch_size` pixels a side."""
    pattern = "b (h p) (w q) c -> b (h w) p q c"
    return einops.rearrange(images, pattern, p=patch_size, q=patch_size)


def colour_class(colour: Float[Array, "*b 3"]) -> Int[Array, "*b"]:
    """The class in [0, 512) of a colour in [0, 255]: the upper 3 bits of R, G, B."""
    levels = jnp.clip(colour // 2 ** (8 - BITS), 0, 2**BITS - 1).astype(jnp.int32)
    return levels @ jnp.array([4**BITS, 2**BITS, 1], jnp.int32)


def corruption(
    key: jax.Array, patches: int, number: int
) -> tuple[Int[Array, " l"], Bool[Array, " l"]]:
    """Which patches of one image are corrupted, and by what.

    Args:
        patches: in the image.
        number: of patches that are corrupted, drawn without replacement.

    Returns:
        For each patch, the number of the one whose embedding it has, `patches` being
        the mask token; and whether it is corrupted.
    """
    which, how, where = jax.random.split(key, 3)
    corrupted = jax.random.permutation(which, patches) < number
    draw = jax.random.uniform(how, (patches,))
    own = jnp.arange(patches)
    # Of the same image: the paper does not say. Never its own.
    offset = jax.random.randint(where, (patches,), 1, max(patches, 2))
    source = jnp.where(draw < MASKED + SWAPPED, (own + offset) % patches, own)
    source = jnp.where(draw < MASKED, patches, source)
    return jnp.where(corrupted, source, own), corrupted


@dataclasses.dataclass(frozen=True)
class MaskedPatch:
    """Masked patch prediction with a model; its options are of the section `objective`.

    Attributes:
        model: with a `patch_outputs` of `outputs`.
        target: what is predicted of a corrupted patch. `mean_colour`: its class, of
            512; `downscaled`: the classes of its 4 x 4 cells; `pixels`: all of them,
            by least squares, in [-1, 1].
        corrupt_rate: share of the patches that are corrupted, rounded to whole ones.
    """

    model: VisionTransformer
    target: str
    corrupt_rate: float

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be trained so."""
        if not isinstance(self.model, VisionTransformer):
            raise ValueError(
                "objective.name='masked_patch' corrupts the patch embeddings of a ViT, "
                f"and the model is a {type(self.model).__name__}: take a ViT, or "
                "objective.name='classification'"
            )
        if self.target == "downscaled" and self.model.patch_size % CELLS:
            raise ValueError(
                f"objective.target='downscaled' cuts a patch into {CELLS} x {CELLS} "
                f"cells, but its side is {self.model.patch_size} pixels: take "
                "'mean_colour' or 'pixels'"
            )
        if not self.number:
            raise ValueError(
                f"objective.corrupt_rate is {self.corrupt_rate}: wanted a share of the "
                f"{self.patches} patches, at least one of them and at most all"
            )

    @property
    def patches(self) -> int:
        return self.model.grid[0] * self.model.grid[1]

    @property
    def number(self) -> int:
        """Patches that are corrupted in each image."""
        return round(self.corrupt_rate * self.patches)

    @property
    def outputs(self) -> int:
        """Number of outputs of the model for each patch."""
        side = self.model.patch_size
        sizes = (COLOURS, CELLS**2 * COLOURS, 3 * side**2)
        return sizes[TARGETS.index(self.target)]

    def answers(self, images: UInt8[Array, "b height width 3"]) -> Array:
        """What is to be predicted: classes (b l k), or pixels in [-1, 1] (b l k)."""
        if self.target == "pixels":
            patches = cut_patches(normalize(images), self.model.patch_size)
            return einops.rearrange(patches, "b l p q c -> b l (p q c)")
        cells = CELLS if self.target == "downscaled" else 1
        # Of the integers: a mean in [-1, 1] would miss the edges between classes.
        patches = cut_patches(images.astype(jnp.float32), self.model.patch_size)
        pattern = "b l (m p) (n q) c -> b l (m n) c"
        return colour_class(einops.reduce(patches, pattern, "mean", m=cells, n=cells))

    def scores(
        self,
        outputs: Float[Array, "b l n"],
        answers: Array,
        corrupted: Bool[Array, "b l"],
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Loss and accuracy of each image: means over its corrupted patches.

        The accuracy of `pixels` is that of the mean colour of what is predicted.
        """
        if self.target == "pixels":
            losses = (outputs - answers) ** 2
            mean, truth = (
                einops.reduce(x, "b l (n c) -> b l 1 c", "mean", c=3)
                for x in (outputs, answers)
            )
            # Back to [0, 255], and past the rounding of means that are on an edge.
            classes = [colour_class(127.5 * (x + 1) + 1e-3) for x in (mean, truth)]
            hits = classes[0] == classes[1]
        else:
            logits = einops.rearrange(outputs, "b l (k n) -> b l k n", n=COLOURS)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(
                logits, answers
            )
            hits = logits.argmax(-1) == answers
        mask = corrupted[..., None]
        loss, accuracy = (
            x.mean((1, 2), where=mask, dtype=jnp.float32) for x in (losses, hits)
        )
        return loss, accuracy

    def draw(self, keys: jax.Array) -> tuple[Int[Array, "b l"], Bool[Array, "b l"]]:
        """`corruption` of images, one key each."""
        return jax.vmap(lambda key: corruption(key, self.patches, self.number))(keys)

    def objective(self) -> Objective:
        """For training; needs no labels."""

        def prepare(batch: Batch, keys: RandomKeys) -> tuple[Array, Any]:
            images = batch["image"]
            sources, corrupted = self.draw(
                jax.random.split(keys.corruption, len(images))
            )
            return normalize(images), (self.answers(images), sources, corrupted)

        def loss(
            params: Params, images: Array, targets: Any, dropout_key: jax.Array
        ) -> tuple[Array, Array]:
            answers, sources, corrupted = targets
            applied: Any = self.model.apply(
                {"params": params},
                images,
                train=True,
                patch_sources=sources,
                rngs={"dropout": dropout_key},
            )
            loss, accuracy = self.scores(applied[1]["patches"], answers, corrupted)
            return loss.mean(), accuracy.mean()

        return Objective(prepare, loss)

    def eval_step(self) -> EvalStep:
        """Builds `(params, batch) -> sums` over the examples whose `mask` is True.

        Each example's corruption depends on its `index` alone.
        """
        key = jax.random.key(EVALUATION_SEED)

        def step(params: Params, batch: Batch) -> dict[str, Array]:
            keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(
                batch["index"].astype(jnp.uint32)
            )
            sources, corrupted = self.draw(keys)
            applied: Any = self.model.apply(
                {"params": params},
                normalize(batch["image"]),
                train=False,
                patch_sources=sources,
            )
            answers = self.answers(batch["image"])
            loss, accuracy = self.scores(applied[1]["patches"], answers, corrupted)
            mask = batch["mask"]
            return {
                "count": mask.sum(),
                "loss": (loss * mask).sum(),
                "accuracy": (accuracy * mask).sum(),
            }

        return step


def masked_patch(
    model: AnyModel, target: str, corrupt_rate: float
) -> tuple[VisionTransformer, Objective, EvalStep]:
    """The model with a head for patches instead of classes; how to train, to evaluate.

    Raises:
        ValueError: a model or options that do not go together.
    """
    vit = cast(VisionTransformer, model)  # `MaskedPatch` refuses the others
    outputs = MaskedPatch(vit, target, corrupt_rate).outputs
    vit = vit.clone(num_classes=0, patch_outputs=outputs)
    task = MaskedPatch(vit, target, corrupt_rate)
    return vit, task.objective(), task.eval_step()
