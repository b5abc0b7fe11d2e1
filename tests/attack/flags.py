"""Flags of every command with numbers that they cannot mean, by reflection."""

import argparse
import contextlib
import functools
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attack.configs import SMALL
from attack.damages import copied, tree
from attack.outcomes import Attack, Outcome, judge, run
from attack.outputs import filled
from attack.pictures import plain_folder
from vit_jax import cli

TEXTS = ("0", "-1", "nan", "inf", "-inf", "1e400", "", "abc", "9" * 30, "1.5", "-0.5")
# What some of the flags can mean.
MAY = ("0", "1.5")
SHORT = " ".join(f"--config.{text}" for text in SMALL)
# What each command needs besides the flag.
NEEDED = {
    "vit_jax.evaluate": "--checkpoint RUN --output OUT",
    "vit_jax.predict": "--checkpoint RUN --split test",
    "vit_jax.convert": "--checkpoint RUN OUT --layout huggingface",
    "vit_jax.export": "--checkpoint RUN --output OUT",
    "vit_jax.checkpoints": "RUN --prune",
    "vit_jax.plan": "--model ViT-mu/8",
    "vit_jax.benchmark": "--model ViT-mu/8 --batch 8 --steps 5",
    "vit_jax.analysis": "--checkpoint RUN --split test --output OUT",
    "vit_jax.data.check": "--config folder:data=DATA,model=ViT-mu/8,size=32",
    "vit_jax.data.prepare": "DATA --output OUT",
    "vit_jax.fleet": f"--config digits --workdir OUT {SHORT}",
    "vit_jax.train": f"--config digits --workdir OUT {SHORT}",
}


class Found(Exception):
    """Carries a parser out of its command."""


@functools.cache
def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser of a command."""

    def take(parser: argparse.ArgumentParser, *_: object, **__: object) -> Any:
        raise Found(parser)

    kept = cli.run_command, cli.parse
    cli.run_command = cli.parse = take
    try:
        with contextlib.suppress(SystemExit), warnings.catch_warnings():
            # Python warns if the module was imported before; it is run anew.
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Found as found:
        return found.args[0]
    finally:
        cli.run_command, cli.parse = kept
    raise AssertionError(f"{module} has no parser")


def numeric(module: str) -> list[str]:
    """The flags of a command that take a number."""
    return [
        action.option_strings[0]
        for action in parser_of(module)._actions
        if action.option_strings and action.type is not None
    ]


def flags() -> Iterator[Attack]:
    """Every flag with a type, of every command."""
    for module in NEEDED:
        for flag in numeric(module):
            for text in TEXTS:

                def act(
                    folder: Path,
                    module: str = module,
                    flag: str = flag,
                    text: str = text,
                ) -> tuple[Outcome, str]:
                    places = {
                        "RUN": copied(folder),
                        "DATA": plain_folder(folder),
                        "OUT": folder / "out",
                    }
                    words = [filled(word, places) for word in NEEDED[module].split()]
                    before = tree(folder / "run")
                    ending = run(module, *words, f"{flag}={text}")
                    if tree(folder / "run") != before:
                        return Outcome.SILENT, f"the run was changed; {ending.said}"
                    name = flag.removeprefix("--")
                    names = (name, name.replace("-", "_"), *name.split("-"))
                    names += (name.rstrip("s"),)
                    begun = (folder / "out",)
                    may = text in MAY or (flag, text) == ("--fsdp", "-1")
                    told = r"stopped by loss is nan"
                    return judge(ending, names=names, begun=begun, same=may, told=told)

                good = (Outcome.REFUSED, Outcome.SAME, Outcome.TOLD)
                yield Attack("flags", f"{module} {flag}={text[:12]}", act, good)
