"""Checkpoints between layouts, checked by reading them back.

    python -m vit_jax.convert --checkpoint ViT-B_16.npz vit.safetensors --layout timm
    python -m vit_jax.convert --checkpoint runs/flowers flowers_hf --layout huggingface

The checkpoint is a run folder, a file or folder of any layout that `vit_jax.load`
knows, or the name of a public checkpoint. A folder that is written gets a model card,
README.md, unless it has one, and `huggingface_hub.upload_folder` takes it as it is.
"""

import argparse

from vit_jax import interop
from vit_jax.cli import (
    add_checkpoint_argument,
    add_model_options,
    command_parser,
    image_size,
    run_command,
)
from vit_jax.flags import Classes, Positive, flag
from vit_jax.interop.conversion import convert


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if not arguments.destination:
        raise ValueError(
            "a destination is needed: a file .npz or .safetensors, or a folder"
        )
    names = ("num_classes", "image_size", "patch_size", "resample", "ema")
    changes = {name: getattr(arguments, name) for name in names}
    changes |= arguments.model_options
    convert(
        arguments.checkpoint,
        arguments.destination,
        arguments.layout,
        license=arguments.license,
        **changes,
    )


if __name__ == "__main__":
    parser = command_parser("vit_jax.convert", __doc__)
    add_checkpoint_argument(
        parser, words="destination", most=1, help=".npz or .safetensors, or a folder"
    )
    add_model_options(parser)
    layouts = ", ".join(layout.NAME for layout in interop.LAYOUTS)
    parser.add_argument("--layout", required=True, help=layouts)
    parser.add_argument(
        "--num-classes", type=flag(Classes), help="a new zero head; 0 for none"
    )
    parser.add_argument(
        "--image-size", type=image_size, metavar="HxW", help="resamples positions"
    )
    parser.add_argument(
        "--patch-size", type=flag(Positive), help="resizes patches (FlexiViT)"
    )
    parser.add_argument(
        "--resample",
        default="auto",
        help="of the positions: auto, bilinear, bicubic, bicubic_plain, linear, ...",
    )
    parser.add_argument(
        "--ema", action="store_true", help="of a run, its averaged parameters"
    )
    parser.add_argument(
        "--license", default="", help="for the model card of a folder: apache-2.0, ..."
    )
    run_command(parser, main)
