"""A model as one program with its weights inside, for machines without this library.

    python -m vit_jax.export --checkpoint runs/digits --output digits.stablehlo
    python -m vit_jax.export --checkpoint ViT-B_16.npz --output vit.onnx --logits

The first is StableHLO of `jax.export`, which `pip install jax flatbuffers` is enough to
run, on any of the platforms:

    import pathlib, jax.export, numpy as np
    content = pathlib.Path("digits.stablehlo").read_bytes()
    program = jax.export.deserialize(bytearray(content))
    images = np.zeros((3, 16, 16, 3), np.uint8)  # prepared as the .json beside it says
    print(program.call(images).argmax(axis=-1))

The second is ONNX, with input "images" and output "probabilities" or "logits", for
onnxruntime and others; it needs `pip install "vit_jax[onnx]"`. Either is run before it
is written, and must give what the model gives.
"""

import argparse

from vit_jax.cli import (
    add_checkpoint_argument,
    add_model_options,
    command_parser,
    run_command,
)
from vit_jax.interop.program_export import PLATFORMS, export
from vit_jax.interop.trained import load_trained
from vit_jax.models import DTYPES
from vit_jax.storage import output
from vit_jax.storage.paths import on_disk


def main(arguments: argparse.Namespace) -> None:
    """The command: writes the program and says what it is."""
    path = on_disk(arguments.output)
    for place in (path, path.with_name(f"{path.name}.json")):
        output.check(place, [arguments.checkpoint])
    run = load_trained(
        arguments.checkpoint,
        ema=arguments.ema,
        dtype=arguments.dtype,
        **arguments.model_options,
    )
    difference = export(
        run,
        path,
        logits=arguments.logits,
        platforms=arguments.platforms.split(","),
    )
    height, width = run.model.image_size
    print(
        f"{path}, {path.stat().st_size / 2**20:.1f} MiB: takes uint8 images (batch, "
        f"{height}, {width}, 3); its outputs differ from the model's by "
        f"{difference:.1g} at most"
    )
    print(f"how to prepare images, and the label names, are in {path}.json")


if __name__ == "__main__":
    parser = command_parser("vit_jax.export", __doc__)
    add_checkpoint_argument(parser)
    add_model_options(parser)
    parser.add_argument(
        "--output", required=True, help="file; ONNX if it ends in .onnx"
    )
    parser.add_argument(
        "--logits", action="store_true", help="give logits instead of probabilities"
    )
    parser.add_argument("--ema", action="store_true", help="use averaged parameters")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="of the computation"
    )
    parser.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        help="that a StableHLO program can run on (%(default)s; also rocm)",
    )
    run_command(parser, main)
