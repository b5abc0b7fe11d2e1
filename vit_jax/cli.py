"""What the commands share: flags, configs from files, errors as one sentence."""

import argparse
import ast
import difflib
import importlib.util
import inspect
import logging
import os
import platform
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_collections

from vit_jax.config import ConfigError, other_name, unknown_key
from vit_jax.parallel import distributed

LIBRARY = Path(__file__).parent
# The configs that come with the library: beside it in a clone, inside it if installed.
CONFIGS = next(
    folder
    for folder in (LIBRARY / "configs", LIBRARY.parent / "configs")
    if (folder / "base.py").is_file()
)
CHECKPOINT_HELP = "folder of a run, file, folder or public name of other weights"
CONFIG_HELP = (
    "name or file, as digits or mine.py, and arguments, as finetune:dataset=pets; "
    "--config.section.key=value changes any value of it"
)


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

    Arguments `--config.section.key=value` are collected in `overrides`. An error that
    a user can mend ends in one sentence on stderr and exit code 1.
    """
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    arguments = parse(parser, sys.argv[1:])
    # By force, since importing Orbax has given the root logger a handler already.
    logging.basicConfig(format="%(levelname)s: %(message)s", force=True)
    # What was found in a checkpoint, and what is changed of it.
    logging.getLogger("vit_jax").setLevel(logging.INFO)
    # Orbax warns at every restore of a tree without shardings; ours always has them.
    warnings.filterwarnings("ignore", module="orbax|etils|google")
    cache_compilation()
    try:
        command(arguments)
    except (ValueError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
        if arguments.traceback:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        distributed.leave(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        distributed.leave(1)
    sys.exit(0)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The arguments; exits with the nearest flag if one is misspelt."""
    words = [checked_flag(parser, word) for word in words]
    arguments, rest = parser.parse_known_intermixed_args(words)
    arguments.overrides = [text for text in rest if text.startswith("--config.")]
    surplus = [text for text in rest if text not in arguments.overrides]
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
    dashed = flag.replace("_", "-")
    if dashed in known:
        print(f"{parser.prog}: use {dashed}", file=sys.stderr)
        return dashed + equals + value
    key = flag.removeprefix("--")
    other, unit = other_name(key.replace("-", "_"))
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


def image_size(text: str) -> tuple[int, int]:
    """Reads `384` or `384x512` (height x width).

    Raises:
        ArgumentTypeError: the text is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r}: wanted pixels, as 384 or 384x512 (height x width)"
        )
    return int(match[1]), int(match[2] or match[1])


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


def read_config(spec: str, overrides: list[str]) -> ml_collections.ConfigDict:
    """Reads `path.py`, `path.py:text` or `path.py:name=value,name=value`.

    The file defines `get_config`, which gets the text, or the named values, if any. A
    config of the library can be given by its name alone, from anywhere.

    Args:
        overrides: `--config.section.key=value`, each of a key that the config has.

    Raises:
        ConfigError: no such file, wrong arguments, or an unknown key.
    """
    name, _, text = spec.partition(":")
    path = find_config(name)
    make_configs_importable(path.parent)
    module_spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    config = call_get_config(module.get_config, text, spec)
    for override in overrides:
        key, _, value = override.removeprefix("--config.").partition("=")
        set_value(config, key, value)
    return config


def find_config(name: str) -> Path:
    """The file of a config: `digits`, `digits.py` and `configs/digits.py` are one.

    Raises:
        ConfigError: there is no such file, here or in the library.
    """
    path = Path(name)
    path = path if path.suffix == ".py" else path.with_name(f"{path.name}.py")
    if path.is_file():
        return path.absolute()
    if len(path.parts) == 1 or path.parent.name == "configs":
        if (CONFIGS / path.name).is_file():
            return CONFIGS / path.name
    names = sorted(file.stem for file in CONFIGS.glob("[a-z]*.py"))
    nearest = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"wanted {', '.join(names)}"
    raise ConfigError(
        f"--config={name}: there is no such file, nor a config of that name; {hint}"
    )


def make_configs_importable(folder: Path) -> None:
    """Lets a config import those of the library and its siblings from `configs`.

    So `from configs import base` works in any file, wherever it is run.
    """
    if "configs" not in sys.modules:
        spec: Any = importlib.util.spec_from_file_location(
            "configs", CONFIGS / "__init__.py", submodule_search_locations=[]
        )
        sys.modules["configs"] = importlib.util.module_from_spec(spec)
    places = sys.modules["configs"].__path__
    for place in map(str, (folder, CONFIGS)):
        if place not in places:
            places.append(place)


def call_get_config(
    get_config: Callable[..., ml_collections.ConfigDict], text: str, spec: str
) -> ml_collections.ConfigDict:
    """Calls `get_config` with the text behind the colon of `--config`.

    Raises:
        ConfigError: the arguments are not those that `get_config` takes.
    """
    names = [part.partition("=")[0] for part in text.split(",") if "=" in part]
    if names:
        args, kwargs = (), dict(part.split("=", 1) for part in text.split(","))
    else:
        args, kwargs = ((text,) if text else ()), {}
    signature = inspect.signature(get_config)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "no arguments"
        raise ConfigError(f"--config={spec}: {error}; it takes {known}") from None
    return get_config(*args, **kwargs)


def set_value(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Sets `section.key` to a text, read as the type of the value that is there.

    Raises:
        ConfigError: there is no such key, or the text is not of that type.
    """
    *sections, name = key.split(".")
    section = config
    for part in sections:
        section = section[part] if part in section else ml_collections.ConfigDict()
    if name not in section or isinstance(section[name], ml_collections.ConfigDict):
        raise ConfigError(unknown_key(key, all_keys(config), text))
    old = section[name]
    try:
        section[name] = parse_value(text, old)
    except (KeyError, ValueError, SyntaxError, TypeError):
        raise ConfigError(
            f"--config.{key}={text}: wanted {type(old).__name__}, like {old!r}"
        ) from None


def parse_value(text: str, old: Any) -> Any:
    """Reads a text as a value of the type of `old`; a tuple is `a,b` or `(a, b)`."""
    if isinstance(old, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(old, int):
        return int(text)
    if isinstance(old, float):
        return float(text)
    if isinstance(old, tuple):
        if text.startswith("("):
            return tuple(ast.literal_eval(text))
        parts = [part.strip() for part in text.split(",") if part.strip()]
        numbers = old and not isinstance(old[0], str)
        return tuple(ast.literal_eval(part) if numbers else part for part in parts)
    return text


def all_keys(config: ml_collections.ConfigDict) -> list[str]:
    """Every key of a config, as `section.key`."""
    return [
        f"{section}.{key}" if isinstance(value, ml_collections.ConfigDict) else section
        for section, value in config.items()
        for key in (value if isinstance(value, ml_collections.ConfigDict) else [""])
    ]
