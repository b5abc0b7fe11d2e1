"""What `pip install` of the wheel or of the sdist installs, and that it works."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

BUILD = "from setuptools import build_meta as b; b.build_{}('.')"
STEP = (
    "--config.train.duration=1steps",
    "--config.model.depth=1",
    "--config.log.tensorboard=false",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist of a copy of the sources."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("vit_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md"):
        shutil.copy(name, folder)
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-c", BUILD.format(kind)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def sources() -> set[str]:
    """The files of the library and of the configs, as they lie in a clone."""
    return {
        str(path)
        for folder in ("vit_jax", "configs")
        for path in Path(folder).rglob("*")
        if path.suffix in (".py", ".txt", ".csv", ".txtpb")
    }


def test_the_wheel_has_every_file_and_no_top_level_configs(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"vit_jax"}
    wanted = {name.replace("configs/", "vit_jax/configs/", 1) for name in sources()}
    assert wanted - names == set()


def test_the_sdist_has_every_file(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert (sources() | {"requirements.txt", "pyproject.toml"}) - names == set()


@pytest.mark.full
def test_the_installed_command_trains_a_config_by_its_name(built, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-index", "--target", str(installed)]
    wheel = next(built.glob("*.whl"))
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    empty.mkdir()
    (empty / "mine.py").write_text(
        "from configs import digits\n\n\ndef get_config():\n"
        "    return digits.get_config()\n"
    )
    for name in ("digits", "mine.py"):
        done = subprocess.run(
            [installed / "bin" / "vit-jax", "train", "--config", name, *STEP]
            + ["--workdir", f"run_{name}"],
            cwd=empty,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "step 1/1  test: accuracy" in done.stdout
