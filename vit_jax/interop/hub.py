"""Lists public checkpoints, or downloads some.

python -m vit_jax.interop.hub                 # the table
python -m vit_jax.interop.hub augreg/B_16     # downloads it, prints where it is
"""

import argparse

from vit_jax.interop.public import resolve, table


def main(arguments: argparse.Namespace) -> None:
    """The command: the table, or the path of each name, downloaded."""
    if not arguments.names:
        print(table())
    for name in arguments.names:
        print(resolve(name))


if __name__ == "__main__":
    from vit_jax.cli import command_parser, run_command

    parser = command_parser("vit_jax.interop.hub", __doc__)
    parser.add_argument("names", nargs="*", help="what to download; none: the table")
    run_command(parser, main)
