"""What the commands share: configs from files, errors as one sentence."""

import argparse
import ast
import importlib.util
import inspect
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
import ml_collections

from vit_jax.config import ConfigError, unknown_key
from vit_jax.parallel import distributed


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
    arguments, rest = parser.parse_known_intermixed_args()
    arguments.overrides = [text for text in rest if text.startswith("--config.")]
    surplus = [text for text in rest if text not in arguments.overrides]
    if getattr(arguments, "init", None):
        arguments.overrides.append(f"--config.init={arguments.init}")
    if surplus:
        parser.error(f"unknown arguments: {' '.join(surplus)}")
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


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config`, and `--init` as a short form of `--config.init`."""
    parser.add_argument("--config", required=True, help="file.py or file.py:arguments")
    parser.add_argument("--init", help="checkpoint that training starts from")


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

    The file defines `get_config`, which gets the text, or the named values, if any.

    Args:
        overrides: `--config.section.key=value`, each of a key that the config has.

    Raises:
        ConfigError: no such file, wrong arguments, or an unknown key.
    """
    path, _, text = spec.partition(":")
    if not Path(path).is_file():
        raise ConfigError(f"--config={path}: there is no such file")
    # A config imports its siblings as `configs.base`, from wherever it is run.
    sys.path.append(str(Path(path).absolute().parent.parent))
    module_spec: Any = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    config = call_get_config(module.get_config, text, spec)
    for override in overrides:
        key, equals, value = override.removeprefix("--config.").partition("=")
        if not equals:
            raise ConfigError(f"{override}: wanted --config.{key}=value")
        set_value(config, key, value)
    return config


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
        raise ConfigError(unknown_key(key, all_keys(config)))
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
