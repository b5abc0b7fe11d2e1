"""A config from a file, with the values that the command line changes."""

import difflib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from vit_jax.config import ConfigError, image_size, unknown_key
from vit_jax.values import describe, read_text

LIBRARY = Path(__file__).parent
# The configs that come with the library: beside it in a clone, inside it if installed.
CONFIGS = next(
    folder
    for folder in (LIBRARY / "configs", LIBRARY.parent / "configs")
    if (folder / "base.py").is_file()
)


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
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise failure(path, error) from error
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"--config={name}: {path} does not define get_config()")
    try:
        config = call_get_config(module.get_config, text, spec)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(path, error) from error
    for override in overrides:
        key, _, value = override.removeprefix("--config.").partition("=")
        set_value(config, key, value)
    return config


def failure(path: Path, error: BaseException) -> ConfigError:
    """The sentence about an exception in a config, with the line there."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    place = f"{path}, line {lines[-1]}" if lines else str(path)
    text = " ".join(str(error).split())
    return ConfigError(f"{place}: {type(error).__name__}{text and f': {text}'}")


def find_config(name: str) -> Path:
    """The file of a config: `digits`, `digits.py` and `configs/digits.py` are one.

    Raises:
        ConfigError: there is no such file, here or in the library.
    """
    path = Path(name if name.endswith(".py") else f"{name}.py")
    if os.path.isfile(path):  # also where the name is too long
        return path.absolute()
    if len(path.parts) == 1 or path.parent.name == "configs":
        if os.path.isfile(CONFIGS / path.name):
            return CONFIGS / path.name
    names = sorted(file.stem for file in CONFIGS.glob("[a-z]*.py"))
    nearest = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"wanted {', '.join(names)}"
    shown = name if name.isprintable() else repr(name)
    raise ConfigError(
        f"--config={shown}: there is no such file, nor a config of that name; {hint}"
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
    # A comma or "=" that begins no argument is a part of a value, such as a path.
    if re.match(r"[A-Za-z_]\w*=", text):
        parts = re.split(r",(?=[A-Za-z_]\w*=)", text)
        args, kwargs = (), dict(part.split("=", 1) for part in parts)
    else:
        args, kwargs = ((text,) if text else ()), {}
    signature = inspect.signature(get_config)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "no arguments"
        raise ConfigError(f"--config={spec}: {error}; it takes {known}") from None
    config = get_config(*args, **kwargs)
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(
            f"--config={spec}: get_config returned a {type(config).__name__}, and a "
            "ConfigDict is wanted, such as configs/base.py makes"
        )
    return config


def set_value(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Sets `section.key` to a text, read as the type of the value that is there.

    Raises:
        ConfigError: there is no such key, or the text is not of that type.
    """
    *sections, name = key.split(".")
    shown = text if text.isprintable() else repr(text)
    section = config
    for part in sections:
        inner = section.get(part)
        is_section = isinstance(inner, ml_collections.ConfigDict)
        section = inner if is_section else ml_collections.ConfigDict()
    if name not in section or isinstance(section[name], ml_collections.ConfigDict):
        raise ConfigError(unknown_key(key, all_keys(config), shown))
    # Imported where a value is set: the consumers of all keys say what they may be.
    from vit_jax.training.sections import config_sections

    declared = config_sections().get(sections[0] if sections else name, {})
    if (sections and name or "") not in declared:
        raise ConfigError(unknown_key(key, all_keys(config), shown))
    kind = declared[name if sections else ""].kind
    try:
        value = image_size(text) if name == "image_size" else read_text(text, kind)
        # Whatever type the file had: `check_config` says what it must be.
        with section.ignore_type():
            section[name] = value
    except ConfigError as error:
        raise ConfigError(f"--config.{key}={error}") from None
    except (ValueError, SyntaxError, TypeError):
        raise ConfigError(f"--config.{key}={shown}: wanted {describe(kind)}") from None


def all_keys(config: ml_collections.ConfigDict) -> list[str]:
    """Every key of a config, as `section.key`."""
    return [
        f"{section}.{key}" if isinstance(value, ml_collections.ConfigDict) else section
        for section, value in config.items()
        for key in (value if isinstance(value, ml_collections.ConfigDict) else [""])
    ]
