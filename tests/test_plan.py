"""The summary of a model: layers, totals, sizes given as text."""

import json
import subprocess
import sys

import pytest

from vit_jax.model_summary import parse_size, summarize
from vit_jax.models import create_model


def plan(*arguments):
    command = [sys.executable, "-m", "vit_jax.plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_totals_are_those_of_the_paper():
    """ViT-L/16 at 384 px has 24 x 24 patches: 191 GMACs by the formula of 1.2."""
    model = create_model("ViT-L/16", num_classes=1000, image_size=384, dtype="float32")
    found = summarize(model, 2)
    tokens, width, mlp_dim = 577, 1024, 4096
    block = tokens * (4 * width**2 + 2 * width * mlp_dim) + 2 * tokens**2 * width
    wanted = 576 * 3 * 16**2 * width + 24 * block + width * 1000
    assert found["macs"] == wanted
    assert found["parameters"] == 304_326_632 + (577 - 197) * width
    assert found["name"] == "ViT-L/16"
    names = [layer["name"] for layer in found["layers"]]
    blocks = [f"encoder/block_{i:02d}" for i in range(24)]
    wanted = {"embedding", "encoder/norm", "head", "class_token", "positions", *blocks}
    assert set(names) == wanted and names.index(blocks[3]) < names.index(blocks[4])


def test_the_command(tmp_path):
    path = tmp_path / "plan.json"
    arguments = ("--model", "R+ViT-Ti/16", "--image-size", "64x96", "--json", path)
    result = plan(*map(str, arguments))
    assert result.returncode == 0, result.stderr
    written = json.loads(path.read_text())
    assert written["image_size"] == [64, 96]
    assert f"{written['parameters']:,} parameters" in result.stdout
    assert "encoder/block_11" in result.stdout
    wrong = plan("--model", "ViT-B/16", "--image-size", "0")
    assert wrong.returncode == 1
    assert wrong.stderr == (
        "error: --image-size 0: wanted pixels, as 384 or 384x512 (height x width)\n"
    )


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("384", (384, 384)), ("384x512", (384, 512))]
)
def test_sizes(text, size):
    assert parse_size(text) == size
