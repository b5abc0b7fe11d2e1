"""Position embeddings of every kind and place, axial blocks, other image sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model, init_params
from vit_jax.models.positions import (
    ADDED,
    KINDS,
    OFFSET_BIASES,
    PLACES,
    RelativePositions,
)
from vit_jax.models.resample import resample_params
from vit_jax.training.optim import path_name

VARIANTS = [("none", "stem"), ("relative", "stem"), ("relative2d", "stem")]
VARIANTS += [("rope2d", "stem")]
VARIANTS += [(kind, place) for kind in OFFSET_BIASES for place in ("stem", "shared")]
VARIANTS += [(kind, place) for kind in ADDED for place in PLACES]
LEARNED = [v for v in VARIANTS if v[0] not in ("none", "sincos2d", "rope2d")]


def tiny(kind="learned", place="stem", image_size=(8, 12), **options):
    options = {"depth": 2, "width": 16, "mlp_dim": 8, "num_heads": 2} | options
    return create_model(
        "ViT-mu/4",
        num_classes=5,
        image_size=image_size,
        positions=kind,
        positions_at=place,
        **options,
    )


def drawn(model):
    """Parameters that are all random, so that each of them shows in the logits."""
    init = functools.partial(init_params, model)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(init, jax.random.key(0)),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames=("image_size", "weights"))
def run(model, params, images, image_size=None, weights=False):
    variables = {"params": params}
    return model.apply(
        variables,
        images,
        train=False,
        image_size=image_size,
        return_attention=weights,
    )


def logits_of(model, params, images, **kwargs):
    return run(model, params, images, **kwargs)[0]


def pixels(*shape, seed=2):
    return jax.random.uniform(jax.random.key(seed), (*shape, 3), minval=-1)


def tables(params):
    """Shapes of all position tables, by path."""
    flat = jax.tree.leaves_with_path(params)
    named = {path_name(path): leaf.shape for path, leaf in flat}
    return {name: shape for name, shape in named.items() if "positions" in name}


@pytest.mark.parametrize(
    ("kind", "place", "wanted"),
    [
        ("none", "stem", {}),
        ("sincos2d", "every_layer", {}),
        ("learned", "stem", {"positions/embedding": (1, 7, 16)}),
        ("learned", "shared", {"positions/embedding": (1, 7, 16)}),
        (
            "learned",
            "every_layer",
            {f"encoder/block_0{i}/positions/embedding": (1, 7, 16) for i in (0, 1)},
        ),
        (
            "learned2d",
            "stem",
            {
                "positions/row": (2, 8),
                "positions/column": (3, 8),
                "positions/class_token": (1, 16),
            },
        ),
        (
            "relative",
            "stem",
            {
                f"encoder/block_0{i}/attention/relative_positions/embedding": (11, 8)
                for i in (0, 1)
            },
        ),
        (
            "relative_mlp",
            "shared",
            {
                "relative_positions/hidden/kernel": (2, 128),
                "relative_positions/hidden/bias": (128,),
                "relative_positions/out/kernel": (128, 2),
                "relative_positions/out/bias": (2,),
            },
        ),
        (
            "relative_bias",
            "stem",
            {
                f"encoder/block_0{i}/attention/relative_positions/{name}": shape
                for i in (0, 1)
                for name, shape in (("offsets", (3, 5, 2)), ("prefix", (3, 2)))
            },
        ),
        (
            "relative2d",
            "stem",
            {
                f"encoder/block_0{i}/attention/relative_positions/{axis}": shape
                for i in (0, 1)
                for axis, shape in (("row", (3, 8)), ("column", (5, 8)))
            },
        ),
    ],
)
def test_what_is_learned(kind, place, wanted):
    assert tables(drawn(tiny(kind, place))) == wanted


@pytest.mark.parametrize(("kind", "place"), VARIANTS)
def test_only_positions_tell_the_order_of_patches(kind, place):
    model = tiny(kind, place)
    params, images = drawn(model), pixels(2, 8, 12)
    patches = images.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    order = np.array([4, 2, 0, 5, 1, 3])
    patches = patches.reshape(2, 6, 4, 4, 3)[:, order].reshape(2, 2, 3, 4, 4, 3)
    permuted = patches.transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 12, 3)
    one, other = (logits_of(model, params, x) for x in (images, permuted))
    if kind == "none":
        np.testing.assert_allclose(one, other, atol=2e-5)
    else:
        assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("kind", ["relative", "relative2d"])
def test_relative_logits_depend_on_offsets_alone(kind):
    grid = (3, 4)
    module = RelativePositions(kind, grid)
    query = jnp.broadcast_to(
        jax.random.normal(jax.random.key(0), (2, 8)), (1, 13, 2, 8)
    )
    variables = module.init(jax.random.key(1), query, grid)
    logits = np.asarray(module.apply(variables, query, grid))[0]
    assert logits.shape == (2, 13, 13)
    assert not logits[:, 0].any() and not logits[:, :, 0].any()  # class token
    y, x = np.divmod(np.arange(12), 4)
    seen = {}
    for i in range(12):
        for j in range(12):
            steps = (y[i] - y[j], x[i] - x[j])
            key = steps if kind == "relative2d" else steps[0] * 4 + steps[1]
            seen.setdefault(key, []).append(logits[:, 1 + i, 1 + j])
    assert len(seen) == (5 * 7 if kind == "relative2d" else 23)
    for values in seen.values():
        np.testing.assert_allclose(values, values[:1] * len(values), atol=1e-6)
    firsts = np.array([values[0][0] for values in seen.values()])
    assert len(np.unique(firsts.round(6))) == len(firsts)


def test_relative_logits_are_products_with_the_vector_of_the_offset():
    grid = (2, 3)
    query = jax.random.normal(jax.random.key(0), (1, 6, 1, 4))
    module = RelativePositions("relative2d", grid)
    variables = module.init(jax.random.key(1), query, grid)
    logits = module.apply(variables, query, grid)[0, 0]
    row, column = (variables["params"][name] for name in ("row", "column"))
    # Patch 5 is at (1, 2), patch 1 at (0, 1): one row down, one column right.
    wanted = query[0, 5, 0] @ (row[1 + 1] + column[2 + 1])
    np.testing.assert_allclose(logits[5, 1], wanted, rtol=1e-5)


@pytest.mark.parametrize("place", ["every_layer", "shared"])
@pytest.mark.parametrize("attention", ["full", "axial"])
def test_positions_are_added_before_each_layer(place, attention):
    model = tiny("learned", place, pooling="gap", attention=attention)
    params = drawn(model)
    _, out = run(model, params, pixels(1, 8, 12))
    x = out["stem"].reshape(1, 6, 16)
    np.testing.assert_array_equal(out["embedded"], x)
    for name, block in out["encoder"].items():
        where = params if place == "shared" else params["encoder"][name]
        x = x + where["positions"]["embedding"]
        axial = [block[line] for line in ("row", "column") if line in block]
        for part in axial or [block]:
            x = x + part["attention"] + part["mlp"]
            np.testing.assert_allclose(part["output"], x, atol=1e-4)


def test_numbers_of_offsets_keep_their_meaning_on_a_larger_grid():
    """A table that is linear in row and column offset is so on the new grid too."""
    old, new = tiny("relative_bias"), tiny("relative_bias", image_size=(16, 20))
    params = drawn(old)
    attention = params["encoder"]["block_00"]["attention"]
    rows, columns = np.mgrid[-1:2, -2:3].astype(np.float32)
    attention["relative_positions"]["offsets"] = np.stack([rows, columns], axis=-1)
    found = resample_params(params, old, new)["encoder"]["block_00"]["attention"]
    found = found["relative_positions"]
    rows, columns = np.mgrid[-3:4, -4:5]
    wanted = np.stack([rows / 3, columns / 2], axis=-1)
    np.testing.assert_allclose(found["offsets"], wanted, atol=1e-5)
    before = attention["relative_positions"]["prefix"]
    np.testing.assert_array_equal(found["prefix"], before)


def test_two_dimensional_positions_are_halves_of_column_and_row():
    model = tiny("learned2d")
    params = drawn(model)
    _, out = run(model, params, pixels(1, 8, 12))
    added = (out["embedded"][:, 1:] - out["stem"].reshape(1, 6, 16))[0]
    positions = params["positions"]
    wanted = jnp.concatenate([positions["column"][2], positions["row"][1]])
    np.testing.assert_allclose(added[5], wanted, atol=1e-5)


@pytest.mark.parametrize(("kind", "place"), VARIANTS)
def test_another_image_size_by_an_argument_or_by_resampled_parameters(kind, place):
    model, larger = tiny(kind, place), tiny(kind, place, image_size=(20, 8))
    params = drawn(model)
    images = pixels(2, 20, 8)
    resampled = resample_params(params, model, larger)
    assert tables(resampled) == tables(drawn(larger))
    np.testing.assert_allclose(
        logits_of(model, params, images, image_size=(20, 8)),
        logits_of(larger, resampled, images),
        atol=2e-5,
    )


@pytest.mark.parametrize(("kind", "place"), LEARNED)
def test_the_same_grid_is_untouched(kind, place):
    model = tiny(kind, place)
    params = drawn(model)
    same = resample_params(params, model, model)
    jax.tree.map(np.testing.assert_array_equal, params, same)


def test_relative_offsets_keep_their_meaning_on_a_larger_grid():
    """A table that is linear in row and column offset is so on the new grid too."""
    old, new = tiny("relative"), tiny("relative", image_size=(16, 20))
    params = drawn(old)
    block = params["encoder"]["block_00"]["attention"]["relative_positions"]
    offsets = np.arange(-5, 6)
    rows = np.rint(offsets / 3)
    table = np.stack([rows, offsets - 3 * rows], axis=1)
    block["embedding"] = jnp.asarray(np.tile(table, (1, 4)), jnp.float32)
    found = resample_params(params, old, new)["encoder"]["block_00"]["attention"]
    found = np.asarray(found["relative_positions"]["embedding"])[:, :2]
    middle = 4 * 5 - 1
    # On the new grid 4 x 5 a row step is 1/3 of an old one, a column step 2/4.
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, -1), (-3, 0)):
        np.testing.assert_allclose(
            found[middle + 5 * row + column], [row / 3, column / 2], atol=1e-5
        )


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "none"])
def test_positions_go_with_axial_attention(kind):
    model = tiny(kind, attention="axial", pooling="gap")
    images = pixels(2, 8, 12)
    moved = jnp.roll(images, 4, axis=2)
    params = drawn(model)
    difference = logits_of(model, params, images) - logits_of(model, params, moved)
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("line", ["row", "column"])
def test_axial_attention_has_no_gradient_across_lines(line):
    model = tiny(attention="axial", pooling="gap", image_size=(12, 16))
    params = drawn(model)

    def one_patch(images):
        block = run(model, params, images)[1]["encoder"]
        # Only the first of the two sees nothing but its own line.
        out = block["block_00"]["row"]["output"]
        if line == "column":
            before = jax.lax.stop_gradient(block["block_00"]["row"]["output"])
            out = block["block_00"]["column"]["output"] - before
        return out.reshape(1, 3, 4, 16)[0, 1, 2].sum()

    gradient = jax.grad(one_patch)(pixels(1, 12, 16))[0]
    touched = np.abs(gradient).reshape(3, 4, 4, 4, 3).max(axis=(1, 3, 4)) > 0
    if line == "row":
        assert touched[1].all() and not touched[[0, 2]].any()
    else:
        # Its own column, and through the row attention before it all the rest.
        assert touched.all()


def test_axial_attention_weights_cover_the_grid():
    model = tiny(attention="axial", pooling="gap", image_size=(12, 16))
    images = pixels(2, 12, 16)
    _, out = run(model, drawn(model), images, weights=True)
    block = out["encoder"]["block_00"]
    y, x = np.divmod(np.arange(12), 4)
    for name, place in (("row", y), ("column", x)):
        weights = np.asarray(block[name]["attention_weights"])
        assert weights.shape == (2, 2, 12, 12)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        same = place[:, None] == place
        assert not weights[:, :, ~same].any()
        assert (weights[:, :, same] > 0).all()


def test_an_axial_block_has_twice_the_parameters_of_the_one_it_replaces():
    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    full, axial = (
        drawn(tiny(attention=a, pooling="gap"))["encoder"] for a in ("full", "axial")
    )
    assert size(axial["block_00"]) == 2 * size(full["block_00"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "relative", "place": "shared"}, "positions_at='shared' goes with"),
        ({"kind": "none", "place": "every_layer"}, "leave it at 'stem'"),
        (
            {
                "kind": "relative_mlp",
                "place": "shared",
                "attention": "axial",
                "pooling": "gap",
            },
            "rows and columns of axial attention have no offsets in common",
        ),
        ({"attention": "axial"}, "use pooling='gap' or 'map'"),
        ({"attention": "axial", "pooling": "gap", "num_registers": 1}, "num_registers"),
        ({"resnet_stem": (1, 1), "image_size": (12, 12)}, "stem's stride 8"),
        ({"kind": "relative", "attention_implementation": "cudnn"}, "no relative"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    model = tiny(**options)
    with pytest.raises(ValueError, match=message):
        run(model, drawn(model), pixels(1, 8, 12))


def test_pooling_of_class_token_and_mean_together():
    model = tiny(pooling="token_gap", num_registers=2)
    params = drawn(model)
    _, out = run(model, params, pixels(2, 8, 12))
    tokens = out["encoded"]
    assert tokens.shape == (2, 2 + 1 + 6, 16)
    np.testing.assert_allclose(out["pre_logits"][:, :16], tokens[:, 2], rtol=1e-6)
    mean = tokens[:, 3:].mean(axis=1)
    np.testing.assert_allclose(out["pre_logits"][:, 16:], mean, rtol=1e-5, atol=1e-6)
    assert params["head"]["kernel"].shape == (32, 5)


def test_a_class_token_that_the_pooling_does_not_read():
    model = tiny(pooling="gap", class_token="always", class_token_position=False)
    params = drawn(model)
    assert params["positions"]["embedding"].shape == (1, 6, 16)
    _, out = run(model, params, pixels(2, 8, 12))
    np.testing.assert_allclose(
        out["embedded"][:, 0], params["class_token"][:, 0].repeat(2, 0), rtol=1e-6
    )
    np.testing.assert_allclose(
        out["pre_logits"], out["encoded"][:, 1:].mean(axis=1), rtol=1e-5, atol=1e-6
    )


def test_norm_after_pooling():
    model = tiny(pooling="gap", norm_after_pooling=True)
    params = drawn(model)
    assert "norm" not in params["encoder"]
    _, out = run(model, params, pixels(2, 8, 12))
    np.testing.assert_array_equal(out["encoded"], out["encoder"]["block_01"]["output"])
    mean = out["encoded"].mean(axis=1)
    normed = (mean - mean.mean(-1, keepdims=True)) / mean.std(-1, keepdims=True)
    norm = params["pool_norm"]
    np.testing.assert_allclose(
        out["pre_logits"], normed * norm["scale"] + norm["bias"], atol=1e-3
    )


@pytest.mark.parametrize(
    "option", [{"activation": "gelu"}, {"norm_epsilon": 0.1}, {"pooling": "map"}]
)
def test_numerics_are_read(option):
    base = {"pooling": option["pooling"]} if "pooling" in option else {}
    extra = {"activation": "relu"} if base else option
    params, images = drawn(tiny(**base)), pixels(2, 8, 12)
    one, other = (logits_of(tiny(**o), params, images) for o in (base, base | extra))
    assert np.abs(one - other).max() > 1e-5


def test_mean_and_deviation_of_the_pixels_travel_with_the_model():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model, plain = tiny(pixel_mean=mean, pixel_std=std), tiny()
    params, images = drawn(plain), pixels(2, 8, 12)
    by_hand = ((images + 1) / 2 - jnp.asarray(mean)) / jnp.asarray(std)
    np.testing.assert_allclose(
        logits_of(model, params, images), logits_of(plain, params, by_hand), atol=1e-5
    )
