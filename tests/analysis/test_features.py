"""Measures of whole models: exact symmetries, names, measures of each family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis import equivariance, profile
from vit_jax.analysis.features import (
    attention_weights,
    layer_features,
    position_tables,
    total_stride,
)
from vit_jax.analysis.heads import attention_measures
from vit_jax.analysis.profile import bias_profile
from vit_jax.analysis.shuffle import (
    accuracy,
    remove_positions,
    shuffle_accuracy,
    shuffle_blocks,
)
from vit_jax.models import create_model, init_params
from vit_jax.models.depth import scanned
from vit_jax.models.positions import ADDED, PLACES, sincos2d

VARIANTS = [("relative", "stem"), ("relative2d", "stem")]
VARIANTS += [("relative_bias", "stem"), ("relative_mlp", "shared")]
VARIANTS += [(kind, place) for kind in ADDED for place in PLACES]
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(-1, 1, size=(12, 16, 16, 3)), jnp.float32)


def tiny(name="ViT-mu/4", **options):
    sizes = {"depth": 2, "width": 16, "mlp_dim": 8, "num_heads": 2, "pooling": "gap"}
    if name.startswith("BiT"):
        sizes = {"blocks": (1, 1), "width": 32}
    if name.startswith("Mixer"):
        sizes = {"depth": 1, "width": 16, "token_mlp_dim": 8, "channel_mlp_dim": 8}
    return create_model(name, num_classes=5, image_size=16, **(sizes | options))


def drawn(model):
    """Parameters that are all random, so that each of them matters."""
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32), shapes
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, images):
    return model.apply({"params": params}, images, train=False)


def labels_of(model, params):
    """Labels: every second one right, the others 0."""
    classes = np.argmax(run(model, params, IMAGES)[0], axis=-1)
    return np.where(np.arange(12) % 2, classes, 0)


features = jax.jit(layer_features, static_argnums=0)
weights_of = jax.jit(attention_weights, static_argnums=0)


@pytest.fixture(scope="module")
def bare():
    """The profile of a ViT that does not know where its patches are."""
    model = tiny(positions="none")
    params = drawn(model)
    labels = labels_of(model, params)
    return bias_profile(model, params, IMAGES, labels, key=jax.random.key(0))


def test_without_positions_whole_patches_are_an_exact_symmetry(bare):
    errors = {k: v for k, v in bare.items() if k.startswith("equivariance/")}
    # stem, embedded; blocks; encoded; grid_4: of whole places in three settings, of
    # half ones in two
    assert len(errors) == (3 + 2) * (2 + 2 + 1 + 1)
    for setting in ("circular", "grey"):
        for name in ("stem", "block_01", "encoded", "grid_4"):
            assert errors[f"equivariance/{setting}/whole/{name}"] < 1e-9
            assert errors[f"equivariance/{setting}/part/{name}"] > 0.1
    assert bare["shift_consistency/stride"] == 1
    assert bare["invariance_error/stride"] < 1e-9
    assert bare["invariance_error/other"] > 0.1
    for name in ("shuffled_2x2", "shuffled_4x4", "without_positions"):
        assert bare[f"accuracy_kept/{name}"] == 1
    assert not [name for name in bare if name.startswith("positions")]


def test_aliasing_of_patches_is_no_symmetry(bare):
    assert bare["lie_derivative/stem"] > 0.1
    assert bare["lie_derivative/pre_logits"] > 0.1


def test_means_of_a_profile(bare):
    layers = [bare[f"attention_entropy/block_0{i}"] for i in (0, 1)]
    assert bare["attention_entropy/mean"] == pytest.approx(np.mean(layers))
    lowest = min(bare[f"attention_ratio/block_0{i}/min"] for i in (0, 1))
    assert bare["attention_ratio/min"] == lowest < bare["attention_ratio/mean"]
    for measure in ("equivariance/grey/part", "lie_derivative"):
        assert bare[f"{measure}/grid_4"] == bare[f"{measure}/encoded"]
    assert all(isinstance(value, float) for value in bare.values())


def test_checkpoints_of_a_model_share_what_is_compiled(bare):
    model = tiny(positions="none")
    params = init_params(model, jax.random.key(0))
    compiled = (
        equivariance.equivariance_errors,
        equivariance.lie_derivatives,
        profile.last_layer_field,
        profile.compiled_outputs,
    )
    before = [function._cache_size() for function in compiled]
    labels = np.zeros(12, int)
    fresh = bias_profile(model, params, IMAGES, labels, key=jax.random.key(1))
    assert [function._cache_size() for function in compiled] == before
    # All logits are zero, so there is no class to be consistent about.
    lost = {"shift_consistency/stride", "shift_consistency/other"}
    assert set(bare) - set(fresh) == lost


def test_positions_break_the_symmetry_and_are_measured():
    model = tiny(positions="sincos2d")
    params = drawn(model)
    moves = np.array([(8, 4)])
    errors = equivariance.equivariance_errors(model, params, IMAGES, moves)
    assert errors["stem"] < 1e-9
    assert errors["embedded"] > 0.01 and errors["encoded"] > 0.01
    actual = profile.position_profile(model, params)
    assert actual["positions/rank_correlation"] > 0.8
    assert actual["positions/neighbour_share"] == 1
    assert actual["positions/row_column_r2"] == pytest.approx(1)
    assert actual["positions/neighbour_share_by_chance"] < 0.5


def test_profile_of_a_resnet():
    model = tiny("BiT-R26x1")
    actual = bias_profile(model, drawn(model), IMAGES, key=jax.random.key(0))
    for measure in ("equivariance/grey/part", "lie_derivative"):
        named = {k for k in actual if k.startswith(measure)} - {f"{measure}/pre_logits"}
        # The second stage has 2 x 2 places.
        assert named == {
            f"{measure}/{x}" for x in ("root", "stage_1/unit_01", "grid_4")
        }
        assert actual[f"{measure}/grid_4"] == actual[f"{measure}/stage_1/unit_01"] > 0
    prefixes = ("attention", "positions")
    assert not [name for name in actual if name.startswith(prefixes)]
    assert 0 < actual["receptive_field/rms_ratio"] < 2
    assert not [name for name in actual if name.startswith("accuracy")]  # no labels


def test_features_of_a_vit_are_its_activations():
    model = tiny(pooling="token", num_registers=1)
    params = drawn(model)
    actual = features(model, params, IMAGES)
    names = ["stem", "embedded", "block_00", "block_01", "encoded"]
    assert list(actual) == names
    assert {x.shape for x in actual.values()} == {(12, 4, 4, 16)}
    _, out = run(model, params, IMAGES)
    block = out["encoder"]["block_01"]["output"]
    np.testing.assert_allclose(actual["block_01"][:, 1, 2], block[:, 2 + 6], atol=1e-5)
    np.testing.assert_allclose(
        actual["encoded"][:, 3, 3], out["encoded"][:, -1], atol=1e-5
    )
    other, stacked = scanned(model, params)
    same = features(other, stacked, IMAGES)
    np.testing.assert_array_equal(same["block_01"], actual["block_01"])


def test_features_of_other_families():
    hybrid = tiny(resnet_stem=(1,), stem_width=32)
    stem = ["root", "stage_1/unit_01", "stem", "embedded"]
    axial = tiny("Axial-ViT-mu/4", depth=1)
    mixer = tiny("Mixer-S/4")
    resnet = tiny("BiT-R26x1")
    expected = {
        hybrid: [*stem, "block_00", "block_01", "encoded"],
        axial: ["stem", "embedded", "block_00/row", "block_00/column", "encoded"],
        mixer: ["stem", "block_00", "encoded"],
        resnet: ["root", "stage_1/unit_01", "stage_2/unit_01", "encoded"],
    }
    for model, names in expected.items():
        draw = functools.partial(init_params, model)
        params = jax.eval_shape(draw, jax.random.key(0))
        shapes = jax.eval_shape(
            functools.partial(layer_features, model), params, IMAGES
        )
        assert list(shapes) == names
        for x in shapes.values():
            assert (x.ndim, x.dtype) == (4, jnp.float32)
            assert 16 // x.shape[1] == 16 // x.shape[2] <= total_stride(model)
        assert 16 // shapes["encoded"].shape[1] == total_stride(model)


def test_attention_weights_are_those_of_each_layer():
    model = tiny(pooling="token")
    params = drawn(model)
    actual = weights_of(model, params, IMAGES)
    assert list(actual) == ["block_00", "block_01"]
    for weights in actual.values():
        assert weights.shape == (12, 2, 17, 17)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    means = attention_measures(model, params, IMAGES, batch_size=6)
    whole = attention_measures(model, params, IMAGES, batch_size=12)
    for name, layer in means.items():
        for one, other in zip(layer, whole[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
    assert attention_measures(tiny("BiT-R26x1"), {}, IMAGES) == {}


def test_tables_of_positions():
    model = tiny(pooling="token")
    params = drawn(model)
    actual = position_tables(model, params)
    table = params["positions"]["embedding"][0, 1:]
    np.testing.assert_array_equal(actual["positions"], table)
    model = tiny(positions="learned2d", positions_at="every_layer")
    params = drawn(model)
    actual = position_tables(model, params)
    assert list(actual) == ["block_00", "block_01"]
    own = params["encoder"]["block_01"]["positions"]
    expected = np.concatenate([own["column"][3], own["row"][1]])
    np.testing.assert_allclose(actual["block_01"][1 * 4 + 3], expected, atol=1e-6)
    fixed = position_tables(tiny(positions="sincos2d", pooling="token"), {})
    np.testing.assert_allclose(fixed["positions"], sincos2d(4, 4, 16), atol=1e-6)
    assert position_tables(tiny(positions="relative"), {}) == {}
    assert position_tables(tiny("BiT-R26x1"), {}) == {}


@pytest.mark.parametrize(("kind", "place"), VARIANTS)
def test_removed_positions_leave_a_bag_of_patches(kind, place):
    model = tiny(
        depth=1, positions=kind, positions_at=place, pooling="token_gap"
    )  # in one layer a class token does not see what is relative
    params = drawn(model)
    both = jnp.concatenate([IMAGES, shuffle_blocks(IMAGES, 4, jax.random.key(0))])
    one, other = np.split(np.asarray(run(model, params, both)[0]), 2)
    assert np.abs(one - other).max() > 1e-3
    model, params = remove_positions(model, params)
    one, other = np.split(np.asarray(run(model, params, both)[0]), 2)
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_positions_are_replaced_by():
    model = tiny(pooling="token", positions="learned")
    params = drawn(model)
    table = params["positions"]["embedding"]
    same, mean = remove_positions(model, params)
    assert same == model
    actual = mean["positions"]["embedding"]
    np.testing.assert_array_equal(actual[:, 0], table[:, 0])  # the class token's
    expected = np.broadcast_to(table[:, 1:].mean(1, keepdims=True), (1, 16, 16))
    np.testing.assert_allclose(actual[:, 1:], expected, atol=1e-6)
    zero = remove_positions(model, params, to="zero")[1]["positions"]["embedding"]
    assert not zero[:, 1:].any() and zero[:, 0].any()
    del mean["positions"], params["positions"]
    jax.tree.map(np.testing.assert_array_equal, mean, params)  # and nothing else
    relative = tiny(positions="relative")
    zero = remove_positions(relative, drawn(relative), to="zero")[1]["encoder"]
    tables = zero["block_01"]["attention"]["relative_positions"]
    assert tables["embedding"].shape == (31, 8) and not tables["embedding"].any()
    with pytest.raises(ValueError, match="unknown replacement 'noise': wanted one of"):
        remove_positions(model, params, to="noise")


def test_blocks_are_permuted_each_image_in_its_own_way():
    numbers = jnp.asarray(np.arange(9), jnp.float32).reshape(3, 3)
    image = jnp.kron(numbers, jnp.ones((2, 4)))  # nine blocks of 2 x 4 pixels
    ramp = 0.1 * jnp.arange(4.0)  # within each block
    image = (image + jnp.tile(ramp, 3))[None, ..., None]
    images = jnp.concatenate([image] * 20)
    actual = np.asarray(shuffle_blocks(images, 3, jax.random.key(0)))[..., 0]
    blocks = actual.reshape(20, 3, 2, 3, 4).transpose(0, 1, 3, 2, 4)
    np.testing.assert_allclose(
        blocks - blocks[..., :1, :1], np.broadcast_to(ramp, blocks.shape), atol=1e-5
    )
    orders = blocks[..., 0, 0].reshape(20, 9)
    np.testing.assert_allclose(np.sort(orders), np.tile(np.arange(9), (20, 1)))
    assert len(np.unique(orders, axis=0)) > 15
    same = shuffle_blocks(images, 1, jax.random.key(0))
    np.testing.assert_array_equal(same, images)
    with pytest.raises(ValueError, match="6 x 12 pixels cannot be cut into 4 x 4"):
        shuffle_blocks(images, 4, jax.random.key(0))


def test_accuracy_after_shuffling():
    # The class is the quarter of the image that is bright.
    images = np.zeros((400, 4, 4, 1), np.float32)
    labels = RNG.integers(0, 4, size=400)
    for image, label in zip(images, labels, strict=True):
        y, x = 2 * (label // 2), 2 * (label % 2)
        image[y : y + 2, x : x + 2] = 1
    images = jnp.asarray(images)

    def quarters(images):
        means = np.asarray(images).reshape(-1, 2, 2, 2, 2).mean((2, 4))
        return means.reshape(-1, 4)

    assert accuracy(quarters, images, labels) == 1
    actual = shuffle_accuracy(quarters, images, labels, 2, jax.random.key(0))
    assert actual == pytest.approx(1 / 4, abs=0.08)
    assert shuffle_accuracy(quarters, images, labels, 1, jax.random.key(0)) == 1
