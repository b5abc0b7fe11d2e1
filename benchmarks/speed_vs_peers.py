"""Images/s of training and inference: ours beside timm and other JAX projects.

    python -m benchmarks.speed_vs_peers --torch-python torch-env/bin/python
    python -m benchmarks.speed_vs_peers --models ViT-B/16,BiT-R50x1 --mode train \\
        --peers timm,timm-compiled --dtype bfloat16 --jax-python new=jax-env/bin/python
    python -m benchmarks.speed_vs_peers --models mini --batch 128 --peers linen \\
        --against HEAD~1
    python -m benchmarks.speed_vs_peers --device gpu --dtype bfloat16 --batch 128 \\
        --peers timm-compiled --torch-python torch-env/bin/python

Every peer takes the same: random uint8 pixels that stay on the device, 224 px and 1000
classes (`mini`: 32 px and 10), no dropout, mean softmax loss, clipping at the global
norm 1 and AdamW. Peers work in turns and must have equal numbers of parameters.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.peers.lineup import (
    CHECKOUTS,
    MODES,
    PEERS,
    Case,
    add_arguments,
    lineup,
    takes_part,
)
from benchmarks.peers.turns import compare, report
from vit_jax.cli import command_parser, run_command
from vit_jax.flags import BatchSize, flag


def main(arguments: argparse.Namespace) -> None:
    """Measures each model in each mode."""
    results = []
    names = [name for name in arguments.peers.split(",") if name]
    modes = MODES if arguments.mode == "both" else (arguments.mode,)
    with tempfile.TemporaryDirectory() as temporary:
        peers = lineup(arguments, [*names, *CHECKOUTS], Path(temporary))
        for model in arguments.models.split(","):
            for mode in modes:
                case = Case(model, arguments.batch, arguments.dtype, mode)
                able = [peer for peer in peers if takes_part(peer.name, case)]
                results.append(compare(case, able, arguments))
                print(report(results[-1]), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = command_parser("benchmarks.speed_vs_peers", __doc__)
    parser.add_argument("--models", default="ViT-Ti/16,ViT-S/16")
    parser.add_argument("--batch", type=flag(BatchSize), default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--mode", default="both", choices=(*MODES, "both"))
    known = ", ".join(name for name in PEERS if name not in CHECKOUTS)
    parser.add_argument("--peers", default="timm,linen", help=f"of {known}")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--json", help="file for the figures")
    add_arguments(parser)
    run_command(parser, main)
