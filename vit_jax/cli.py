"""What the commands share: flags, and errors as one sentence."""

import argparse
import difflib
import io
import logging
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax

from vit_jax import config
from vit_jax.parallel import distributed
from vit_jax.parallel.host_memory import keep_freed_memory
from vit_jax.storage import output
from vit_jax.values import describe, problem, read_text

CHECKPOINT_HELP = "folder of a run, file, folder or public name of other weights"
CONFIG_HELP = (
    "name or file, as digits or mine.py, and arguments, as finetune:dataset=pets; "
    "--config.section.key=value changes any value of it"
)

IMAGE_SIZE_HELP = "pixels, as 384 or 384x512 (height x width); positions are resampled"


def command_parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m module`, whose docstring its `--help` shows."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_command(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None]
) -> NoReturn:
    """Parses the arguments and runs a command.

    Arguments `--config.section.key=value` are collected in `overrides`, those of
    `--model.option=value` in `model_options`. An error that a user can mend ends in one
    sentence on stderr and exit code 1.
    """
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    arguments = parse(parser, sys.argv[1:])
    sys.stdout = Terminal(sys.stdout)  # pyright: ignore[reportAttributeAccessIssue]
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    # By force, since importing Orbax has given the root logger a handler already.
    logging.basicConfig(handlers=[handler], force=True)
    # What was found in a checkpoint, and what is changed of it.
    logging.getLogger("vit_jax").setLevel(logging.INFO)
    # Orbax warns at every restore of a tree without shardings; ours always has them.
    warnings.filterwarnings("ignore", module="orbax|etils|google")
    cache_compilation()
    keep_freed_memory()
    try:
        command(arguments)
    except (ValueError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
        if arguments.traceback:
            traceback.print_exc()
        print(output.printable(f"error: {error}", lines=True), file=sys.stderr)
        distributed.leave(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        distributed.leave(1)
    sys.exit(0)


class Terminal:
    """A stream that gets escapes for what names of files and classes may hold.

    That is what a terminal would obey or the stream cannot encode: control characters
    but newlines and tabs, and bytes that are not UTF-8.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        return self._stream.write(output.printable(text, lines=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PrintableFormatter(logging.Formatter):
    """Lines of the log with the escapes of `Terminal`."""

    def format(self, record: logging.LogRecord) -> str:
        return output.printable(super().format(record), lines=True)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The arguments; exits with the nearest flag if one is misspelt."""
    words = [checked_flag(parser, word) for word in words]
    arguments, rest = parser.parse_known_intermixed_args(words)
    arguments.overrides = [text for text in rest if text.startswith("--config.")]
    surplus = [text for text in rest if text not in arguments.overrides]
    if "model_options" in arguments:
        options = [text for text in surplus if text.startswith("--model.")]
        surplus = [text for text in surplus if text not in options]
        arguments.model_options = read_model_options(parser, options)
    if getattr(arguments, "init", None):
        arguments.overrides.append(f"--config.init={arguments.init}")
    if "words" in arguments:
        surplus += take_words(parser, arguments)
    if surplus:
        parser.error(f"unknown arguments: {' '.join(surplus)}")
    return arguments


def checked_flag(parser: argparse.ArgumentParser, word: str) -> str:
    """The word itself, or its flag as it is spelt now; exits if there is none such."""
    known = list(parser._option_string_actions)
    flag, equals, value = word.partition("=")
    takes_config = "--config" in known
    if not flag.startswith("--") or any(name.startswith(flag) for name in known):
        return word
    if flag.startswith("--config.") and takes_config:
        if not equals:
            parser.error(f"{flag}: wanted {flag}=value, without a space")
        return word
    if flag.startswith("--model.") and parser.get_default("model_options") is not None:
        if not equals:
            parser.error(f"{flag}: wanted {flag}=value, without a space")
        return word
    dashed = flag.replace("_", "-")
    if dashed in known:
        print(f"{parser.prog}: use {dashed}", file=sys.stderr)
        return dashed + equals + value
    key = flag.removeprefix("--")
    other, unit = config.other_name(key.replace("-", "_"))
    if takes_config and "." in key:
        hint = f"did you mean --config.{key}{equals}{value}?"
    elif takes_config and other:
        hint = f"did you mean --config.{other}{equals}{value}{unit if equals else ''}?"
    elif nearest := difflib.get_close_matches(dashed, known, n=1):
        hint = f"did you mean {nearest[0]}?"
    else:
        hint = "--help lists those that there are"
    parser.error(f"unknown argument {flag}: {hint}")


def add_checkpoint_argument(
    parser: argparse.ArgumentParser,
    *,
    words: str = "",
    most: int = 0,
    help: str = argparse.SUPPRESS,
    group: Any = None,
) -> None:
    """`--checkpoint`; the first word without a flag is taken for it, too.

    Args:
        words: name of the argument that takes the words behind it.
        most: how many these may be; the argument is a list if more than one.
        group: the flags of which one is needed, where `--checkpoint` is not alone.
    """
    (group or parser).add_argument("--checkpoint", help=CHECKPOINT_HELP)
    parser.add_argument("words", nargs="*", metavar=words.upper() or None, help=help)
    parser.set_defaults(named=words, most=most, needed=group is None)
    parser.set_defaults(**({words: None} if words else {}))


def take_words(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> list[str]:
    """Gives the words of `add_checkpoint_argument` their names; returns the surplus."""
    words = vars(arguments).pop("words")
    named, most, needed = (
        vars(arguments).pop(name) for name in ("named", "most", "needed")
    )
    subjects = (
        arguments.checkpoint,
        getattr(arguments, "model", None),
        getattr(arguments, "config", None),
    )
    if words and not any(subjects):
        arguments.checkpoint = words.pop(0)
        print(
            f"{parser.prog}: use --checkpoint {arguments.checkpoint}", file=sys.stderr
        )
    elif needed and not arguments.checkpoint:
        parser.error("the following arguments are required: --checkpoint")
    if named:
        setattr(arguments, named, words[:most] if most > 1 else next(iter(words), None))
    return words[most:]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model.option=value`: what a checkpoint does not tell, given by hand."""
    parser.add_argument_group(
        "model options",
        "--model.option=value sets an option of the model, such as pixel_mean, "
        "activation or norm_epsilon, in the place of what the checkpoint says or of "
        "what is assumed",
    )
    parser.set_defaults(model_options={})


def read_model_options(
    parser: argparse.ArgumentParser, words: list[str]
) -> dict[str, Any]:
    """Options by name, each read as the type that a model has; exits if it is none."""
    from vit_jax.models import FAMILIES, defaults_of

    known = {}
    for family in reversed(FAMILIES.values()):
        keys = config.keywords(family)
        known |= {name: keys[name].kind for name in defaults_of(family)}
    options = {}
    for word in words:
        name, _, text = word.removeprefix("--model.").partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"wanted {', '.join(known)}"
            parser.error(f"--model.{name}: no model has this option; {hint}")
        try:
            options[name] = read_text(text, known[name])
        except (ValueError, SyntaxError, TypeError):
            parser.error(f"{word}: wanted {describe(known[name])}")
        if sentence := problem(f"--model.{name}", options[name], known[name]):
            parser.error(sentence)
    return options


def image_size(text: str) -> tuple[int, int]:
    """`config.image_size` as the type of a flag."""
    try:
        return config.image_size(text)
    except config.ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config`, and `--init` as a short form of `--config.init`."""
    parser.add_argument("--config", required=True, help=CONFIG_HELP)
    parser.add_argument(
        "--init", help="checkpoint that training starts from; the same as --config.init"
    )


def cache_compilation() -> None:
    """Keeps compiled programs on disk, so that a restart takes seconds.

    In the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # One folder a machine: code compiled for one CPU can crash on another.
        home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        folder = home / "vit_jax" / f"jax-{jax.__version__}-{platform.node()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
