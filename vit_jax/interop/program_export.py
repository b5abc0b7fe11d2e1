"""A model as one program with its weights inside: StableHLO or ONNX.

A program is run before it is written, and must give the outputs of the model.
"""

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from jaxtyping import Array, Float, UInt8

from vit_jax.data import augment
from vit_jax.interop.trained import TrainedModel
from vit_jax.losses import probabilities
from vit_jax.models.attention import with_plain_attention
from vit_jax.models.pixels import normalize
from vit_jax.storage import output

PLATFORMS = ("cpu", "cuda", "tpu")
# Either format is one protobuf message, which cannot be longer.
MOST_BYTES = 2**31 - 2**24
# Largest difference between logits, over the largest logit.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}
Program = Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b n"]]


class ExportError(RuntimeError):
    """A program that could not be made, or whose outputs are not those of the model."""


def export(
    run: TrainedModel,
    path: Path,
    *,
    logits: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> float:
    """Writes a program from uint8 images to probabilities, and `<path>.json`.

    Args:
        run: from `load_trained`; the program computes in its model's dtype.
        path: ending in .onnx for ONNX; anything else is a StableHLO program.
        logits: give float32 logits instead, as for every model without a head.
        platforms: platforms of a StableHLO program: cpu, cuda, rocm, tpu.

    Returns:
        The largest difference from the model's outputs, for random images.

    Raises:
        ValueError: the weights are too large for one program.
        ExportError: it cannot be made, or gives other outputs than the model.
        ImportError: ONNX is wanted and its converter is not installed.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.params))
    if size > MOST_BYTES:
        raise ValueError(
            f"the weights have {size / 2**30:.2f} GiB, and a program holds less than "
            "2 GiB: convert the checkpoint instead, with vit_jax.convert"
        )
    logits = logits or not run.model.num_classes
    result = "logits" if logits else "probabilities"
    compute = make_program(run, logits=logits)
    if path.suffix == ".onnx":
        content = onnx_program(compute, run.model.image_size, result)
        call = onnx_caller(content)
    else:
        content = stablehlo_program(compute, run.model.image_size, platforms)
        call = jax.export.deserialize(bytearray(content)).call
    difference = compare(call, compute, run)
    text = json.dumps(usage(run, result), indent=2, ensure_ascii=False)
    with output.filling(path.parent) as folder:
        output.write(folder / path.name, content)
        output.write(folder / f"{path.name}.json", text + "\n")
    return difference


def make_program(run: TrainedModel, *, logits: bool) -> Program:
    """The function to be exported: uint8 images of the model's size to outputs."""
    # The machine that runs the program may not have the kernels of this one.
    model, params = with_plain_attention(run.model), run.params

    def compute(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b n"]:
        result, _ = model.apply({"params": params}, normalize(images), train=False)
        return result if logits else probabilities(result, run.loss["name"])

    return compute


def stablehlo_program(
    compute: Program, image_size: tuple[int, int], platforms: Sequence[str]
) -> bytes:
    """Serialised StableHLO for any number of images."""
    here = jax.export.default_export_platform()
    if here not in platforms:
        raise ValueError(
            f"platforms are {', '.join(platforms)}: {here} must be among them, since "
            "the program is checked on this machine"
        )
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_size, 3), np.uint8)
    try:
        exported = jax.export.export(jax.jit(compute), platforms=platforms)(images)
    except NotImplementedError as error:
        raise ExportError(
            f"the model cannot be lowered for all of {', '.join(platforms)}: {error}; "
            "leave one out with --platforms"
        ) from error
    return bytes(exported.serialize())


def onnx_program(compute: Program, image_size: tuple[int, int], name: str) -> bytes:
    """Serialised ONNX for any number of images."""
    if importlib.util.find_spec("jax2onnx") is None:
        raise ImportError(
            'ONNX needs a converter: `pip install "vit_jax[onnx]"`, or take a file '
            "name that does not end in .onnx for a StableHLO program"
        )
    # It warns of its own intermediate values.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    from jax2onnx import to_onnx

    images = jax.ShapeDtypeStruct(("batch", *image_size, 3), np.uint8)
    try:
        model = to_onnx(compute, [images], input_names=["images"], output_names=[name])
        return model.SerializeToString()
    # Each operation that it cannot convert raises another type.
    except Exception as error:
        raise ExportError(
            f"jax2onnx cannot convert this model ({type(error).__name__}: {error}); a "
            "StableHLO program can be written of any"
        ) from error


def onnx_caller(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Runs an ONNX program with onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def compare(call: Callable[..., Any], compute: Program, run: TrainedModel) -> float:
    """The largest difference between a program's outputs and the model's.

    Raises:
        ExportError: it is too large, or the shapes differ.
    """
    tolerance = TOLERANCES[np.dtype(run.model.dtype).name]
    shape = (3, *run.model.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = np.asarray(jax.jit(compute)(images))
    limit = tolerance * max(1.0, float(np.abs(expected).max()))
    largest = 0.0
    for count in (1, 3):
        outputs = np.asarray(call(images[:count]))
        if outputs.shape != expected[:count].shape:
            raise ExportError(
                f"the program gives {outputs.shape} for {count} images, and the model "
                f"{expected[:count].shape}; nothing was written"
            )
        largest = max(largest, float(np.abs(outputs - expected[:count]).max()))
    if not largest <= limit:
        raise ExportError(
            f"the program's outputs differ from the model's by {largest:.2g}, more "
            f"than {limit:.2g}; nothing was written"
        )
    return largest


def usage(run: TrainedModel, result: str) -> dict[str, Any]:
    """How to prepare images, and what the outputs mean."""
    size, data = run.model.image_size, run.data
    crops = data.eval_crop != "resize"
    return {
        "source": run.source,
        "input": f"uint8 RGB images of shape (batch, {size[0]}, {size[1]}, 3)",
        # Resized to the smallest image that covers resize_to.
        "keep_aspect": data.eval_crop == "resize_small_center_crop",
        "resize_to": augment.enlarged(size, data.eval_resize) if crops else size,
        "interpolation": data.eval_interpolation,
        "center_crop_to": size,
        "output": f"float32 {result}, a row an image",
        "loss": run.loss["name"],
        "label_names": run.label_names,
    }
