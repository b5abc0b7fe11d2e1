"""The library in Python: the public names, and docs/python.md as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.models import create_model, init_params

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
PUBLIC = ["create_model", "features", "load", "normalize", "save"]


def test_exactly_the_public_names_are_listed_and_there():
    assert vit_jax.__all__ == PUBLIC
    listed = [name for name in dir(vit_jax) if not name.startswith("__")]
    assert listed == PUBLIC and "__version__" in dir(vit_jax)
    assert all(callable(getattr(vit_jax, name)) for name in PUBLIC)
    assert not hasattr(vit_jax, "laod")


def test_importing_it_does_not_import_jax():
    """Processes that read data would take seconds and hundreds of megabytes more."""
    code = "import sys, vit_jax; dir(vit_jax); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.full
def test_the_page_runs_from_the_first_line_to_the_last(tmp_path, monkeypatch):
    """Its download is a tiny ViT with registers here, written in timm's layout."""
    sizes = dict(depth=3, width=24, mlp_dim=48, num_heads=3, image_size=32)
    model = create_model(
        "ViT-S/8", **sizes, num_registers=2, activation="gelu", num_classes=10
    )
    params = init_params(model, jax.random.key(0))
    vit_jax.save(tmp_path / "timm" / "small", model, params, layout="timm")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    name = "timm/vit_small_patch14_reg4_dinov2.lvd142m"
    assert text.count(name) == 2
    blocks = re.findall(
        r"^```python\n(.*?)^```", text.replace(name, "timm/small"), re.M | re.S
    )
    assert len(blocks) >= 5
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "page"})
