"""`vit_jax.load` and `vit_jax.save`: trained models in Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.typing import DTypeLike

from vit_jax.interop import Facts, save_checkpoint
from vit_jax.interop.model_card import Origin
from vit_jax.interop.trained import load_trained
from vit_jax.models import AnyModel
from vit_jax.models.depth import scanned
from vit_jax.parallel.placement import stack_layers

USUAL_LAYOUTS = {".npz": "google", "": "huggingface"}


def load(
    path: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    resample: str = "auto",
    ema: bool = False,
    dtype: DTypeLike = "auto",
    scan: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> tuple[AnyModel, dict[str, Any]]:
    """Loads `(model, params)` from a run, or from a checkpoint of another project.

    `model.apply({"params": params}, images)` gives logits (b, num_classes) and a dict
    of activations; images are floats in [-1, 1] of shape (b, *model.image_size, 3),
    from `vit_jax.normalize`. The logger "vit_jax" gets the content of a file and each
    change of it as INFO, and what the file does not have as WARNING.

    Args:
        path: the folder of a run, whose newest whole checkpoint is taken; a file
            (.npz, or its part `file.npz:img`, .safetensors, .pth) or folder of timm,
            Hugging Face, torchvision, ViT-5, vision_transformer or big_vision; or the
            name of a public one, such as "timm/vit_base_patch16_224.augreg_in21k" or
            "augreg/B_16", which is downloaded once: `python -m vit_jax.interop.hub`
            lists them.
        num_classes: None keeps the head; another number than the checkpoint's gives a
            new head of zeros, 0 no head, so that the logits are the representation
            (b, d).
        image_size: (height, width) in pixels, or the side of a square; None keeps the
            checkpoint's. Positions are resampled.
        patch_size: in pixels; None keeps the checkpoint's. The kernel of the patches is
            resized (FlexiViT), and positions are resampled if their number changes.
        resample: filter for positions: "bilinear" (the paper's), "bicubic" (timm's),
            "bicubic_plain" (transformers'), "linear" or "linear_plain" (FlexiViT's, for
            patches too); "auto" is that of the code that the checkpoint is of.
        ema: take the moving average of the parameters of a run.
        dtype: of the computation: float32, bfloat16 or float16, by name or as NumPy and
            JAX have them; "auto" is the run's own, else bfloat16 on GPU and TPU and
            float32 on CPU. The parameters are float32 always.
        scan: stack the blocks and run them in a loop, which compiles in a fraction of
            the time (`vit_jax/models/depth.py`).
        mesh: from `vit_jax.parallel.sharding.make_mesh(data=1, fsdp=-1, tensor=1)`:
            each of its devices gets its part of the parameters and never holds more.
            None puts all on the first device.
        **options: other attributes of the model, such as `dropout_rate` or, where a
            file does not have them, `activation` and `norm_epsilon`; and `layout`, the
            name of a file's layout if it is ambiguous.

    Returns:
        The model, and its parameters as nested dicts of float32 arrays.

    Raises:
        OSError: no such file, folder or public name, or it cannot be downloaded.
        ConfigError: a folder that is neither that of a run nor has weights in it.
        CheckpointError: a run without a checkpoint that can be read, or no average.
        ValueError: no known layout, tensors that are missing or misshapen, or an option
            that the model does not have; the message names what is wanted.
        TypeError: an option that no model has; names the nearest.
    """
    trained = load_trained(
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
    if scan:
        return scanned(trained.model, trained.params, stack_layers)
    return trained.model, trained.params


def save(
    path: str | Path,
    model: AnyModel,
    params: dict[str, Any],
    *,
    layout: str = "",
    label_names: Sequence[str] = (),
    source: str = "",
    license: str = "",
) -> None:
    """Writes a model as other projects read it.

    A folder gets a model card too, README.md, unless it has one, and can be uploaded by
    `huggingface_hub.upload_folder`.

    Args:
        path: .npz, .safetensors, or a folder.
        model, params: as from `load`; the blocks may be stacked.
        layout: "google", "big_vision", "timm", "huggingface", "torchvision" or "vit5";
            "" is "google" for .npz and "huggingface" for a folder.
        label_names: one for each output, for the layouts that hold them.
        source: for the card, where the model comes from: "run 3 of our sweep".
        license: for the card, its identifier on the hub, such as "apache-2.0".

    Raises:
        ValueError: the layout cannot hold the model, is not for such a path, or has to
            be named.
    """
    if label_names and len(label_names) != model.num_classes:
        raise ValueError(
            f"label_names has {len(label_names)} names, and the model "
            f"{model.num_classes} classes"
        )
    layout = layout or USUAL_LAYOUTS.get(Path(path).suffix, "")
    if not layout:
        raise ValueError(
            f"{path} can be of several layouts: name one, such as layout='timm'"
        )
    facts = Facts(label_names=tuple(label_names))
    origin = Origin(source=source, license=license)
    save_checkpoint(path, model, params, layout=layout, facts=facts, origin=origin)
