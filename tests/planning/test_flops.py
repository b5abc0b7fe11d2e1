"""FLOPs against published figures of the same models, and layer by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import VisionTransformer, create_model, init_params
from vit_jax.planning.flops import (
    layers,
    model_macs,
    pretraining_exaflops,
    training_flops,
)


def formula(model: VisionTransformer) -> int:
    """Section 1.2 of the paper's facts, and what registers and MAP pooling add."""
    d, m = model.width, model.mlp_dim
    patches = model.grid[0] * model.grid[1]
    tokens = patches + model.num_prefix_tokens
    block = tokens * (4 * d**2 + 2 * d * m) + 2 * tokens**2 * d
    total = patches * 3 * model.patch_size**2 * d + model.depth * block
    if model.pooling == "map":
        total += tokens * (2 * d**2 + 2 * d) + 2 * d**2 + 2 * d * m
    features = d * (2 if model.pooling == "token_gap" else 1)
    if model.pre_logits:
        total += features * d
        features = d
    return total + features * model.num_classes


# Section 1.2, 1000 classes.
VIT_GIGA_MACS = {
    "Ti/32": 0.306,
    "Ti/16": 1.254,
    "Ti/14": 1.698,
    "S/32": 1.143,
    "S/16": 4.599,
    "S/14": 6.124,
    "B/32": 4.409,
    "B/16": 17.564,
    "B/14": 23.162,
    "L/32": 15.378,
    "L/16": 61.555,
    "L/14": 81.013,
    "H/32": 31.856,
    "H/16": 127.315,
    "H/14": 167.295,
}


@pytest.mark.parametrize("name", VIT_GIGA_MACS)
def test_macs_of_vision_transformers(name):
    """One traced block, multiplied by the depth, agrees with the formula."""
    model = create_model(f"ViT-{name}", num_classes=1000)
    shallow = model.clone(depth=1)
    macs = model_macs(shallow)
    assert macs == formula(shallow)
    rows = {row.name: row.macs for row in layers(shallow, 2)}
    macs += (model.depth - 1) * rows["encoder/block_00"]
    assert macs == formula(model)
    assert round(macs / 1e9, 3) == VIT_GIGA_MACS[name]


@functools.cache
def counted(name, **options):
    """Rows of parameters, MACs and activations of a whole model."""
    return layers(create_model(name, **options))


# Section 1.3: parameters with 1000 classes, and giga-MACs; for hybrids without the
# head, which would change the last digit of the second.
TRUNKS = {
    "BiT-R50x1": (25549352, 4.09),
    "BiT-R50x2": (97988712, 16.12),
    "BiT-R101x1": (44541480, 7.80),
    "BiT-R152x1": (60185128, 11.51),
    "BiT-R152x2": (236335208, 45.81),
    "BiT-R200x3": (568633000, 134.35),
    "BiT-R152x4": (936533224, 182.78),
    "R50+ViT-B/32": (110945832, 8.46),
    "R50+ViT-B/16": (98659112, 21.53),
    "R50+ViT-L/32": (328994856, 19.41),
    "R50+ViT-L/16": (316483624, 65.54),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_resnets_and_hybrids(name):
    rows = counted(name, num_classes=1000)
    macs = sum(row.macs for row in rows)
    if "ViT" in name:
        macs -= rows[-1].macs
        assert rows[-1].name == "head"
    totals = sum(row.parameters for row in rows), round(macs / 1e9, 2)
    assert totals == TRUNKS[name]


# google-research/vision_transformer, `models_test.py`
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("R26+ViT-S/32", 36431912),
        ("R26+ViT-B/32", 101383976),
        ("R+ViT-Ti/16", 6337704),
        ("Mixer-B/16", 59880472),
    ],
)
def test_parameters_of_other_released_models(name, parameters):
    rows = counted(name, num_classes=1000)
    assert sum(row.parameters for row in rows) == parameters


# Table 6 of the paper: exaFLOPs of pre-training on JFT (303 million images, 18,291
# classes). Its B/32 and all ResNets are off the convention that fits the others, see
# section 3 of the facts; 859 for the second to last is taken for a slip.
@pytest.mark.parametrize(
    ("name", "epochs", "exa_flops", "tolerance"),
    [
        ("ViT-B/32", 7, 55, 0.03),
        ("ViT-B/16", 7, 224, 0.002),
        ("ViT-L/32", 7, 196, 0.002),
        ("ViT-L/16", 7, 783, 0.002),
        ("ViT-L/16", 14, 1567, 0.002),
        ("ViT-H/14", 14, 4262, 0.002),
        ("R50+ViT-B/32", 7, 106, 0.02),
        ("R50+ViT-B/16", 7, 274, 0.002),
        ("R50+ViT-L/32", 7, 246, 0.01),
        ("R50+ViT-L/16", 7, 859, 0.03),
        ("R50+ViT-L/16", 14, 1668, 0.002),
        ("BiT-R50x1", 7, 50, 0.05),
        ("BiT-R50x2", 7, 199, 0.05),
        ("BiT-R101x1", 7, 96, 0.05),
        ("BiT-R152x1", 7, 141, 0.05),
        ("BiT-R152x2", 7, 563, 0.05),
        ("BiT-R152x2", 14, 1126, 0.05),
        ("BiT-R200x3", 14, 3306, 0.05),
    ],
)
def test_training_flops_are_those_of_the_paper(name, epochs, exa_flops, tolerance):
    if name.startswith("ViT"):
        model = create_model(name, num_classes=18291, pre_logits=True)
        macs = formula(model)
    else:
        # The head is another: the wider one, and a tanh layer below it in hybrids.
        rows = counted(name, num_classes=1000)
        features = rows[-1].parameters // 1000 - 1
        macs = sum(row.macs for row in rows[:-1]) + features * 18291
        macs += features**2 if "ViT" in name else 0
    total = training_flops(macs) * 303e6 * epochs / 1e18
    assert total == pytest.approx(exa_flops, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "options", "exa_flops", "tolerance"),
    [
        ("ViT-L/16", {"epochs": 14}, 1567, 0.002),
        ("R50+ViT-B/16", {"epochs": 7}, 274, 0.002),
        ("BiT-R50x1", {"epochs": 7}, 50, 0.05),
        # 6 * 1e-18 * 90 epochs of section 1.2's multiply-adds, by hand.
        (
            "ViT-S/16",
            {"epochs": 90, "images": 1_268_355, "num_classes": 1000},
            6e-18 * 90 * 1_268_355 * (4.599e9 + 384**2),
            0.001,
        ),
    ],
)
def test_pretraining_exaflops(name, options, exa_flops, tolerance):
    result = pretraining_exaflops(name, **options)
    assert result == pytest.approx(exa_flops, rel=tolerance)


# Figure 13, read off: exaFLOPs of 7 epochs.
@pytest.mark.parametrize(
    ("name", "exa_flops", "tolerance"),
    [
        ("Axial-ViT-B/32", 108, 0.01),
        ("Axial-ViT-B/16", 427, 0.01),
        ("AxialResNet-50", 56, 0.1),  # what it is exactly, the paper leaves open
    ],
)
def test_training_flops_of_axial_models(name, exa_flops, tolerance):
    macs = sum(row.macs for row in counted(name, num_classes=18291))
    assert training_flops(macs) * 303e6 * 7 / 1e18 == pytest.approx(
        exa_flops, rel=tolerance
    )


# Elements that convolutions and matrix products give, in millions, as timm publishes
# them (column macts of its benchmarks).
@pytest.mark.parametrize(
    ("name", "millions"), [("ViT-B/16", 23.90), ("BiT-R50x1", 11.11)]
)
def test_activations(name, millions):
    rows = counted(name, num_classes=1000)
    assert round(sum(row.activations for row in rows) / 1e6, 2) == millions


SMALL = {"num_classes": 10, "image_size": 64}


@pytest.mark.parametrize("pooling", ["token", "gap", "map", "token_gap"])
def test_options_count(pooling):
    options = {"pooling": pooling, "num_registers": 2, "pre_logits": True}
    model = create_model("ViT-mu/8", **SMALL, **options)
    assert model_macs(model) == formula(model)
    # Neither a fused kernel nor another dtype changes the arithmetic.
    fused = model.clone(attention_implementation="cudnn", dtype=jnp.bfloat16)
    assert model_macs(fused) == formula(model)


def test_scanned_blocks_count_each():
    model = create_model("ViT-mu/8", **SMALL, depth=3)
    scanned = model.clone(scan=True, remat="full")
    assert layers(scanned, 2) == layers(model, 2)


def test_relative_positions_count():
    learned = create_model("ViT-mu/8", **SMALL, depth=3)
    relative = create_model("ViT-mu/8", **SMALL, depth=3, positions="relative2d")
    tokens, offsets, width = 64, 15, 32
    added = 3 * tokens * 2 * offsets * width
    assert model_macs(relative) - model_macs(learned) == added


def test_axial_attention_by_hand():
    """A unit on an 8 x 8 map of 32 features: rows, then columns of 8 places."""
    options = {"blocks": (1,), "width": 32, "num_classes": 0, "image_size": 32}
    model = create_model("AxialResNet-50", **options, axial_heads=4)
    places, length, width = 64, 8, 32
    # Keys and queries of half the width, for content and offsets; values of all of it.
    line = 2 * width**2 + length * (3 * width // 2 + 2 * width)
    unit = places * (width**2 + 2 * line + width * 128 + width * 128)
    root = 256 * 7**2 * 3 * width
    assert model_macs(model) == root + unit


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT-mu/8", {"depth": 2, "num_registers": 1, "pooling": "map"}),
        ("ViT-mu/8", {"positions": "learned2d", "positions_at": "every_layer"}),
        ("Axial-ViT-mu/8", {"positions": "relative"}),
        ("R+ViT-mu/16", {}),
        ("BiT-R50x1", {"blocks": (2, 1), "width": 32}),
        ("AxialResNet-26", {"blocks": (1, 1), "width": 32}),
        ("Mixer-S/8", {"depth": 2, "width": 32}),
    ],
)
def test_layers_are_all_of_the_model(name, options):
    model = create_model(name, **SMALL, **options)
    rows = layers(model)
    params = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    sizes = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [key.key for key in path]
        layer = "/".join(names[:-1] or names)
        sizes[layer] = sizes.get(layer, 0) + leaf.size
    assert {row.name: row.parameters for row in rows if row.parameters} == sizes
    assert len({row.name for row in rows}) == len(rows)
    assert rows[-1].name == "head" and rows[-1].shape == (10,)
    # Summed up to any depth they stay the same in total.
    for depth in (1, 2, 3):
        few = layers(model, depth)
        assert len(few) <= len(rows)
        assert all(row.name.count("/") < depth for row in few)
        for column in ("parameters", "macs", "activations"):
            totals = [sum(getattr(row, column) for row in r) for r in (few, rows)]
            assert totals[0] == totals[1]


def test_shapes_of_layers():
    """The shapes are those of the model's own activations."""
    model = create_model("R50+ViT-mu/32", **SMALL, dtype="float32")
    rows = {row.name: row for row in layers(model, 2)}
    assert rows["class_token"].shape == ()
    assert rows["resnet/root"].shape == (32, 32, 64)
    assert rows["resnet/stage_4"].shape == (2, 2, 2048)
    assert rows["embedding"].shape == (2, 2, 32)
    assert rows["encoder/block_00"].shape == (5, 32)
    names = list(rows)
    order = ("class_token", "resnet/root", "embedding", "encoder/block_00", "head")
    assert sorted(order, key=names.index) == list(order)
    inner = {row.name: row for row in layers(model)}
    attention = inner["encoder/block_00/attention"]
    assert attention.macs == 2 * 5 * 5 * 32  # what no parameter is in
    assert (attention.parameters, attention.activations) == (0, 2 * 25 + 5 * 32)


def test_macs_are_those_of_the_compiled_model():
    """XLA counts every operation, most of which are in the matrix products."""
    for name in ("ViT-S/16", "Mixer-S/16"):
        model = create_model(name, num_classes=10, image_size=64, depth=2)
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        params = jax.eval_shape(
            functools.partial(init_params, model), jax.random.key(0)
        )

        def forward(params, images, model=model):
            return model.apply({"params": params}, images, train=False)[0]

        cost = jax.jit(forward).lower(params, images).cost_analysis()
        np.testing.assert_allclose(cost["flops"], 2 * model_macs(model), rtol=0.03)
