"""Names of models, the options that go with them, and back to names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import FAMILIES, create_model, model_options
from vit_jax.models.mixer import Mixer
from vit_jax.models.resnet import EPSILONS, ResNet
from vit_jax.models.variants import BLOCKS, SIZES, names, parse_name
from vit_jax.models.vit import VisionTransformer

# Attributes by name: what the released code of each has.
HYBRIDS = {
    "R50+ViT-B/32": ((3, 4, 6, 3), 32, (7, 7), 768),
    "R50+ViT-B/16": ((3, 4, 9), 16, (14, 14), 768),
    "R50+ViT-L/32": ((3, 4, 6, 3), 32, (7, 7), 1024),
    "R50+ViT-L/16": ((3, 4, 9), 16, (14, 14), 1024),
    "R50+ViT-So400m/16": ((3, 4, 9), 16, (14, 14), 1152),
    "R26+ViT-S/32": ((2, 2, 2, 2), 32, (7, 7), 384),
    "R26+ViT-B/32": ((2, 2, 2, 2), 32, (7, 7), 768),
    "R+ViT-Ti/16": ((), 32, (7, 7), 192),
}


MAP = {"pooling": "map"}
DINOV3 = {
    "image_size": 256,
    "norm_epsilon": 1e-5,
    "pooling": "gap",
    "class_token": "always",
    "num_registers": 4,
    "positions": "rope2d",
    "layer_scale_init": 1e-5,
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids(name):
    model = create_model(name, num_classes=0)
    found = (model.resnet_stem, model.patch_size, model.grid, model.width)
    assert found == HYBRIDS[name]
    assert (model.stem_width, model.stem_norm_epsilon) == (64, 1e-6)


def test_axial_vit():
    model = create_model("Axial-ViT-B/32", num_classes=0)
    plain = create_model("ViT-B/32", num_classes=0)
    assert model == plain.clone(attention="axial", pooling="gap")


@pytest.mark.parametrize("depth", BLOCKS)
def test_resnets(depth):
    model = create_model(f"BiT-R{depth}x3", num_classes=0)
    assert isinstance(model, ResNet)
    assert (model.blocks, model.width) == (BLOCKS[depth], 192)
    # Three convolutions a unit, the root's and the head.
    assert 3 * sum(model.blocks) + 2 == depth
    axial = create_model(f"AxialResNet-{depth}", num_classes=0)
    assert (axial.blocks, axial.width, axial.axial_heads) == (BLOCKS[depth], 64, 8)


def test_epsilons_go_with_the_version():
    def epsilons(name, **options):
        model = create_model(name, num_classes=0, **options)
        return {key: getattr(model, key) for key in EPSILONS["v1"]}

    assert epsilons("BiT-R50x1") == EPSILONS["v2"]
    assert epsilons("BiT-R50x1", version="v1") == EPSILONS["v1"]
    assert epsilons("AxialResNet-50") == EPSILONS["v1"]
    mixed = epsilons("BiT-R50x1", version="v1", norm_epsilon=1e-4)
    assert mixed == EPSILONS["v1"] | {"norm_epsilon": 1e-4}


def test_mixers():
    model = create_model("Mixer-B/16", num_classes=0)
    assert isinstance(model, Mixer)
    sizes = (model.depth, model.width, model.token_mlp_dim, model.channel_mlp_dim)
    assert (*sizes, model.patch_size) == (12, 768, 384, 3072, 16)


def test_b_in_lower_case_is_half_of_b():
    halved, whole = (create_model(f"ViT-{b}/32", num_classes=0) for b in "bB")
    assert (halved.depth, whole.depth) == (12, 12)
    for option in ("width", "mlp_dim", "num_heads"):
        assert 2 * getattr(halved, option) == getattr(whole, option)


@pytest.mark.parametrize("patch_size", [7, 16, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_names_can_be_parsed(family, patch_size):
    found = names(family, patch_size)
    assert len(set(found)) == len(found) > 3
    for name in found:
        parsed_family, options = parse_name(name)
        assert parsed_family == family
        assert family == "resnet" or options["patch_size"] == patch_size
        assert isinstance(create_model(name, num_classes=0), FAMILIES[family])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet50", "AxialResNet-50"),
        ("bit-r50x1", "BiT-R50x1 "),
        ("BiT-R50x5", "BiT-R50x4"),
        ("R50+ViT-B/8", r"R50\+ViT-B/16"),
        ("R50-ViT-B/16", r"R50\+ViT-B/16"),
        ("r50+vit-b/16", r"R50\+ViT-B/16"),
        ("mixer-b/16", "Mixer-B/16"),
        ("Mixer-X/24", "Mixer-[SBLH]/24"),
        ("ViT-B/0", "ViT-B/"),
        ("vit-b/32", "ViT-B/32"),
        ("Axial-R50+ViT-B/16", "Axial-ViT-B/16"),
        ("ViT-B/16 ", "ViT-B/16"),
        ("", "ViT-B/16"),
    ],
)
def test_unknown_names_give_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown model .* Did you mean .*{nearest}"):
        create_model(name, num_classes=1)


def made(name, **options):
    options = {"num_classes": 7, "image_size": (96, 64), "dtype": "float32"} | options
    return create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT-B/16", {}),
        ("ViT-B/16", {"pooling": "map", "norm_epsilon": 1e-12}),
        ("ViT-B/16", {"pixel_mean": (0.485, 0.456, 0.406), "layer_scale_init": 1.0}),
        ("ViT-mu/8", {"depth": 3, "width": 48, "mlp_dim": 96, "positions": "none"}),
        ("ViT-mu/16", {"resnet_stem": (1, 1), "stem_width": 32}),
        ("Axial-ViT-S/16", {"positions_at": "shared"}),
        ("Axial-ViT-S/32", {"resnet_stem": (2, 2, 2, 2)}),
        ("R50+ViT-B/16", {"stem_norm_epsilon": 1e-5}),
        ("R+ViT-Ti/16", {"activation": "gelu"}),
        ("BiT-R101x3", {}),
        ("BiT-R50x1", {"version": "v1"}),
        ("BiT-R50x1", {"version": "v1", "norm_epsilon": 1e-4}),
        ("BiT-R50x1", {"norm_epsilon": 1e-4, "std_epsilon": 1e-5}),
        ("BiT-R26x1", {"blocks": (1, 1), "width": 32}),
        ("BiT-R50x1", {"version": "v1"}),
        ("AxialResNet-26", {"version": "v2"}),
        ("AxialResNet-26", {"axial_heads": 4}),
        ("Mixer-L/16", {"dropout_rate": 0.1}),
        ("Mixer-S/8", {"token_mlp_dim": 7, "channel_mlp_dim": 9, "depth": 1}),
    ],
)
def test_options_and_back(name, options):
    model = made(name, **options)
    found = model_options(model)
    assert found == {"name": name, **options}  # no more than it takes
    assert made(**found) == model
    assert made(**json.loads(json.dumps(found))) == model  # with lists for tuples


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("R26+ViT-S/32", {"attention": "axial", "pooling": "gap"}),
        ("BiT-R26x1", {"axial_heads": 8}),
        ("ViT-b/32", {}),
    ],
)
def test_a_model_with_several_names_comes_back_under_one(name, options):
    found = model_options(made(name, **options))
    assert found["name"] != name
    assert made(**found) == made(name, **options)


def test_sizes_of_no_name_are_options():
    model = VisionTransformer(
        3, (32, 32), 8, depth=2, width=24, mlp_dim=40, num_heads=3
    )
    found = model_options(model)
    assert found["name"].endswith("/8")
    arguments = {"num_classes": 3, "image_size": 32, "dtype": "float32"}
    assert create_model(**found, **arguments) == model
    # As many options as there are numbers that no size has beside the others.
    assert found == {"name": "ViT-Ti/8", "depth": 2, "width": 24, "mlp_dim": 40}


def test_a_model_that_no_options_give_is_an_error():
    model = made("BiT-R50x1").clone(norm_epsilon=1e-6)
    with pytest.raises(ValueError, match="change norm_epsilon, which is 1e-06"):
        model_options(model)


def test_options_leave_out_what_the_caller_knows():
    model = made("ViT-S/16", num_classes=99, dtype="bfloat16")
    assert model.dtype == jnp.bfloat16
    assert model_options(model) == {"name": "ViT-S/16"}


# As a config has them that was not made for the family.
VIT_DEFAULTS = {
    "pooling": "token",
    "positions": "learned",
    "attention": "full",
    "resnet_stem": None,
    "num_registers": 0,
    "attention_dropout_rate": 0.0,
    "norm_epsilon": 1e-6,
    "pixel_std": [0.5, 0.5, 0.5],
}


@pytest.mark.parametrize(
    "name", ["BiT-R50x1", "AxialResNet-50", "Mixer-B/16", "Axial-ViT-B/32"]
)
def test_defaults_of_the_vit_may_be_given_to_all(name):
    assert made(name, **VIT_DEFAULTS) == made(name)
    assert made(name, pooling="gap") == made(name)


def test_all_of_the_base_config_goes_with_every_family():
    from configs.base import get_config

    options = {k: v for k, v in get_config().model.items() if k != "name"}
    for name in ("ViT-S/16", "R50+ViT-B/16", "Axial-ViT-B/32", "BiT-R50x1"):
        assert made(name, **options | {"dtype": "float32"}) == made(name)


def test_defaults_do_not_undo_a_hybrid():
    assert made("R50+ViT-B/32", **VIT_DEFAULTS) == made("R50+ViT-B/32")
    assert made("R50+ViT-B/32", resnet_stem=(1, 1)).resnet_stem == (1, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("BiT-R50x1", {"positions": "sincos2d"}, "no option 'positions', which is "),
        ("BiT-R50x1", {"dropout_rate": 0.1}, "options of a ResNet are blocks, width"),
        ("BiT-R50x1", {"pooling": "map"}, "no option 'pooling', which is 'map'"),
        ("Mixer-B/16", {"num_registers": 4}, "no option 'num_registers'"),
        ("Mixer-B/16", {"version": "v1"}, "options of a Mixer are depth, width"),
        ("ViT-B/16", {"axial_heads": 8}, "options of a VisionTransformer are depth"),
        ("ViT-B/16", {"token_mlp_dim": 8}, "no option 'token_mlp_dim', which is 8"),
        ("ViT-B/16", {"patch_size": 8}, "the patch size is in the model's name"),
        ("BiT-R50x1", {"version": "v3"}, "unknown version 'v3': wanted one of v1, v2"),
        ("BiT-R50x1", {"dtype": "float8"}, "unknown dtype 'float8': wanted auto"),
    ],
)
def test_options_of_another_family_are_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        made(name, **options)


@pytest.mark.parametrize("name", ["ViT-B/16", "BiT-R50x1", "Mixer-B/16"])
def test_options_of_no_family_are_errors(name):
    with pytest.raises(TypeError, match="poolin"):
        made(name, poolin="gap")


def test_the_table_has_one_row_a_size():
    assert len(set(SIZES)) == len(SIZES)
    # Only the paper's b has the sizes of another row.
    assert len(set(SIZES.values())) == len(SIZES) - 1


# --- Arguments as other libraries have them ----------------------------------------


def test_every_timm_name_of_the_public_table_is_the_model_there():
    from vit_jax.interop.public import public

    rows = [row for row in public().values() if row.name.startswith("timm/")]
    assert len(rows) > 90
    for row in rows:
        model = create_model(row.name.removeprefix("timm/"))
        assert model.image_size == (int(row.image_size),) * 2, row.name
        plain = create_model(row.model, image_size=int(row.image_size))
        for option in ("depth", "width", "blocks", "resnet_stem", "patch_size"):
            wanted = getattr(plain, option, None)
            assert getattr(model, option, None) == wanted, (row.name, option)


@pytest.mark.parametrize(
    ("name", "same", "options"),
    [
        ("vit_base_patch16_384", "ViT-B/16", {"image_size": 384}),
        ("deit_tiny_patch16_224", "ViT-Ti/16", {}),
        ("vit_giant_patch14_224", "ViT-g/14", {}),
        (
            "deit3_small_patch16_224.fb_in1k",
            "ViT-S/16",
            {"layer_scale_init": 1e-6, "class_token_position": False},
        ),
        (
            "vit_small_patch14_reg4_dinov2.lvd142m",
            "ViT-S/14",
            dict(
                image_size=518,
                layer_scale_init=1e-5,
                num_registers=4,
                class_token_position=False,
            ),
        ),
        ("mixer_b16_224", "Mixer-B/16", {}),
        ("deit_tiny_distilled_patch16_224", "ViT-Ti/16", {"distillation_token": True}),
        (
            "vit_base_patch32_clip_224.laion2b",
            "ViT-B/32",
            {"embedding_norm": True, "norm_epsilon": 1e-5},
        ),
        (
            "vit_base_patch16_siglip_256",
            "ViT-B/16",
            dict(image_size=256, pooling="map"),
        ),
        (
            "vit_small_plus_patch16_dinov3.lvd1689m",
            "ViT-S/16",
            dict(DINOV3, mlp="swiglu", qkv_bias="none"),
        ),
        (
            "vit_7b_patch16_dinov3",
            "ViT-H/16",
            dict(DINOV3, mlp="swiglu", qkv_bias="none", depth=40, num_heads=32)
            | dict(width=4096, mlp_dim=8192),
        ),
        ("vit_base_patch16_dinov3_qkvb", "ViT-B/16", dict(DINOV3, qkv_bias="qv")),
        (
            "vit_large_patch16_rope_mixed_ape_224",
            "ViT-L/16",
            dict(
                positions="learned_rope2d",
                rope_frequencies="mixed",
                rope_coordinates="index",
                rope_layout="pairs",
                rope_axes="xy",
                rope_base=10.0,
                layer_scale_init=1e-5,
                class_token_position=False,
            ),
        ),
        (
            "eva02_base_patch14_448",
            "ViT-B/14",
            dict(
                image_size=448,
                mlp="swiglu",
                mlp_dim=2048,
                mlp_inner_norm=True,
                positions="learned_rope2d",
                rope_coordinates="index",
                rope_layout="pairs",
                rope_base=1e4,
                rope_grid=(16, 16),
                qkv_bias="qv",
                pooling="gap",
                class_token="always",
                norm_after_pooling=True,
            ),
        ),
    ],
)
def test_timm_names_are_aliases_with_its_numerics(name, same, options):
    assert create_model(name) == create_model(same, activation="gelu", **options)
    assert create_model(name, image_size=112).image_size == (112, 112)
    assert create_model(name, depth=1).depth == 1


def test_names_of_timm_with_other_activations_and_sizes():
    def found(name, *options):
        return tuple(getattr(create_model(name), option) for option in options)

    names = ("vit_so400m_patch16_siglip_256", "vit_so400m_patch14_siglip_224")
    assert [found(name, "activation") for name in names] == [("gelu_tanh",), ("gelu",)]
    name = "vit_large_patch14_clip_quickgelu_336"
    assert found(name, "activation", "image_size") == ("quick_gelu", (336, 336))
    giant = found("vit_giant_patch14_reg4_dinov2", "width", "num_heads", "mlp", "depth")
    assert giant == (1536, 24, "swiglu", 40)


def test_the_epsilons_of_timm():
    bit, hybrid = (
        create_model("resnetv2_50x1_bit"),
        create_model("vit_tiny_r_s16_p8_224"),
    )
    assert (bit.std_epsilon, bit.variance_epsilon) == (0.0, 1e-8)
    assert (hybrid.stem_norm_epsilon, hybrid.stem_variance_epsilon) == (1e-5, 1e-8)
    # A config that was made for no family does not undo what the name says.
    assert (
        create_model("vit_tiny_patch16_224", activation="gelu_tanh").activation
        == "gelu"
    )


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_rope_reg1_gap_256", "vit_vast_patch16_224", "resnet50.a1_in1k"],
)
def test_models_of_timm_that_are_not_here(name):
    with pytest.raises(ValueError, match=f"unknown model '{name}'"):
        create_model(name)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")])
def test_dtypes_by_name_and_as_jax_and_numpy_have_them(dtype):
    assert create_model("ViT-mu/16", dtype=dtype) == create_model(
        "ViT-mu/16", dtype="bfloat16"
    )
    assert create_model("ViT-mu/16", dtype=np.float32).dtype == jnp.float32
    with pytest.raises(ValueError, match="unknown dtype .*float64.*: wanted auto, fl"):
        create_model("ViT-mu/16", dtype=np.float64)


def test_misspelt_options_give_the_nearest():
    with pytest.raises(TypeError, match="'droput_rate': did you mean 'dropout_rate'"):
        create_model("ViT-B/16", droput_rate=0.1)
    with pytest.raises(TypeError, match="'num_clases': did you mean 'num_classes'"):
        create_model("BiT-R50x1", num_clases=10)
    with pytest.raises(TypeError, match="unknown option 'zzz': wanted depth, width"):
        create_model("Mixer-B/16", zzz=1)


@pytest.mark.parametrize("name", ["ViT-mu/16", "BiT-R26x1", "Mixer-S/16"])
def test_a_model_is_called_as_in_evaluation_unless_told(name):
    sizes = {"BiT-R26x1": {"blocks": (1,), "width": 32}}.get(name, {"depth": 1})
    model = create_model(name, image_size=32, **sizes)
    assert model.num_classes == 1000
    images = jnp.zeros((1, 32, 32, 3))
    logits, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, images), jax.random.key(0)
    )
    assert logits[0].shape == (1, 1000)
    assert jax.eval_shape(model.apply, variables, images)[0].shape == (1, 1000)
