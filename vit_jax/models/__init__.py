"""Models by name."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.variants import parse_name
from vit_jax.models.vit import VisionTransformer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def create_model(
    name: str,
    *,
    num_classes: int,
    image_size: int | tuple[int, int] = 224,
    dtype: str = "auto",
    **options: Any,
) -> VisionTransformer:
    """Creates a model by name, such as `ViT-B/16`.

    Args:
        name: `ViT-<size>/<patch>`; sizes are in `vit_jax/models/variants.py`.
        num_classes: outputs of the head; 0 for no head.
        image_size: in pixels, one number for a square or (height, width).
        dtype: of the matrix products: `float32`, `bfloat16`, `float16`, or `auto`
            (bfloat16 on GPU and TPU, float32 on CPU).
        **options: the other attributes of `VisionTransformer`; the variant's own
            depth, width, mlp_dim or num_heads can be overridden too.

    Raises:
        ValueError: unknown name or dtype.
        TypeError: unknown option.
    """
    size, patch_size = parse_name(name)
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: wanted auto, {', '.join(DTYPES)}")
    return VisionTransformer(
        num_classes=num_classes,
        image_size=tuple(image_size),
        patch_size=patch_size,
        dtype=DTYPES[dtype],
        **(size._asdict() | options),
    )


def init_params(model: VisionTransformer, key: jax.Array) -> dict[str, Any]:
    """Draws new parameters: a nested dict of float32 arrays."""
    images = jnp.zeros((1, *model.image_size, 3), jnp.float32)
    init = jax.jit(functools.partial(model.init, train=False))
    return init(key, images)["params"]
