"""The layouts of timm, transformers and torchvision: spellings, configs, refusals."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden_files import config_of, load, original

from vit_jax.interop import (
    Facts,
    files,
    huggingface,
    load_checkpoint,
    save_checkpoint,
    timm,
    torchvision,
)
from vit_jax.interop.layout import parameter_shapes
from vit_jax.interop.pytorch import usual_heads
from vit_jax.models import create_model

MODULES = (timm, huggingface, torchvision)
TINY = {"depth": 1, "width": 12, "mlp_dim": 20, "num_heads": 3}


def renamed(
    tensors: dict[str, np.ndarray], *changes: tuple[str, str]
) -> dict[str, np.ndarray]:
    for pattern, new in changes:
        renamed = {re.sub(pattern, new, name): x for name, x in tensors.items()}
        assert renamed.keys() != tensors.keys(), f"nothing is called {pattern}"
        tensors = renamed
    return tensors


def small(**options: Any) -> Any:
    """A ViT of 5 classes and 16 patches."""
    size = {"num_classes": 5, "image_size": (32, 32), "dtype": "float32"}
    return create_model("ViT-Ti/8", **(size | TINY | options))


def zeros(model: Any) -> dict[str, Any]:
    """Parameters of a model, by nested names."""
    tree: dict[str, Any] = {}
    for path, shape in parameter_shapes(model).items():
        *above, name = path.split("/")
        here = tree
        for part in above:
            here = here.setdefault(part, {})
        here[name] = np.zeros(shape, np.float32)
    return tree


@pytest.mark.parametrize(
    "name, changes",
    [
        ("timm_layer_scale", [(r"\.ls(\d)\.gamma", r".gamma_\1"), ("^", "module.")]),
        ("timm_token", [("^", "_orig_mod.")]),
        ("timm_dinov2", [(r"^blocks\.(\d)", r"blocks.0.\1"), ("^", "backbone.")]),
        ("torchvision_vit", [(r"mlp\.0", "mlp.linear_1"), (r"mlp\.3", "mlp.linear_2")]),
        ("torchvision_vit", [("^", "module.")]),
        ("huggingface_vit", [("^", "module.")]),
    ],
)
def test_other_spellings(
    name: str, changes: list[tuple[str, str]], tmp_path: Path
) -> None:
    before = load(name, tmp_path / "a")
    after = load(name, tmp_path / "b", renamed(original(name), *changes))
    assert after.model == before.model
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


def test_only_their_own_layout_recognises_files() -> None:
    for name in ("timm_map", "timm_hybrid", "timm_bit", "timm_mixer"):
        recognising = [m.NAME for m in MODULES if m.recognises(original(name), {})]
        assert recognising == ["timm"], name
    for name in ("huggingface_vit_pooler", "huggingface_dinov2", "torchvision_vit"):
        recognising = [m.NAME for m in MODULES if m.recognises(original(name), {})]
        assert recognising == [name.split("_")[0]], name


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("timm_token", "blocks.0.attn.q_bias", "positions of BEiT.*q_bias"),
        ("timm_bit", "stages.0.blocks.0.norm1.running_mean", "BatchNorm"),
        ("timm_hybrid", "patch_embed.backbone.0.conv.weight", "plain convolutions"),
        ("timm_token", "what.is.this", r"what.is.this \(1, 12\) is surplus"),
        ("huggingface_vit", "vit.embeddings.distillation_token", "DeiT"),
        ("huggingface_vit", "vit.encoder.layer.0.x.weight", "surplus"),
        ("torchvision_vit", "conv_proj.conv_last.bias", "convolutions before the"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(
    name: str, tensor: str, message: str, tmp_path: Path
) -> None:
    tensors = original(name) | {tensor: np.zeros((1, 12), np.float32)}
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path, tensors)


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tensors = original("huggingface_vit")
    del tensors["vit.encoder.layer.1.output.dense.weight"]
    tensors["classifier.weight"] = np.zeros((5, 11), np.float32)
    with pytest.raises(ValueError) as caught:
        load("huggingface_vit", tmp_path, tensors)
    message = str(caught.value)
    assert "layer.1.output.dense.weight is missing, wanted (12, 20)" in message
    assert "classifier.weight is (5, 11), wanted (5, 12)" in message


def test_a_classifier_beside_a_pooler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers does not put the pooler before the classifier."""
    caplog.set_level("INFO", "vit_jax")
    tensors = original("huggingface_vit")
    tensors |= {
        "vit.pooler.dense.weight": np.ones((12, 12), np.float32),
        "vit.pooler.dense.bias": np.ones(12, np.float32),
    }
    assert not load("huggingface_vit", tmp_path, tensors).model.pre_logits
    assert "pooler.dense.weight" in caplog.text


@pytest.mark.parametrize(
    "name, key, value, message",
    [
        ("huggingface_vit", "hidden_act", "gelu_10", "hidden_act 'gelu_10'.*quick_gel"),
        ("huggingface_vit", "pooler_act", "relu", "pooler_act 'relu'"),
        ("timm_token", "global_pool", "avgmax", "global_pool 'avgmax'.*token, avg"),
        ("timm_token", "act_layer", "hard_mish", "act_layer 'hard_mish'.*gelu"),
    ],
)
def test_configs_that_we_cannot_follow(
    name: str, key: str, value: str, message: str, tmp_path: Path
) -> None:
    config = config_of(name)
    (config["model_args"] if name.startswith("timm") else config)[key] = value
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path, config=config)


@pytest.mark.parametrize("act", ["gelu_new", "gelu_fast", "quick_gelu", "swish"])
def test_hidden_act(act: str) -> None:
    config = config_of("huggingface_vit") | {"hidden_act": act}
    ours = huggingface.describe(original("huggingface_vit"), config)
    wanted = {"quick_gelu": "quick_gelu", "swish": "silu"}.get(act)
    assert ours.get("activation") == wanted  # None is our default, gelu_tanh


def test_a_rectangle_needs_a_config(tmp_path: Path) -> None:
    tensors = original("timm_registers")
    with pytest.raises(
        ValueError, match="not those of a square image: give image_size"
    ):
        load("timm_registers", tmp_path, tensors, {})
    loaded = load_checkpoint(tmp_path, image_size=(32, 48), class_token_position=False)
    assert loaded.model.grid == (4, 6)


@pytest.mark.parametrize(
    "width, heads",
    [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1152, 16), (640, 10)],
)
def test_usual_heads(width: int, heads: int) -> None:
    assert usual_heads(width) == heads


@pytest.mark.parametrize(
    "architecture, options",
    [
        ("vit_base_patch16_gap_224", {"num_heads": 16}),
        ("vit_giantopt_patch16_siglip_384", {"num_heads": 16}),
        ("test_vit2", {"num_heads": 24}),
        ("vit_so400m_patch16_siglip_gap_256", {"num_heads": 12, "activation": None}),
        ("vit_so400m_patch14_siglip_224", {"num_heads": 12, "activation": "gelu"}),
        ("deit_base_patch16_224", {"pixel_mean": (0.485, 0.456, 0.406)}),
        ("vit_base_patch14_dinov2", {"pixel_mean": (0.485, 0.456, 0.406)}),
    ],
)
def test_what_timm_has_in_its_code(architecture: str, options: dict[str, Any]) -> None:
    tensors = {
        name: np.zeros([768 if size == 12 else size for size in x.shape])
        for name, x in original("timm_token").items()
    }
    actual = timm.describe(tensors, {"architecture": architecture})
    actual = {"num_heads": actual.get("num_heads", 12)} | actual
    assert {name: actual.get(name) for name in options} == options


@pytest.mark.parametrize(
    "layout, options, message",
    [
        ("timm", {"pooling": "token_gap"}, "pooling='token_gap'"),
        ("timm", {"positions": "relative"}, "positions='relative'"),
        ("timm", {"positions_at": "shared"}, "positions_at='shared'"),
        ("timm", {"attention": "axial", "pooling": "gap"}, "attention='axial'"),
        ("timm", {"pre_logits": True}, "pre_logits=True"),
        ("timm", {"resnet_stem": (1,)}, r"resnet_stem=\(1,\)"),
        ("huggingface", {"pooling": "map"}, "pooling='map'.*code has 'gap'"),
        ("huggingface", {"positions": "rope2d"}, "num_classes=5: its code has 0"),
        ("huggingface", {"qkv_bias": "qv"}, "qkv_bias='qv'"),
        ("huggingface", {"mlp": "swiglu"}, "mlp='swiglu'"),
        ("huggingface", {"pre_logits": True}, "pre_logits=True"),
        ("huggingface", {"num_registers": 2}, "num_registers=2"),
        ("huggingface", {"layer_scale_init": 0.1}, "pooling='token'.*'token_gap'"),
        ("huggingface", {"class_token_position": False}, "class_token_position=False"),
        ("huggingface", {"activation": "elu"}, "activation='elu'"),
        (
            "huggingface",
            {"layer_scale_init": 0.1, "pooling": "token_gap"},
            "multiple of 12, not 20",
        ),
        ("torchvision", {"layer_scale_init": 0.1}, "layer_scale_init=0.1"),
        ("torchvision", {"pooling": "map"}, "pooling='map'"),
    ],
)
def test_what_they_do_not_have_is_not_written(
    layout: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = small(**options)
    path = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=f"{layout} layout cannot hold.*{message}"):
        save_checkpoint(path, model, zeros(model), layout=layout)
    assert not path.exists()


def test_other_families_are_not_written(tmp_path: Path) -> None:
    bit = create_model("BiT-R26x1", num_classes=5, image_size=32, dtype="float32")
    mixer = create_model("Mixer-H/16", num_classes=0, image_size=32, depth=1)
    for model, layout, message in (
        (bit, "huggingface", "a ResNet: wanted a VisionTransformer"),
        (bit, "timm", r"\(2, 2, 2, 2\) units.*its code has R50x1"),
        (mixer, "timm", "Mixer of .*width=1280"),
    ):
        with pytest.raises(ValueError, match=message):
            save_checkpoint(tmp_path / "x", model, zeros(model), layout=layout)


@pytest.mark.parametrize(
    "layout, options, lost",
    [
        ("timm", {"norm_epsilon": 1e-12}, {"norm_epsilon": 1e-12}),
        ("huggingface", {"norm_epsilon": 1e-3, "activation": "silu"}, {}),
        ("timm", {"mlp_dim": 53, "class_token": "always", "pooling": "gap"}, {}),
        ("timm", {"positions": "none"}, {}),
        ("timm", {"num_registers": 2, "activation": "elu", "mlp_dim": 11}, {}),
        ("timm", {"pixel_mean": (0.1, 0.2, 0.3)}, {}),
        (
            "torchvision",
            {"activation": "gelu", "pixel_std": (0.1, 0.2, 0.3), "num_heads": 1},
            {"pixel_mean": (0.5, 0.5, 0.5), "pixel_std": (0.1, 0.2, 0.3)},
        ),
    ],
)
def test_what_gets_lost_is_said(
    layout: str,
    options: dict[str, Any],
    lost: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, path = small(**options), tmp_path / "out.safetensors"
    assert save_checkpoint(path, model, zeros(model), layout=layout) == lost
    assert ("cannot store" in caplog.text) == bool(lost)
    again = load_checkpoint(path, **lost)
    if "class_token" not in options:
        assert again.model == model


def test_timm_arguments_of_a_published_model() -> None:
    """By the names of timm's constructor; the folder is loaded in `make parity`."""
    model = create_model("ViT-L/16", num_classes=7, image_size=(384, 512))
    facts = Facts(tuple("abcdefg"), "resize_small_center_crop", 0.875, "bicubic")
    config = timm.config_for(model, facts)
    assert config["architecture"] == "vit_large_patch16_224"
    assert config["label_names"] == list("abcdefg")
    assert config["model_args"] == {
        "img_size": [384, 512],
        "patch_size": 16,
        "embed_dim": 1024,
        "depth": 24,
        "num_heads": 16,
        "mlp_ratio": 4.0,
        "class_token": True,
        "global_pool": "token",
        "fc_norm": False,
        "no_embed_class": False,
        "reg_tokens": 0,
        "act_layer": "gelu_tanh",
        "pre_norm": False,
        "qkv_bias": True,
        "qk_norm": False,
        "scale_attn_norm": False,
        "scale_mlp_norm": False,
    }
    data = config["pretrained_cfg"]
    assert data["input_size"] == [3, 384, 512]
    assert (data["crop_pct"], data["interpolation"]) == (0.875, "bicubic")
    hybrid = create_model("R50+ViT-B/16", num_classes=7)
    config = timm.config_for(hybrid, Facts())
    assert config["architecture"] == "vit_base_r50_s16_224"
    assert config["model_args"]["patch_size"] == 1
    assert config["pretrained_cfg"]["first_conv"] == "patch_embed.backbone.stem.conv"


@pytest.mark.parametrize(
    "options, arguments",
    [
        (
            {"pooling": "gap", "norm_after_pooling": True},
            {"global_pool": "avg", "fc_norm": True, "class_token": False},
        ),
        (
            {"pooling": "gap", "num_registers": 2},
            {"reg_tokens": 2, "no_embed_class": True, "fc_norm": False},
        ),
        ({"class_token_position": False}, {"no_embed_class": True}),
        ({"pooling": "map"}, {"global_pool": "map", "class_token": False}),
        ({"layer_scale_init": 0.1}, {"init_values": 0.1}),
        ({"positions": "none"}, {"pos_embed": "none"}),
        ({"pooling": "gap", "class_token": "always"}, {"class_token": True}),
    ],
)
def test_timm_arguments(options: dict[str, Any], arguments: dict[str, Any]) -> None:
    actual = timm.config_for(small(**options), Facts())["model_args"]
    assert {name: actual.get(name) for name in arguments} == arguments


@pytest.mark.parametrize(
    # 839 / 832 * 832 is 838.99... in floating point.
    "width, mlp_dim",
    [(1152, 4304), (1664, 8192), (832, 839)],
)
def test_mlp_ratios_give_the_width_back(width: int, mlp_dim: int) -> None:
    """timm cuts the product off to an integer."""
    model = small(width=width, mlp_dim=mlp_dim, num_heads=1)
    ratio = timm.config_for(model, Facts())["model_args"]["mlp_ratio"]
    assert int(width * ratio) == mlp_dim


@pytest.mark.parametrize(
    "facts",
    [
        Facts(tuple("abcde"), "resize_small_center_crop", 0.875, "bicubic"),
        Facts((), "resize", 0.0, "bilinear"),
    ],
)
def test_facts_survive(facts: Facts) -> None:
    model = create_model("ViT-Ti/16", num_classes=5)
    heads = {timm: "head.bias", huggingface: "classifier.bias"}
    for module, head in heads.items():
        config = module.config_for(model, facts)
        assert module.facts({head: np.zeros(5)}, config) == facts
        # Names of other classes than the head's are none.
        assert not module.facts({head: np.zeros(7)}, config).label_names


def test_registers_behind_a_placed_class_token(tmp_path: Path) -> None:
    """timm has positions for both, or none; those of registers are written as zeros."""
    loaded = load("timm_dinov2", tmp_path / "a")
    save_checkpoint(tmp_path / "b", loaded.model, loaded.params, layout="timm")
    tensors, config = files.read_tensors(tmp_path / "b")
    table, before = tensors["pos_embed"], original("timm_dinov2")["pos_embed"]
    assert table.shape == (1, 1 + 3 + 4, 12)
    assert not table[:, 1:4].any()
    np.testing.assert_array_equal(table[:, [0, 4, 5, 6, 7]], before)
    assert config["model_args"]["no_embed_class"] is False
    assert config["model_args"]["reg_tokens"] == 3


def test_rescaled_pixels() -> None:
    """A processor that does not divide by 255 gives mean and deviation in its units."""
    config = config_of("huggingface_vit")
    processor = config["preprocessor_config"]
    tensors = original("huggingface_vit")
    processor |= {"rescale_factor": 1.0, "image_mean": [127.5] * 3}
    processor |= {"image_std": [51.0] * 3}
    actual = huggingface.describe(tensors, config)
    assert "pixel_mean" not in actual  # a half, the default
    assert actual["pixel_std"] == (0.2, 0.2, 0.2)
    processor["do_normalize"] = False
    actual = huggingface.describe(tensors, config)
    assert (actual["pixel_mean"], actual["pixel_std"]) == ((0.0,) * 3, (1.0,) * 3)
