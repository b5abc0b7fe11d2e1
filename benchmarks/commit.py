"""The tree of a commit, to measure it beside the one that is checked out."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def unpack(commit: str, folder: Path) -> Path:
    """Writes the files of a commit into a new folder; returns the folder.

    Raises:
        ValueError: git knows no such commit.
    """
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise ValueError(archive.stderr.decode().strip())
    folder.mkdir()
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder
