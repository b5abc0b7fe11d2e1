"""What a checkpoint does not tell: assumed as usual, said, and given by hand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden_files import config_of, load, original

from vit_jax.interop import files, load_checkpoint
from vit_jax.interop.pytorch import IMAGENET_MEAN, NUMERICS, PIXELS
from vit_jax.models.pixels import HALF


def bare(name: str, folder: Path, **options: Any) -> Any:
    path = folder / "bare.safetensors"
    files.write_safetensors(path, original(name), {})
    return load_checkpoint(path, **options)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the options in the only warning."""
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    values = record.message.split("are assumed: ")[1].split("; give what is wrong")[0]
    caplog.clear()
    return [part.split("=")[0] for part in values.split(", ") if "=" in part]


def test_bare_files_of_timm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert bare("timm_token", tmp_path).model.num_heads == 1
    assert said(caplog) == [*NUMERICS, "block", "pooling", *PIXELS]
    given = {"pixel_mean": IMAGENET_MEAN, "pixel_std": (0.1, 0.2, 0.3), "num_heads": 2}
    loaded = bare("timm_token", tmp_path, **given)
    assert {name: getattr(loaded.model, name) for name in given} == given
    assert said(caplog) == ["activation", "norm_epsilon", "block", "pooling"]
    given |= {"activation": "relu", "norm_epsilon": 1e-3, "pooling": "gap"}
    given["block"] = "post_norm"
    bare("timm_token", tmp_path, **given, class_token="always")
    assert not caplog.records


def test_the_warning_says_how_to_give_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = bare("huggingface_vit", tmp_path, num_heads=3, activation="gelu")
    message = caplog.messages[0]
    assert "norm_epsilon=1e-12, pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.5" in message
    assert "pixel_std=(0.5, 0.5, 0.5) to vit_jax.load" in message
    assert "--model.pixel_std=0.5,0.5,0.5 to a command" in message
    assert "--config.model.pixel_std=0.5,0.5,0.5 to vit_jax.train" in message
    assert loaded.facts.untold == (*NUMERICS, *PIXELS)


@pytest.mark.parametrize(
    "name, missing, wanted",
    [
        ("huggingface_vit", "preprocessor_config", list(PIXELS)),
        ("timm_token", "pretrained_cfg", list(PIXELS)),
        ("torchvision_vit", "", ["num_heads", *PIXELS]),
        ("vit5_small", "", list(PIXELS)),
    ],
)
def test_configs_that_tell_a_part(
    name: str,
    missing: str,
    wanted: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(name)
    config.pop(missing, None)
    load(name, tmp_path, config=config)
    assert said(caplog) == wanted


@pytest.mark.parametrize("name", ["timm_token", "timm_hybrid", "timm_map"])
def test_whole_configs_leave_nothing_open(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(name, tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    "name, averaged, mean",
    [
        # DINOv2 and DeiT III, then timm's own with LayerScale.
        ("timm_layer_scale", False, IMAGENET_MEAN),
        ("timm_layer_scale", True, HALF),
        ("timm_token", False, HALF),
    ],
)
def test_the_usual_pixels_of_a_bare_file(
    name: str, averaged: bool, mean: tuple[float, ...], tmp_path: Path
) -> None:
    tensors = original(name)
    if averaged:
        tensors["fc_norm.weight"] = tensors.pop("norm.weight")
        tensors["fc_norm.bias"] = tensors.pop("norm.bias")
    files.write_folder(tmp_path, tensors, {})
    assert load_checkpoint(tmp_path).model.pixel_mean == mean


def test_told_counts_where_the_file_says_nothing(tmp_path: Path) -> None:
    told = {"pixel_mean": (0.1, 0.2, 0.3), "num_heads": 4, "depth": 7}
    loaded = bare("timm_token", tmp_path, told=told)
    assert loaded.model.pixel_mean == (0.1, 0.2, 0.3) and loaded.model.num_heads == 4
    config = config_of("timm_token")
    files.write_folder(tmp_path / "whole", original("timm_token"), config)
    model = load_checkpoint(tmp_path / "whole", told=told).model
    assert model.pixel_mean == tuple(config["pretrained_cfg"]["mean"])


def test_heads_that_a_config_of_transformers_leaves_out(tmp_path: Path) -> None:
    """Its own default is 12, whatever the width."""
    config = config_of("huggingface_vit")
    del config["num_attention_heads"]
    assert load("huggingface_vit", tmp_path, config=config).model.num_heads == 12


def test_the_warning_is_seen_without_a_logger(tmp_path: Path) -> None:
    """Importing the library leaves the root logger as it is."""
    files.write_safetensors(tmp_path / "x.safetensors", original("timm_token"), {})
    code = (
        "import io, contextlib, vit_jax\n"
        "said = io.StringIO()\n"
        "with contextlib.redirect_stderr(said):\n"
        f"    vit_jax.load({str(tmp_path / 'x.safetensors')!r})\n"
        "print(said.getvalue())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "does not tell some options" in done.stdout, done.stderr


def test_the_place_of_the_norms_is_given_by_hand(tmp_path: Path) -> None:
    with_config = load("timm_post_norm", tmp_path / "folder").model
    known = {name: getattr(with_config, name) for name in (*NUMERICS, *PIXELS)}
    without = bare("timm_post_norm", tmp_path, **known).model
    assert (without.block, with_config.block) == ("pre_norm", "post_norm")
    assert bare("timm_post_norm", tmp_path, **known, block="post_norm").model == (
        with_config
    )
