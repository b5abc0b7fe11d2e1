"""The layout of ViT-5's authors: what only it recognises, and what it refuses."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden_files import load, original

from vit_jax.interop import LAYOUTS, load_checkpoint, save_checkpoint
from vit_jax.models import create_model, init_params
from vit_jax.models.pixels import HALF

MODEL = {
    "depth": 1,
    "width": 24,
    "mlp_dim": 20,
    "num_heads": 3,
    "num_classes": 5,
    "image_size": 16,
    "dtype": "float32",
    "positions": "learned_rope2d",
    "rope_coordinates": "index",
    "rope_layout": "pairs",
    "class_token_position": False,
}


def save(path: Path, layout: str = "vit5", **options: Any) -> dict[str, Any]:
    """Writes a model whose parameters are zeros."""
    model = create_model("ViT-Ti/8", **MODEL | options)
    shapes = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return save_checkpoint(path, model, params, layout=layout)


@pytest.mark.parametrize("left_out", ["", "pos_embed"])
def test_no_other_layout_recognises_it(left_out: str) -> None:
    tensors = {x: y for x, y in original("vit5_small").items() if x != left_out}
    names = [layout.NAME for layout in LAYOUTS if layout.recognises(tensors, {})]
    assert names == ["vit5"]


@pytest.mark.parametrize("name", ["attn.rope.freqs", "attn.rope_reg.freqs"])
def test_the_bases_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    tensors = original("vit5_small")
    for i in range(2):
        tensors[f"blocks.{i}.{name}"] = 25.0 ** -(np.arange(8, dtype=np.float32) / 8)
    model: Any = load("vit5_small", tmp_path, tensors).model
    changed = (25, 100) if name == "attn.rope.freqs" else (10_000, 25)
    assert (model.rope_base, model.rope_register_base) == changed


def test_another_image_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Positions are resampled as its code does; patches have whole numbers again."""
    caplog.set_level("INFO", "vit_jax")
    load("vit5_small", tmp_path)
    caplog.clear()
    model: Any = load_checkpoint(tmp_path, image_size=40).model
    assert "positions resampled from 3x3 to 5x5 (bicubic_plain)" in caplog.messages
    assert (model.grid, model.rope_grid) == ((5, 5), ())


@pytest.mark.parametrize("block, band", [(0, 3), (1, 7)])
def test_other_frequencies_are_refused(block: int, band: int, tmp_path: Path) -> None:
    tensors = original("vit5_small")
    tensors[f"blocks.{block}.attn.rope.freqs"][band] *= 1.001
    with pytest.raises(ValueError, match=r"attn\.rope\.freqs are not powers of one"):
        load("vit5_small", tmp_path, tensors)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_registers": 4}, "4 registers without rope_register_base"),
        ({"image_size": (16, 24)}, "its code has square images"),
        ({"rope_coordinates": "centred"}, "rope_coordinates='centred'"),
        ({"rope_grid": (4, 4)}, r"rope_grid=\(4, 4\)"),
        ({"rope_axes": "xy"}, "rope_axes='xy'"),
        ({"rope_layout": "half"}, "rope_layout='half'"),
        ({"rope_frequencies": "mixed"}, "rope_frequencies='mixed'"),
        ({"positions": "learned"}, "positions='learned'"),
        ({"class_token_position": True}, "class_token_position=True"),
        ({"pooling": "gap"}, "pooling='gap'"),
        ({"mlp": "swiglu"}, "mlp='swiglu'"),
        ({"qkv_bias": "qv"}, "qkv_bias='qv'"),
        ({"qk_norm": "layernorm"}, "qk_norm='layernorm'"),
    ],
)
def test_what_its_code_does_not_have_is_not_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"vit5 layout cannot hold.*{message}"):
        save(tmp_path / "x.safetensors", **options)


def test_what_a_file_cannot_store_is_said(tmp_path: Path) -> None:
    lost = save(tmp_path / "x.safetensors", norm_epsilon=1e-3, layer_scale_init=0.5)
    assert lost == {
        "norm_epsilon": 1e-3,
        "activation": "gelu_tanh",
        "pixel_mean": HALF,
        "pixel_std": HALF,
    }


def test_timm_does_not_turn_registers(tmp_path: Path) -> None:
    options = {"num_registers": 1, "rope_register_base": 10.0, "activation": "gelu"}
    with pytest.raises(ValueError, match="timm_eva layout cannot hold.*register_base"):
        save(tmp_path / "x.safetensors", "timm_eva", **options)
