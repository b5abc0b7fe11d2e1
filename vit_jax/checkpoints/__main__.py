"""Lists, verifies or prunes the checkpoints of a run.

    python -m vit_jax.checkpoints runs/digits --verify
    python -m vit_jax.checkpoints runs/digits --prune --keep-last 1 --keep-best 1

Nothing is changed without `--prune`, which is refused while a training writes to the
folder. The exit code is 1 if one is damaged.
"""

import argparse
import contextlib
import json
from pathlib import Path

from vit_jax.checkpoints.listing import (
    find_directory,
    find_retention,
    leftovers,
    look_at_all,
    table,
    to_prune,
)
from vit_jax.checkpoints.retention import remove
from vit_jax.cli import command_parser, run_command
from vit_jax.flags import Number, Positive, flag
from vit_jax.storage import output
from vit_jax.storage.lock import held
from vit_jax.storage.paths import absolute, as_path


def main(arguments: argparse.Namespace) -> None:
    """The command.

    Raises:
        FolderInUse: steps are to be removed while a training writes.
        RuntimeError: a step is damaged.
    """
    folder = arguments.directory or arguments.checkpoint
    if not folder:
        raise ValueError("give the folder of a run, or of its checkpoints")
    directory = absolute(find_directory(as_path(folder)))
    removes = arguments.prune and not arguments.dry_run
    with held(directory.parent) if removes else contextlib.nullcontext():
        report_on(directory, arguments)


def report_on(directory: Path, arguments: argparse.Namespace) -> None:
    """Looks at all steps, removes what is to be removed, and says so."""
    retention = find_retention(directory, arguments)
    rows = look_at_all(directory, retention, checksums=arguments.verify)
    if arguments.json not in (None, "-"):
        output.check(as_path(arguments.json), [directory])
    removed = to_prune(rows) if arguments.prune else []
    if not arguments.dry_run:
        remove(directory, removed)
    others = leftovers(directory)
    report = {"steps": [row._asdict() for row in rows], "removed": removed, **others}
    text = json.dumps(report, indent=1) + "\n"
    if arguments.json == "-":
        print(text, end="")
    else:
        print(table(rows))
        for kind, folders in others.items():
            for folder in folders:
                print(f"{kind}: {folder['path']}  {folder['bytes'] / 1e6:.1f} MB")
        if arguments.prune:
            verb = "would remove" if arguments.dry_run else "removed"
            print(f"{verb}: {', '.join(map(str, removed)) or 'nothing'}")
    if arguments.json not in (None, "-"):
        output.write(as_path(arguments.json), text)
    if damaged := [str(row.step) for row in rows if row.problem]:
        raise RuntimeError(
            f"damaged: step {', '.join(damaged)}. Training and evaluation pass over "
            "damaged steps and take the newest whole one"
        )


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = command_parser("vit_jax.checkpoints", __doc__)
    parser.add_argument("directory", nargs="?", help="of a run, or of its checkpoints")
    # The spelling of other commands.
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all files and compare checksums; else only that files and sizes fit",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove what none of the --keep options keeps (default: the run's config)",
    )
    parser.add_argument(
        "--keep-last", type=flag(Positive), metavar="N", help="newest steps"
    )
    parser.add_argument(
        "--keep-best", type=flag(Number), metavar="N", help="steps, by metric"
    )
    parser.add_argument(
        "--keep-every", type=flag(Number), metavar="N", help="multiples of N"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with --prune: say what would be removed"
    )
    parser.add_argument("--json", metavar="FILE", help="the same as JSON; - for stdout")
    return parser


if __name__ == "__main__":
    run_command(make_parser(), main)
