"""The pages that say how to add something are followed, in a copy of the tree.

A block with a title is a file that is written, or one that is there and is shown, or,
in the language diff, an edit of one; each line of a bash block is a command. So a page
fails as soon as the code that it edits or calls is another.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.M | re.S)
LONG = ("ablation", "experiment", "model", "data")
# One process for all commands of a page: starting JAX takes longer than most of them.
FOLLOW = """
import runpy, shlex, shutil, sys
for line in sys.stdin.read().splitlines():
    words = shlex.split(line, comments=True)
    if words[0] == "cp":
        shutil.copy(*words[1:])
        continue
    words = words["=" in words[0] :]  # PYTHONPATH is that of the test
    sys.argv = words[2:] if words[1] == "-m" else words[1:]
    try:
        if words[1] == "-m":
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{line}: {end.code}")
"""


def edited(text: str, edit: str) -> str:
    """A file after the hunks of an edit, each after a line that begins with @@."""
    for hunk in re.split(r"^@@.*\n", edit, flags=re.M):
        lines = hunk.splitlines(keepends=True)
        old, new = (
            "".join(line[1:] for line in lines if line[0] in kept)
            for kept in (" -", " +")
        )
        assert text.count(old) == 1, f"wanted once, found {text.count(old)}:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def tree(tmp_path):
    """A copy of what is imported; a file beside it is outside of the tree."""
    tree = tmp_path / "tree"
    for folder in ("vit_jax", "configs", "experiments"):
        shutil.copytree(folder, tree / folder)
    shutil.copy("pyproject.toml", tree)
    return tree


@pytest.mark.parametrize(
    "page",
    [*(pytest.param(x, marks=pytest.mark.full) for x in LONG), "layout"],
)
def test_page(page, tree):
    commands = ""
    for language, title, body in BLOCK.findall(Path(f"docs/add/{page}.md").read_text()):
        if language == "bash":
            commands += body.replace("\\\n", " ")
            continue
        path = tree / title
        if language == "diff":
            path.write_text(edited(path.read_text(), body))
        elif path.exists():
            assert path.read_text() == body, f"{title} is not as the page shows it"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body)
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW],
        input=commands,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-4000:]


def test_an_edit_of_a_line_that_is_not_there_is_noticed():
    with pytest.raises(AssertionError, match="wanted once, found 0"):
        edited("a\nb\n", " a\n-c\n+d\n")
    assert edited("a\nb\n", " a\n-b\n+d\n") == "a\nd\n"


FRONT = ("README.md", "CONTRIBUTING.md", *map(str, Path().glob("[a-z]*/README.md")))


@pytest.mark.parametrize("page", FRONT)
def test_links_outside_of_the_site_lead_somewhere(page):
    """`make docs` checks those of its own pages."""
    links = re.findall(r"\]\((?!http)(.+?)\)", Path(page).read_text())
    assert links
    for link in links:
        assert Path(page).parent.joinpath(link.split("#")[0]).exists(), link


def test_readme_is_short():
    assert len(Path("README.md").read_text().split()) < 900
