"""Ours beside timm and other projects on this processor: docs/performance.md's tables.

    python -m benchmarks.performance --torch-python torch-env/bin/python \\
        --jax-python new=jax-env/bin/python \\
        --google checkouts/vision_transformer --big-vision checkouts/big_vision
    python -m benchmarks.performance --only ViT-Ti/16 --rounds 3 ...
    python -m benchmarks.performance --render

Each processor has a file of its own in docs/results/performance, from which all tables
are rendered; a case that is measured again replaces the earlier one. The file and the
page are written after each case.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.commit import ROOT
from benchmarks.peers.lineup import (
    MODES,
    PEERS,
    Case,
    add_arguments,
    lineup,
    takes_part,
)
from benchmarks.peers.tables import (
    file_name,
    load,
    render,
    replace_block,
    save,
    this_processor,
)
from benchmarks.peers.turns import compare, report
from vit_jax.cli import command_parser, run_command

PAGE = ROOT / "docs/performance.md"
FOLDER = ROOT / "docs/results/performance"
# All peers of a case are in memory at once: some 15 GB with these.
BATCHES = {
    "ViT-Ti/16": 16,
    "ViT-S/16": 8,
    "ViT-B/16": 4,
    "R50+ViT-B/16": 4,
    "BiT-R50x1": 8,
    "mini": 128,
}
CASES = tuple(
    Case(model, batch, dtype, mode)
    for model, batch in BATCHES.items()
    for dtype in ("float32", "bfloat16")
    for mode in MODES
    # ResNets are compared in float32 alone.
    if dtype == "float32" or model == "mini" or model.startswith("ViT-")
)


def write_page(page: Path, folder: Path) -> None:
    """Renders the files of all processors into the page."""
    measured = [load(path, {}) for path in sorted(folder.glob("*.json"))]
    text = page.read_text(encoding="utf-8")
    text = replace_block(text, "peers", render(measured, CASES))
    page.write_text(text, encoding="utf-8")


def measure(arguments: argparse.Namespace) -> None:
    """Measures the cases one by one.

    Raises:
        ValueError: no case has the name of `--only`.
        RuntimeError: cases failed, of which each was reported.
    """
    cases = [case for case in CASES if arguments.only in case.name]
    if not cases:
        raise ValueError(f"no case has {arguments.only} in its name")
    processor = this_processor()
    path = FOLDER / file_name(processor)
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        peers = lineup(arguments, PEERS, Path(temporary))
        for case in cases:
            able = [peer for peer in peers if takes_part(peer.name, case)]
            try:
                result = compare(case, able, arguments)
            except RuntimeError as error:
                print(f"error: {case.name}: {error}", flush=True)
                failed.append(case.name)
                continue
            print(report(result), flush=True)
            measured = load(path, processor)
            measured["results"][case.name] = result
            save(path, measured)
            write_page(PAGE, FOLDER)
    if failed:
        raise RuntimeError(f"not measured: {'; '.join(failed)}")


def main(arguments: argparse.Namespace) -> None:
    """Measures and writes, or writes alone."""
    if arguments.render:
        write_page(PAGE, FOLDER)
    else:
        measure(arguments)


if __name__ == "__main__":
    parser = command_parser("benchmarks.performance", __doc__)
    names = "; ".join(case.name for case in CASES)
    parser.add_argument("--only", default="", help=f"a part of a case's name: {names}")
    parser.add_argument("--render", action="store_true", help="write the page alone")
    add_arguments(parser)
    parser.set_defaults(device="cpu")
    run_command(parser, main)
