"""Vision Transformers in JAX: `create_model`, `load`, `save`, `normalize`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = ["create_model", "load", "normalize", "save"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the data pipeline's worker processes do not import JAX.
    if name == "create_model":
        from vit_jax.models import create_model

        return create_model
    if name == "normalize":
        from vit_jax.models.pixels import normalize

        return normalize
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")


def load(
    path: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    resample: str = "bilinear",
    ema: bool = False,
    dtype: str = "auto",
    scan: bool = False,
    mesh: Any = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Loads `(model, params)` from a run folder or a checkpoint of others.

    `path` may also be the name of a public checkpoint, which is downloaded. With
    `scan`, the blocks are stacked, see `models/depth.py`. With a `jax.sharding.Mesh` of
    `vit_jax.parallel.sharding.make_mesh(data=1, fsdp=-1, tensor=1)`, each device holds
    its part of the parameters, and never more.
    """
    from vit_jax.interop.trained import load_trained
    from vit_jax.models.depth import scanned
    from vit_jax.parallel.placement import stack_layers

    run = load_trained(
        path,
        ema=ema,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        resample=resample,
        dtype=dtype,
        mesh=mesh,
        **options,
    )
    return (
        scanned(run.model, run.params, stack_layers)
        if scan
        else (run.model, run.params)
    )


def save(
    path: str | Path,
    model: Any,
    params: dict[str, Any],
    *,
    layout: str = "",
    label_names: Sequence[str] = (),
) -> None:
    """Writes a model as other projects read it.

    Args:
        path: .npz, .safetensors, or a folder.
        layout: "google", "big_vision", "timm", "huggingface" or "torchvision"; "" is
            "google" for .npz and "huggingface" for a folder.
        label_names: one for each output, for the layouts that hold them.

    Raises:
        ValueError: the layout cannot hold the model, is not for such a path, or has to
            be named.
    """
    from vit_jax.interop import Facts, save_checkpoint

    if label_names and len(label_names) != model.num_classes:
        raise ValueError(
            f"label_names has {len(label_names)} names, and the model "
            f"{model.num_classes} classes"
        )
    usual = {".npz": "google", "": "huggingface"}
    layout = layout or usual.get(Path(path).suffix, "")
    if not layout:
        raise ValueError(
            f"{path} can be of several layouts: name one, such as layout='timm'"
        )
    facts = Facts(label_names=tuple(label_names))
    save_checkpoint(path, model, params, layout=layout, facts=facts)
