"""The commands of a package: a list with a line each, and one started by its name."""

import ast
import difflib
import importlib.util
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def start(
    package: str, names: Sequence[str], lines: Callable[[], list[str]] | None = None
) -> None:
    """Runs the command that the first argument names, or lists all of them.

    `python -m PACKAGE NAME ...` is `python -m PACKAGE.NAME ...`.

    Args:
        lines: gives what each command is for; None for the first lines of their
            docstrings.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in names:
        del sys.argv[1]
        # In the place of this module: worker processes import the main one again.
        runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)
    elif name in ("-h", "--help"):
        texts = lines() if lines else [first_line(f"{package}.{n}") for n in names]
        width = max(map(len, names))
        print(f"python -m {package} COMMAND ...; COMMAND --help shows examples\n")
        for command, text in zip(names, texts, strict=True):
            print(f"  {command:{width}}  {text}")
    else:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = (
            f"did you mean {nearest[0]}?" if nearest else f"wanted {', '.join(names)}"
        )
        sys.exit(f"error: {package} has no command {name}: {hint}")


def first_line(module: str) -> str:
    """The first line of a module's docstring, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module} has no file")
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8")))
    return (text or "").splitlines()[0]
