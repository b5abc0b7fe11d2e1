"""The shape of the code: which file may import which."""

import ast
import re
from pathlib import Path

import pytest

LIBRARY = sorted(Path("vit_jax").rglob("*.py"))
# They import nothing of ours.
LEAVES = (
    "losses optim metrics config guard watchdog sharding planning/chips "
    "data/mix data/augment data/decode "
    "models/pixels models/resample models/layers models/variants models/depth "
    "models/softmax_attention storage/fingerprint analysis/rollout "
    "analysis/attention analysis/filters analysis/receptive_field analysis/translation"
).split()


def our_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = ("vit_jax", "configs", "experiments", "benchmarks", "tests")
    return {name for name in names if name.split(".")[0] in ours}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_of_ours(leaf):
    assert our_imports(Path("vit_jax", f"{leaf}.py")) == set()


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_the_library_imports_itself_only(path):
    assert all(name.startswith("vit_jax.") for name in our_imports(path))


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_no_hidden_knobs(path):
    """A default deep in the code is a knob that no config shows."""
    if path.parts[1] == "interop":
        return  # The configs there are other projects' files, with their defaults.
    assert not re.search(r"config(\.\w+)*\.get\(", path.read_text())


def test_the_model_does_not_know_how_it_is_trained():
    for path in Path("vit_jax/models").glob("*.py"):
        assert all(n.startswith("vit_jax.models.") for n in our_imports(path))
