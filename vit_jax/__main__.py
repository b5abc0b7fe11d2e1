"""`python -m vit_jax` and `vit-jax`: all commands, and each by its name."""

from vit_jax.command_list import start

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "convert",
    "export",
    "plan",
    "benchmark",
    "sweep",
    "fleet",
    "analysis",
    "checkpoints",
    "interop.hub",
    "data.prepare",
    "data.check",
    "data.sample_photos",
)


def main() -> None:
    """The entry point of `vit-jax`."""
    start("vit_jax", COMMANDS)


if __name__ == "__main__":
    main()
