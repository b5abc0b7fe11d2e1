"""Checkpoints between layouts, checked by reading them back.

    python -m vit_jax.convert ViT-B_16.npz vit.safetensors --layout timm
    python -m vit_jax.convert runs/flowers flowers_hf --layout huggingface

The source is a run folder, a file or folder of any layout that `vit_jax.load` knows, or
the name of a public checkpoint.
"""

import argparse
import re

from vit_jax import interop
from vit_jax.cli import run_command
from vit_jax.interop.conversion import convert


def image_size(text: str) -> tuple[int, int]:
    """Reads `384` or `384x512` (height x width).

    Raises:
        ArgumentTypeError: the text is neither.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted HEIGHTxWIDTH, like 384x512")
    return int(match[1]), int(match[2] or match[1])


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    names = ("num_classes", "image_size", "patch_size", "resample", "ema")
    changes = {name: getattr(arguments, name) for name in names}
    convert(arguments.source, arguments.destination, arguments.layout, **changes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.convert", description="Convert a checkpoint."
    )
    parser.add_argument("source", help="run folder, file, folder, or public name")
    parser.add_argument("destination", help=".npz or .safetensors, or a folder")
    layouts = ", ".join(layout.NAME for layout in interop.LAYOUTS)
    parser.add_argument("--layout", required=True, help=layouts)
    parser.add_argument("--num-classes", type=int, help="a new zero head; 0 for none")
    parser.add_argument(
        "--image-size", type=image_size, metavar="HxW", help="resamples positions"
    )
    parser.add_argument("--patch-size", type=int, help="resizes patches (FlexiViT)")
    parser.add_argument("--resample", default="bilinear", help="bilinear or bicubic")
    parser.add_argument(
        "--ema", action="store_true", help="of a run, its averaged parameters"
    )
    run_command(parser, main)
