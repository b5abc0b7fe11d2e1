"""A run sees by the description of a split whether its records are still the same."""

import shutil

import pytest
from PIL import Image

from vit_jax.data.pipeline import Data
from vit_jax.data.record_list import describe


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(9):
            Image.new("L", (8, 8)).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def described(folder):
    data = Data(name=str(folder), split="all", batch_size=2, image_size=(8, 8))
    return describe(data, "all")


def test_a_folder_that_was_moved_is_the_same(folder, tmp_path):
    before = described(folder)
    size = (folder / "cat" / "0.png").stat().st_size
    assert (before["images"], before["bytes"]) == (18, 18 * size)
    shutil.move(folder, tmp_path / "elsewhere")
    assert described(tmp_path / "elsewhere") == before


def add(folder):
    shutil.copy(folder / "cat" / "0.png", folder / "cat" / "9.png")


def rename(folder):
    (folder / "dog" / "3.png").rename(folder / "dog" / "33.png")


def move_to_another_class(folder):
    (folder / "dog" / "3.png").rename(folder / "cat" / "33.png")


def change(folder):
    Image.new("RGB", (80, 80)).save(folder / "dog" / "3.png")


@pytest.mark.parametrize("harm", [add, rename, move_to_another_class, change])
def test_what_is_not_the_same(folder, harm):
    before = described(folder)
    harm(folder)
    assert described(folder) != before
