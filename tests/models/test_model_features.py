"""`features`: one way to the representation and the layers of every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.models import create_model, init_params
from vit_jax.models.depth import scanned

IMAGES = jax.random.uniform(jax.random.key(2), (2, 16, 16, 3), minval=-1)
TINY = {"depth": 2, "width": 16, "mlp_dim": 16, "num_heads": 2}


def made(name="ViT-mu/4", **options):
    model = create_model(name, num_classes=5, image_size=16, **options)
    return model, init_params(model, jax.random.key(0))


def test_tokens_of_a_vit_are_told_apart():
    model, params = made(**TINY, num_registers=3)
    _, out = model.apply({"params": params}, IMAGES)
    found = vit_jax.features(model, params, IMAGES, layers=(0, "encoded"))
    assert list(found.layers) == ["block_00", "encoded"]
    np.testing.assert_array_equal(found.representation, out["pre_logits"])
    for name, tokens, normed in (
        ("block_00", out["encoder"]["block_00"]["output"], False),
        ("encoded", out["encoded"], True),
    ):
        layer = found.layers[name]
        np.testing.assert_array_equal(layer.registers, tokens[:, :3])
        np.testing.assert_array_equal(layer.class_token, tokens[:, 3])
        assert layer.patches.shape == (2, 4, 4, 16)
        np.testing.assert_array_equal(layer.patches[:, 1, 2], tokens[:, 4 + 6])
        assert layer.normed == normed
        assert layer.distillation_token is None
    # What is classified is the class token behind the last norm.
    token = found.layers["encoded"].class_token
    np.testing.assert_array_equal(found.representation, token)


def test_a_distillation_token_stands_behind_the_class_token():
    model, params = made(**TINY, num_registers=3, distillation_token=True)
    _, out = model.apply({"params": params}, IMAGES)
    found = vit_jax.features(model, params, IMAGES)
    layer, tokens = found.layers["encoded"], out["encoded"]
    np.testing.assert_array_equal(layer.registers, tokens[:, :3])
    np.testing.assert_array_equal(layer.class_token, tokens[:, 3])
    np.testing.assert_array_equal(layer.distillation_token, tokens[:, 4])
    np.testing.assert_array_equal(layer.patches[:, 0, 0], tokens[:, 5])
    # Each has a head, and the logits are the mean.
    mean = (layer.class_token + layer.distillation_token) / 2
    np.testing.assert_allclose(found.representation, mean, rtol=1e-6)


def test_stacked_blocks_and_jit_keep_names_and_order():
    model, params = made(**TINY)
    plain = vit_jax.features(model, params, IMAGES, layers=None)
    scan, stacked = scanned(model, params)
    compiled = jax.jit(lambda p, x: vit_jax.features(scan, p, x, layers=None))
    found = compiled(stacked, IMAGES)
    names = ["stem", "embedded", "block_00", "block_01", "encoded"]
    assert list(found.layers) == list(plain.layers) == names
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, plain)


@pytest.mark.parametrize(
    ("name", "options", "last", "normed"),
    [
        ("Mixer-S/4", dict(depth=1, width=16), "block_00", True),
        ("BiT-R26x1", dict(blocks=(1, 1), width=32), "stage_2/unit_01", True),
        (
            "BiT-R26x1",
            dict(blocks=(1, 1), width=32, version="v1"),
            "stage_2/unit_01",
            False,
        ),
        ("Axial-ViT-mu/4", TINY, "block_01/column", True),
        ("ViT-mu/4", {**TINY, "resnet_stem": (), "stem_width": 32}, "block_01", True),
        ("ViT-mu/4", {**TINY, "pooling": "gap"}, "block_01", True),
        (
            "ViT-mu/4",
            {**TINY, "pooling": "gap", "norm_after_pooling": True},
            "block_01",
            False,
        ),
    ],
)
def test_every_family(name, options, last, normed):
    model, params = made(name, **options)
    found = vit_jax.features(model, params, IMAGES, layers=(-1, "encoded"))
    assert list(found.layers) == [last, "encoded"]
    encoded = found.layers["encoded"]
    assert encoded.normed == normed and not found.layers[last].normed
    assert encoded.registers is None
    if not getattr(model, "has_class_token", False):
        assert encoded.class_token is None
        mean = encoded.patches.mean(axis=(1, 2))
        if not getattr(model, "norm_after_pooling", False):
            np.testing.assert_allclose(found.representation, mean, atol=1e-5)
    assert encoded.patches.dtype == jnp.float32 and encoded.patches.ndim == 4


@pytest.mark.parametrize("layer", ["block_02", 2, -3, "pre_logits"])
def test_layers_that_are_not_there(layer):
    model, params = made(**TINY)
    message = f"no layer {layer!r}: wanted one of stem, embedded, block_00, block_01, "
    with pytest.raises(ValueError, match=message):
        vit_jax.features(model, params, IMAGES, layers=(layer,))
