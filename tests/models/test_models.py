"""The Vision Transformer: sizes, initial values, symmetries, errors."""

import functools

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import attention, create_model, init_params
from vit_jax.models.positions import sincos2d
from vit_jax.models.variants import SIZES
from vit_jax.training.optim import path_name

# Section 1.2 of the paper's facts: no head, no head + pre-logits, 1000 classes,
# 1000 + pre-logits, 21843, 21843 + pre-logits; class token, 224 px.
COUNTS = {
    "Ti/32": (5938560, 5975616, 6131560, 6168616, 10154259, 10191315),
    "Ti/16": (5524416, 5561472, 5717416, 5754472, 9740115, 9777171),
    "Ti/14": (5501376, 5538432, 5694376, 5731432, 9717075, 9754131),
    "S/32": (22493952, 22641792, 22878952, 23026792, 30903507, 31051347),
    "S/16": (21665664, 21813504, 22050664, 22198504, 30075219, 30223059),
    "S/14": (21619584, 21767424, 22004584, 22152424, 30029139, 30176979),
    "B/32": (87455232, 88045824, 88224232, 88814824, 104252499, 104843091),
    "B/16": (85798656, 86389248, 86567656, 87158248, 102595923, 103186515),
    "B/14": (85706496, 86297088, 86475496, 87066088, 102503763, 103094355),
    "L/32": (305510400, 306560000, 306535400, 307585000, 327899475, 328949075),
    "L/16": (303301632, 304351232, 304326632, 305376232, 325690707, 326740307),
    "L/14": (303178752, 304228352, 304203752, 305253352, 325567827, 326617427),
    "H/32": (633679360, 635319040, 634960360, 636600040, 661660243, 663299923),
    "H/16": (630918400, 632558080, 632199400, 633839080, 658899283, 660538963),
    "H/14": (630764800, 632404480, 632045800, 633685480, 658745683, 660385363),
}  # fmt: skip
# Other poolings and the sizes beyond the paper: (name, options, count).
OTHER_COUNTS = (
    ("ViT-B/8", {"num_classes": 1000}, 86576872),
    ("ViT-B/16", {"num_classes": 1000, "pooling": "gap"}, 86566120),
    ("ViT-S/16", {"num_classes": 1000, "pooling": "gap"}, 22049896),
    (
        "ViT-S/16",
        dict(num_classes=1000, pooling="gap", positions="sincos2d", pre_logits=True),
        22122472,
    ),
    # Counts by the formula of section 1.2, with the sizes of their own papers.
    ("ViT-g/14", {"num_classes": 0}, None),
    ("ViT-G/14", {"num_classes": 0}, None),
    ("ViT-e/14", {"num_classes": 0}, None),
    ("ViT-So400m/14", {"num_classes": 0}, None),
    ("ViT-M/16", {"num_classes": 1000}, None),
    ("ViT-mu/16", {"num_classes": 10}, None),
    ("ViT-b/32", {"num_classes": 1000}, 22878952),
)


def count(model) -> int:
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def formula(depth, width, mlp_dim, tokens, patch, classes) -> int:
    block = 4 * width + 4 * (width**2 + width) + 2 * width * mlp_dim + mlp_dim + width
    stem = 3 * patch**2 * width + width
    head = classes * (width + 1) if classes else 0
    return stem + width + tokens * width + depth * block + 2 * width + head


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_the_paper(name):
    options = [(n, p) for n in (0, 1000, 21843) for p in (False, True)]
    wanted = dict(zip(options, COUNTS[name], strict=True))
    # Tracing takes a second; the heads of all models are those of the first.
    asked = options if name == next(iter(COUNTS)) else [(0, True), (1000, False)]
    for classes, pre_logits in asked:
        model = create_model(f"ViT-{name}", num_classes=classes, pre_logits=pre_logits)
        assert count(model) == wanted[classes, pre_logits]


@pytest.mark.parametrize(("name", "options", "wanted"), OTHER_COUNTS)
def test_parameter_counts_of_other_models(name, options, wanted):
    model = create_model(name, **options)
    tokens = model.grid[0] * model.grid[1] + 1
    sizes = (model.depth, model.width, model.mlp_dim)
    wanted = wanted or formula(*sizes, tokens, model.patch_size, model.num_classes)
    assert count(model) == wanted


def test_every_size_has_a_parameter_count():
    tested = {name.split("/")[0] for name in COUNTS}
    tested |= {name[4:].split("/")[0] for name, _, _ in OTHER_COUNTS}
    assert tested == set(SIZES)


@pytest.fixture(scope="module")
def tiny():
    model = create_model("ViT-mu/4", num_classes=5, image_size=(8, 12), depth=2)
    params = init_params(model, jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (3, 8, 12, 3), minval=-1)
    return model, params, images


def apply(model, params, images, **kwargs):
    return model.apply({"params": params}, images, **{"train": False, **kwargs})


def by_path(params) -> dict:
    return {path_name(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(params)}


def test_initial_values():
    model = create_model("ViT-Ti/16", num_classes=10, head_bias_init=-10.0, depth=2)
    leaves = by_path(init_params(model, jax.random.key(0)))
    width, hidden = 192, 768
    assert not leaves["head/kernel"].any()
    assert (leaves["head/bias"] == -10).all()
    assert not leaves["class_token"].any()
    assert abs(leaves["positions/embedding"].std() - 0.02) < 0.001
    kernel = leaves["embedding/kernel"]
    assert abs(kernel.std() - (16 * 16 * 3) ** -0.5) < 0.001  # LeCun normal
    query = leaves["encoder/block_00/attention/query/kernel"]
    limit = np.sqrt(6 / (width + width))  # Xavier uniform over (d, k e)
    assert 0.99 * limit < np.abs(query).max() <= limit
    mlp = leaves["encoder/block_00/mlp/hidden/kernel"]
    limit = np.sqrt(6 / (width + hidden))
    assert 0.99 * limit < np.abs(mlp).max() <= limit
    assert 0 < leaves["encoder/block_00/mlp/hidden/bias"].std() < 2e-6
    for name in ("query", "key", "value", "out"):
        assert not leaves[f"encoder/block_00/attention/{name}/bias"].any()


def test_blocks_differ_at_initialisation(tiny):
    params = tiny[1]
    first, second = (params["encoder"][f"block_0{i}"] for i in (0, 1))
    kernels = (block["attention"]["query"]["kernel"] for block in (first, second))
    assert not np.allclose(*kernels)


def test_patch_embedding_is_a_convolution(tiny):
    model, params, images = tiny
    _, out = apply(model, params, images)
    convolved = jax.lax.conv_general_dilated(
        images,
        params["embedding"]["kernel"],
        window_strides=(4, 4),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert out["stem"].shape == (3, 2, 3, 32)
    np.testing.assert_allclose(out["stem"], convolved, atol=1e-5)


def with_head(params):
    """Parameters with a head that is not zero, so that logits say something."""
    kernel = jax.random.normal(jax.random.key(9), params["head"]["kernel"].shape)
    return {**params, "head": {**params["head"], "kernel": kernel}}


@pytest.mark.parametrize("pooling", ["token", "gap", "map"])
def test_without_positions_the_order_of_patches_is_lost(pooling):
    model = create_model("ViT-mu/4", num_classes=5, image_size=(8, 12), pooling=pooling)
    params = with_head(init_params(model, jax.random.key(0)))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3), minval=-1)
    swapped = jnp.roll(images, 4, axis=2)  # whole patches, so a permutation of them
    with_positions = [apply(model, params, x)[0] for x in (images, swapped)]
    assert np.abs(with_positions[0] - with_positions[1]).max() > 1e-3
    params = {**params, "positions": jax.tree.map(jnp.zeros_like, params["positions"])}
    without = [apply(model, params, x)[0] for x in (images, swapped)]
    np.testing.assert_allclose(*without, atol=1e-5)


def test_fixed_positions():
    """[sin x, cos x, sin y, cos y]: the first frequency is 1, the last 1/10000."""
    table = np.asarray(sincos2d(3, 5, 16)).reshape(3, 5, 4, 4)
    row, column = 2, 4
    np.testing.assert_allclose(
        table[row, column, :, 0],
        [np.sin(column), np.cos(column), np.sin(row), np.cos(row)],
        rtol=1e-5,
    )
    np.testing.assert_allclose(table[row, column, 0, -1], column / 1e4, rtol=1e-5)
    model = create_model("ViT-mu/4", num_classes=5, image_size=8, positions="sincos2d")
    params = init_params(model, jax.random.key(0))
    assert "positions" not in params
    _, out = apply(model, params, jnp.zeros((1, 8, 8, 3)))
    np.testing.assert_array_equal(out["embedded"][0, 0], 0)  # the class token has none
    np.testing.assert_allclose(out["embedded"][0, 1:], sincos2d(2, 2, 32), atol=1e-6)


def test_attention_weights_are_returned_and_change_nothing(tiny):
    model, params, images = tiny
    params = with_head(params)
    plain, out = apply(model, params, images)
    logits, asked = apply(model, params, images, return_attention=True)
    np.testing.assert_array_equal(plain, logits)
    assert "attention_weights" not in out["encoder"]["block_00"]
    weights = asked["encoder"]["block_01"]["attention_weights"]
    assert weights.shape == (3, 2, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_attention_equals_the_library():
    """The einsum path against jax.nn.dot_product_attention."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 7, 4, 8))
    wanted = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(
        attention.attend(*attention.attention_scores(q, k), v), wanted, atol=1e-6
    )


def test_activations_add_up(tiny):
    model, params, images = tiny
    _, out = apply(model, params, images)
    block = out["encoder"]["block_00"]
    total = out["embedded"] + block["attention"] + block["mlp"]
    np.testing.assert_allclose(block["output"], total, atol=1e-6)


def test_registers_layer_scale_and_pre_logits():
    options = dict(num_registers=3, layer_scale_init=1e-4, pre_logits=True)
    model = create_model("ViT-mu/4", num_classes=5, image_size=8, **options)
    params = init_params(model, jax.random.key(0))
    _, out = apply(model, params, jnp.ones((1, 8, 8, 3)))
    assert out["embedded"].shape == (1, 4 + 1 + 3, 32)
    assert params["positions"]["embedding"].shape == (1, 5, 32)
    assert np.abs(out["pre_logits"]).max() < 1  # tanh
    assert np.abs(out["encoder"]["block_00"]["mlp"]).max() < 1e-2
    # The class token comes right after the registers.
    token = out["encoded"][:, 3] @ params["pre_logits"]["kernel"]
    np.testing.assert_allclose(jnp.tanh(token), out["pre_logits"], atol=1e-6)


def test_stochastic_depth_drops_samples_independently_in_each_block():
    model = create_model(
        "ViT-mu/4", num_classes=5, image_size=8, depth=3, stochastic_depth_rate=0.5
    )
    params = init_params(model, jax.random.key(0))
    images = jnp.ones((400, 8, 8, 3))
    _, out = model.apply(
        {"params": params}, images, train=True, rngs={"dropout": jax.random.key(0)}
    )
    dropped = {}
    for name, block in out["encoder"].items():
        for branch in ("attention", "mlp"):
            dropped[name, branch] = ~np.any(block[branch], axis=(1, 2))
    shares = {key: value.mean() for key, value in dropped.items()}
    assert shares["block_00", "attention"] == 0  # linear in depth: 0, 1/4, 1/2
    assert abs(shares["block_01", "mlp"] - 0.25) < 0.08
    assert abs(shares["block_02", "mlp"] - 0.5) < 0.08
    both = dropped["block_01", "mlp"] & dropped["block_02", "mlp"]
    assert abs(both.mean() - 0.125) < 0.07  # independent, not the same samples
    # What is kept is scaled up, so that the expectation stays.
    kept = np.asarray(out["encoder"]["block_02"]["mlp"])[~dropped["block_02", "mlp"]]
    _, still = apply(model, params, images[:1])
    assert kept.std() > 1.5 * np.asarray(still["encoder"]["block_02"]["mlp"]).std()


@pytest.mark.parametrize(
    "option", ["dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"]
)
def test_dropout_acts_in_training_only(option):
    model = create_model(
        "ViT-mu/4", num_classes=5, image_size=8, depth=2, **{option: 0.5}
    )
    params = with_head(init_params(model, jax.random.key(0)))
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3), minval=-1)
    still = apply(model, params, images)[0]
    np.testing.assert_array_equal(still, apply(model, params, images)[0])

    def drawn(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(model, params, images, train=True, rngs=rngs)[0]

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert np.abs(drawn(0) - drawn(1)).max() > 1e-4
    assert np.abs(drawn(0) - still).max() > 1e-4


def test_bfloat16_keeps_parameters_weights_and_logits_in_float32(tiny):
    _, params, images = tiny
    model = create_model(
        "ViT-mu/4", num_classes=5, image_size=(8, 12), depth=2, dtype="bfloat16"
    )
    params = with_head(params)
    assert {
        x.dtype for x in jax.tree.leaves(init_params(model, jax.random.key(0)))
    } == {jnp.dtype("float32")}
    logits, out = apply(model, params, images, return_attention=True)
    block = out["encoder"]["block_00"]
    assert logits.dtype == block["attention_weights"].dtype == jnp.float32
    assert out["stem"].dtype == block["output"].dtype == jnp.bfloat16
    exact, _ = apply(tiny[0], params, images)
    np.testing.assert_allclose(logits, exact, atol=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (8, 10)}, "image width must be a multiple of the patch size"),
        ({"images": (1, 8, 8, 1)}, "must have shape"),
        ({"images": (1, 12, 8, 3)}, "must have shape"),
        ({"dtype": jnp.uint8}, "must be floats in"),
        ({"num_heads": 3}, "multiple of the number of heads"),
        ({"attention_implementation": "cudnn"}, "needs an NVIDIA GPU"),
    ],
)
def test_errors_say_what_was_wanted(options, message):
    options = dict(options)
    shape = options.pop("images", (1, *options.get("image_size", (8, 8)), 3))
    images = jnp.zeros(shape, options.pop("dtype", jnp.float32))
    options = {"image_size": (8, 8)} | options
    model = create_model("ViT-mu/4", num_classes=5, **options)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), images, train=False)


@pytest.mark.parametrize("name", ["ViT-mu/4", "Mixer-S/16", "BiT-R50x1"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floats_of_0_to_255_are_refused_outside_of_jit(name, dtype):
    model = create_model(name, num_classes=5, image_size=32)
    images = jnp.full((1, 32, 32, 3), 200.0, dtype)

    def logits(images):
        return model.apply({}, images, train=False)[0]

    with pytest.raises(ValueError, match="theirs go up to 200; for floats in 0..255"):
        logits(images)
    # Without parameters, what passes the check ends in Flax's error.
    for passing in (
        lambda: logits(images / 25),
        lambda: logits(-images * jnp.nan),
        lambda: logits(images[:0]),
        lambda: jax.eval_shape(logits, images),
    ):
        with pytest.raises(flax.errors.ScopeCollectionNotFound):
            passing()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ViT-Big/16", "ViT-B"), ("vit-b16", "ViT-B/16"), ("X", "ViT-")],
)
def test_unknown_model_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"Did you mean .*{nearest}"):
        create_model(name, num_classes=1)


def test_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="poolin"):
        create_model("ViT-B/16", num_classes=1, poolin="gap")
