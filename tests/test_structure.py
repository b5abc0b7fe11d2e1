"""The shape of the code: which folder may import which, and what training drags in."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOTS = ("vit_jax", "configs", "experiments", "benchmarks")
LIBRARY = sorted(Path("vit_jax").rglob("*.py"))
# Imports go up this list: a folder imports itself, what stands above it, and `config`,
# `flags`, `losses` and `values`, which import nothing of ours but the last.
ORDER = (
    "models",
    "parallel",
    "storage",
    "data",
    "checkpoints",
    "interop",
    "analysis",
    "figures",
    "evaluation",
    "training",
    "fleet",
    "planning",
)
LEAVES = ("config", "flags", "losses", "values")
# All that the loop needs at its start; what a run may do besides is imported there.
MOST_FILES, MOST_LINES = 81, 12500


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    paths = [path for root in ROOTS for path in Path(root).rglob("*.py")]
    names = [".".join(path.with_suffix("").parts) for path in paths]
    return {
        name.removesuffix(".__init__"): path
        for name, path in zip(names, paths, strict=True)
    }


@cache
def imports(module: str, *, at_the_top: bool = False) -> frozenset[str]:
    """The modules of ours that a module imports: anywhere in it, or at its top only."""
    found = set()

    def visit(statements: list[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.add(full if full in modules() else node.module)
            elif at_the_top and isinstance(node, ast.FunctionDef | ast.If):
                continue  # the `if` is that of TYPE_CHECKING
            else:
                visit([n for n in ast.iter_child_nodes(node) if is_block(n)])

    def is_block(node: ast.AST) -> bool:
        return isinstance(node, ast.stmt | ast.excepthandler | ast.match_case)

    visit(ast.parse(modules()[module].read_text()).body)
    return frozenset(found & modules().keys())


@cache
def names(module: str) -> frozenset[str]:
    """What a module defines or imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


def is_command(module: str) -> bool:
    return bool(re.search(r"^if __name__ ==", modules()[module].read_text(), re.M))


def folder_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_imports_go_one_way(path):
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if is_command(module) or path.parent == Path("vit_jax"):
        return  # A command calls what it needs.
    own = folder_of(module)
    allowed = {*ORDER[: ORDER.index(own) + 1], *LEAVES}
    for other in imports(module):
        assert other.startswith("vit_jax."), f"{module} imports {other}"
        assert folder_of(other) in allowed, f"{module} imports {other}"


@pytest.mark.parametrize("module", [m for m in modules() if is_command(m)])
def test_no_command_is_imported(module):
    if module.startswith(("experiments.", "benchmarks.")):
        return  # An experiment is data too, that others build on; so are benchmarks.
    importers = [m for m in modules() if module in imports(m)]
    assert importers == []


@pytest.mark.parametrize(
    "path", sorted([*modules().values(), *Path("tests").rglob("*.py")]), ids=str
)
def test_imported_names_exist(path):
    """Also in the benchmarks, of which many run on other machines only."""
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in modules()
        for alias in node.names
        if f"{node.module}.{alias.name}" not in modules()
        and alias.name not in names(node.module)
    ]
    # Google's project has the same name, and is imported from another folder.
    assert set(missing) <= {"vit_jax.models_vit"}


def test_no_circles():
    """Modules are peeled off while all that they import is; none may be left."""
    left = {module: set(imports(module)) - {module} for module in modules()}
    while done := [module for module, others in left.items() if not others]:
        for module in done:
            del left[module]
        for others in left.values():
            others.difference_update(done)
    assert left == {}


def test_training_drags_in_little():
    reached, waiting = set(), ["vit_jax.training.loop"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            parts = module.split(".")
            packages = (".".join(parts[:i]) for i in range(1, len(parts)))
            waiting += [*imports(module, at_the_top=True), *packages]
    lines = [len(modules()[module].read_text().splitlines()) for module in reached]
    assert len(reached) <= MOST_FILES and sum(lines) <= MOST_LINES
    folders = {folder_of(module) for module in reached if "." in module}
    assert not folders & {"interop", "figures", "analysis", "planning", "fleet", "cli"}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_of_ours(leaf):
    assert imports(f"vit_jax.{leaf}") <= {"vit_jax.values"}


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_no_hidden_knobs(path):
    """A default deep in the code is a knob that no config shows."""
    if path.parts[1] == "interop":
        return  # The configs there are other projects' files, with their defaults.
    assert not re.search(r"config(\.\w+)*\.get\(", path.read_text())
