"""Attention limited to a radius, layer by layer, in a model as it was trained.

    radii = within(model, 1, layers=[0])
    logits, features = outputs_within(model, params, images, radii)

Distance is counted in patches, the larger of the rows and the columns between query and
key (Chebyshev), so that a radius r is a window of (2r + 1)^2 patches, as that of a
convolution: `attention.attention_mass_within` has the same one. The logits of keys
further away are minus infinity, so that the softmax is over those within.

Tokens before the patches (class token, registers) see all, and are seen by all. A limit
in the last layer therefore changes nothing for a model that classifies by such a token.

The mask is added from outside, by an interceptor of Flax around each attention of the
encoder: models and training know nothing of it.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from vit_jax.analysis.attention import steps_apart
from vit_jax.analysis.features import apply
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.models.attention import MultiHeadAttention


def everything(model: AnyModel) -> int:
    """The smallest radius in patches that hides nothing.

    Raises:
        ValueError: a model without full attention over patches.
    """
    if not isinstance(model, VisionTransformer) or model.attention != "full":
        kind = "axial attention" if isinstance(model, VisionTransformer) else "none"
        raise ValueError(
            "attention within a radius needs a ViT or hybrid with full attention over "
            f"patches, but the {type(model).__name__} has {kind}"
        )
    return max(model.grid) - 1


def within(
    model: AnyModel, radius: int, layers: Iterable[int]
) -> Int[np.ndarray, " layers"]:
    """A radius for each layer: `radius` in these, and all patches in the others.

    Args:
        layers: numbers from 0 on.

    Raises:
        ValueError: as `everything`, or a negative radius.
    """
    if radius < 0:
        raise ValueError(f"the radius is {radius} patches: wanted 0 or more")
    radii = np.full(model.depth, everything(model))
    radii[list(layers)] = radius
    return radii


@partial(jax.jit, static_argnames="model")
def outputs_within(
    model: AnyModel,
    params: Any,
    images: Float[Array, "b height width 3"],
    radii: Int[ArrayLike, " layers"],
) -> tuple[Float[Array, "b n"], Float[Array, "b d"]]:
    """Logits and pre-logits of a model whose layers see within their radius only.

    Compiled once for a model and a shape of images: radii are arguments. Radii of
    `everything` or more give the bits of the model as it is.

    Args:
        images: in [-1, 1], of the model's size.
        radii: of each layer, in patches, from 0: each patch sees itself and the tokens
            before the patches.

    Raises:
        ValueError: as `everything`.
    """
    everything(model)
    distances = jnp.pad(
        jnp.asarray(steps_apart(model.grid)), ((model.num_prefix_tokens, 0),) * 2
    )

    def limited(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, method = context.module, context.method_name
        layer = re.fullmatch(r"encoder/block_(\d+)/\w+", "/".join(module.path))
        if not (layer and isinstance(module, MultiHeadAttention)):
            return call(*args, **kwargs)
        hidden = jnp.where(distances > jnp.asarray(radii)[int(layer[1])], -jnp.inf, 0.0)
        hidden = jnp.broadcast_to(hidden, (1, module.num_heads, *hidden.shape))
        if method == "relative_logits":
            return call(*args, **kwargs) + hidden
        # The attention's own relative logits are made only if it gets no other bias.
        if method == "__call__" and not (module.relative and kwargs["bias"] is None):
            bias = kwargs["bias"]
            kwargs = kwargs | {"bias": hidden if bias is None else bias + hidden}
        return call(*args, **kwargs)

    with nn.intercept_methods(limited):
        logits, out = apply(model, params, images)
    return logits, out["pre_logits"]


class Limited(NamedTuple):
    """What a model keeps when its attention is limited to a radius.

    Attributes:
        measure: "accuracy" on known labels; else "agreement", the share of images whose
            first class stays the same; else, of a model without classes, "similarity",
            the mean cosine of its pre-logits to those without a limit.
        whole: its value without a limit.
        radii: in patches, from 0 on.
        values: a row for a limit in each layer alone, the last for one in all layers.
    """

    measure: str
    whole: float
    radii: list[int]
    values: Float[np.ndarray, "rows radii"]


def limited(
    model: AnyModel,
    params: Any,
    images: Float[Array, "b height width 3"],
    labels: Int[np.ndarray, " b"] | None = None,
    *,
    batch_size: int = 16,
) -> Limited:
    """Accuracy, or agreement with the model as it is, by layer and radius.

    Radii are 0 and the powers of two that hide something.

    Args:
        images: in [-1, 1], of the model's size.
        labels: of the images; None if they are not known.
        batch_size: images on the device at a time.

    Raises:
        ValueError: as `everything`, or a model of a single patch.
    """
    far = everything(model)
    radii = [0, *(2**n for n in range(far.bit_length()) if 2**n < far)]
    if not far:
        raise ValueError("attention within a radius needs an image of several patches")

    def outputs(limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First classes and normalised pre-logits of all images."""
        parts = [
            outputs_within(model, params, images[i : i + batch_size], limits)
            for i in range(0, len(images), batch_size)
        ]
        logits, features = (
            np.concatenate([np.asarray(x, np.float32) for x in group])
            for group in zip(*parts, strict=True)
        )
        unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
        return logits.argmax(-1), unit

    layers = range(model.depth)
    classes, features = outputs(within(model, far, layers))

    def value(limits: np.ndarray) -> float:
        ours, near = outputs(limits)
        if not model.num_classes:
            return float((near * features).sum(-1).mean())
        return float((ours == (classes if labels is None else labels)).mean())

    rows = [*([n] for n in layers), layers]
    values = [[value(within(model, r, row)) for r in radii] for row in rows]
    known = "agreement" if labels is None else "accuracy"
    return Limited(
        measure=known if model.num_classes else "similarity",
        whole=value(within(model, far, layers)),
        radii=radii,
        values=np.array(values),
    )
