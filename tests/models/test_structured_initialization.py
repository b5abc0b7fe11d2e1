"""The structures that mimetic and impulse plant in self-attention before training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model, init_params
from vit_jax.models.depth import stack_blocks
from vit_jax.models.initialization import OFFSETS, factors, near_identity
from vit_jax.training.optim import path_name

# As many patches as a head is wide: impulses have factors without an error then. Ten
# heads, of which the last has the first one's offset.
SIZES = dict(depth=2, width=160, mlp_dim=160, num_heads=10, num_registers=2)
STRUCTURED = ("mimetic", "impulse")


def model(initialization, **options):
    options = SIZES | {"initialization": initialization} | options
    return create_model("ViT-mu/8", num_classes=10, image_size=32, **options)


@functools.cache
def drawn(initialization):
    return init_params(model(initialization), jax.random.key(0))


def named(params):
    return {
        path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }


@pytest.mark.parametrize("kind", STRUCTURED)
def test_values_times_projection_are_near_the_negative_identity(kind):
    products = []
    for block in ("block_00", "block_01"):
        attention = drawn(kind)["encoder"][block]["attention"]
        value, out = (attention[part]["kernel"] for part in ("value", "out"))
        products.append(np.einsum("dke,kef->df", value, out))
        noise = products[-1] + 0.4 * np.eye(160)
        # Uniform, of variance 0.4^2 / 160.
        bound = 0.4 * (3 / 160) ** 0.5
        assert 0.99 * bound < np.abs(noise).max() < 1.001 * bound
        assert abs(noise.mean()) < 4 * bound / 3**0.5 / 160
        assert abs(noise.std() - bound / 3**0.5) < 0.02 * bound
    assert np.abs(products[0] - products[1]).max() > 0.01


def test_queries_times_keys_of_mimetic_are_near_the_identity_in_every_head():
    for block in ("block_00", "block_01"):
        attention = drawn("mimetic")["encoder"][block]["attention"]
        query, key = (attention[part]["kernel"] for part in ("query", "key"))
        products = np.einsum("dke,fke->kdf", query, key)
        # A sixteenth of the rank keeps about that share of the identity.
        diagonals = np.diagonal(products, axis1=1, axis2=2).mean(axis=1)
        assert (diagonals > 0.06).all() and np.ptp(diagonals) > 0
        others = products - diagonals[:, None, None] * np.eye(160)
        assert (others.std(axis=(1, 2)) < 0.6 * diagonals).all()


def test_factors_are_the_best_and_balanced():
    product = near_identity(jax.random.key(0), (3, 24, 24), 0.7)
    left, right = factors(product, 24)
    np.testing.assert_allclose(left @ right, product, atol=1e-5)
    left, right = factors(product, 5)
    rest = np.linalg.svd(product, compute_uv=False)[:, 5:]
    errors = np.linalg.norm(left @ right - product, axis=(1, 2))
    np.testing.assert_allclose(errors, np.linalg.norm(rest, axis=1), rtol=1e-4)
    sides = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=2)
    np.testing.assert_allclose(*sides, rtol=1e-4)


def test_each_head_of_impulse_attends_to_its_offset():
    """Of tokens that are positions only, since the image is grey."""
    grey = jnp.zeros((1, 32, 32, 3))
    _, out = model("impulse").apply(
        {"params": drawn("impulse")}, grey, return_attention=True
    )
    weights = out["encoder"]["block_00"]["attention_weights"][0, :, 3:, 3:]
    weights = np.asarray(weights / weights.sum(axis=-1, keepdims=True))
    assert set(OFFSETS) == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    for head in range(10):
        down, right = OFFSETS[head % 9]
        for row in range(4):
            for column in range(4):
                y, x = row + down, column + right
                if 0 <= y < 4 and 0 <= x < 4:
                    mass = weights[head, 4 * row + column, 4 * y + x]
                    assert mass > 0.9, (head, row, column)


@pytest.mark.parametrize("kind", STRUCTURED)
def test_all_else_is_as_xavier_draws_it(kind):
    xavier, ours = named(drawn("xavier")), named(drawn(kind))
    assert xavier.keys() == ours.keys()
    changed = [x for x in xavier if not np.array_equal(xavier[x], ours[x])]
    wanted = [
        f"encoder/block_0{i}/attention/{part}/kernel"
        for i in (0, 1)
        for part in ("query", "key", "value", "out")
    ]
    if kind == "impulse":
        wanted.append("positions/embedding")
        table = 18 * xavier["positions/embedding"]
        np.testing.assert_allclose(ours["positions/embedding"], table, rtol=1e-6)
    assert sorted(changed) == sorted(wanted)
    for name, value in ours.items():
        same = value.shape == xavier[name].shape and value.dtype == np.float32
        assert same and np.isfinite(value).all(), name


@pytest.mark.parametrize("kind", STRUCTURED)
def test_the_key_decides(kind):
    init = jax.jit(functools.partial(init_params, model(kind)))
    again, other = named(init(jax.random.key(0))), named(init(jax.random.key(1)))
    for name, value in named(drawn(kind)).items():
        np.testing.assert_array_equal(again[name], value)
    for part in ("query", "key", "value", "out"):
        name = f"encoder/block_01/attention/{part}/kernel"
        assert not np.allclose(again[name], other[name], atol=1e-3)


def test_scanned_blocks_begin_as_the_others():
    scanned = init_params(model("mimetic", scan=True), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, scanned, stack_blocks(drawn("mimetic")))


@pytest.mark.parametrize("kind", STRUCTURED)
def test_a_hybrid_keeps_its_shapes(kind):
    stem, key = dict(resnet_stem=(), stem_width=32, depth=1), jax.random.key(0)
    ours, xavier = (
        jax.eval_shape(functools.partial(init_params, model(name, **stem)), key)
        for name in (kind, "xavier")
    )
    assert ours == xavier and "resnet" in ours


def test_both_attentions_of_a_pair_have_it():
    pairs = model("mimetic", block="pairs", depth=1)
    block = init_params(pairs, jax.random.key(0))["encoder"]["block_00"]
    for name in ("attention", "second_attention"):
        value, out = (block[name][part]["kernel"] for part in ("value", "out"))
        product = np.einsum("dke,kef->df", value, out)
        assert abs(np.diagonal(product).mean() + 0.4) < 0.01


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("mimetic", {"positions": "relative_bias"}, "positions='relative_bias'"),
        ("mimetic", {"positions": "rope2d"}, "positions='rope2d'"),
        ("mimetic", {"qk_norm": "layernorm"}, "qk_norm='layernorm'"),
        ("mimetic", {"attention_inner_norm": True}, "attention_inner_norm=True"),
        ("impulse", {"positions": "sincos2d"}, "'sincos2d': wanted 'learned', or"),
        ("impulse", {"positions": "none"}, "positions='none'"),
        ("impulse", {"positions_at": "shared"}, "positions_at='shared'"),
        ("impulse", {"block": "post_norm"}, "wanted 'pre_norm' or 'parallel'"),
        ("impulse", {"num_heads": 5}, "16 dimensions .* heads are 32 wide"),
    ],
)
def test_what_it_is_not_defined_for_is_refused(kind, options, message):
    init = functools.partial(init_params, model(kind, **options))
    with pytest.raises(ValueError, match=f"initialization='{kind}' .*{message}"):
        jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize("kind", STRUCTURED)
def test_axial_attention_is_refused(kind):
    axial = create_model("Axial-ViT-B/32", image_size=64, initialization=kind)
    with pytest.raises(ValueError, match="not defined with attention='axial'"):
        jax.eval_shape(functools.partial(init_params, axial), jax.random.key(0))
    with pytest.raises(ValueError, match="BiT-R26x1 has no option 'initialization'"):
        create_model("BiT-R26x1", initialization=kind)
