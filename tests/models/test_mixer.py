"""The MLP-Mixer: sizes, what mixes with what, dropout, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model, init_params

# 1000 classes, 224 px. B and L are also in the released code's tests; the others by
# the formula below and, rounded, in Table 1 of arXiv 2105.01601.
COUNTS = {
    "S/32": 19104624,
    "S/16": 18528264,
    "B/32": 60293428,
    "B/16": 59880472,
    "L/32": 206939264,
    "L/16": 208196168,
    "H/14": 432350952,
}


def formula(depth, width, token_dim, channel_dim, patch) -> int:
    tokens = (224 // patch) ** 2
    token_mlp = 2 * tokens * token_dim + token_dim + tokens
    channel_mlp = 2 * width * channel_dim + channel_dim + width
    block = 4 * width + token_mlp + channel_mlp
    return 3 * patch**2 * width + width + depth * block + 2 * width + 1000 * (width + 1)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    model = create_model(f"Mixer-{name}", num_classes=1000)
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    sizes = (model.depth, model.width, model.token_mlp_dim, model.channel_mlp_dim)
    assert count == formula(*sizes, model.patch_size) == COUNTS[name]


SMALL = dict(depth=2, width=32, token_mlp_dim=12, channel_mlp_dim=48)


@functools.cache
def tiny(**options):
    """A Mixer of 2 x 3 patches, and its parameters, none of them zero."""
    options = {"num_classes": 5, "image_size": (8, 12)} | SMALL | options
    model = create_model("Mixer-S/4", **options)
    generator = np.random.default_rng(3)

    def moved(leaf):
        noise = generator.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(np.asarray(leaf) + 0.3 * noise)

    return model, jax.tree.map(moved, init_params(model, jax.random.key(0)))


def drawn(*shape):
    generator = np.random.default_rng(1)
    return jnp.asarray(generator.uniform(-1, 1, shape), jnp.float32)


def apply(model, params, images, train=False, **kwargs):
    run = functools.partial(model.apply, train=train)
    return jax.jit(run)({"params": params}, images, **kwargs)


def silenced(params, mlp):
    """The parameters with one of the two MLPs of each block giving zeros."""

    def convert(path, leaf):
        names = [key.key for key in path]
        return 0 * leaf if names[2:4] == [mlp, "out"] else leaf

    return jax.tree_util.tree_map_with_path(convert, params)


def test_tokens_mix_in_the_token_mlp_only():
    model, params = tiny()
    images = drawn(1, 8, 12, 3)

    @jax.jit
    def gradient(params):
        def token(images):
            out = model.apply({"params": params}, images, train=False)[1]
            return jnp.square(out["encoded"][0, 4]).sum()

        return jnp.abs(jax.grad(token)(images)[0])

    def by_patch(x):
        return np.asarray(x).reshape(2, 4, 3, 4, 3).sum((1, 3, 4)).ravel()

    assert (by_patch(gradient(params)) > 1e-4).all()
    alone = by_patch(gradient(silenced(params, "token_mlp")))
    assert alone[4] > 1e-4
    assert not np.delete(alone, 4).any()


def test_features_mix_in_the_channel_mlp_only():
    """Without it, a feature moves what the token MLP adds to itself, norm aside."""
    model, params = tiny(depth=1, norm_epsilon=0.1)
    params = silenced(params, "channel_mlp")
    images = drawn(1, 8, 12, 3)
    _, out = apply(model, params, images)
    block = params["encoder"]["block_00"]
    tokens = out["stem"].reshape(6, 32)
    centred = tokens - tokens.mean(1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.square(centred).mean(1, keepdims=True) + 0.1)
    normed = normed * block["token_norm"]["scale"] + block["token_norm"]["bias"]
    hidden, last = (block["token_mlp"][name] for name in ("hidden", "out"))
    # The same MLP for each feature, over its six tokens.
    x = normed.T @ hidden["kernel"] + hidden["bias"]
    x = 0.5 * x * (1 + jnp.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    x = (x @ last["kernel"] + last["bias"]).T
    np.testing.assert_allclose(
        out["encoder"]["block_00"]["token_mlp"][0], x, rtol=1e-4, atol=1e-4
    )


def test_patches_have_an_order_that_the_token_mlp_knows():
    """Patches permuted together with the token MLPs' rows change nothing."""
    model, params = tiny()
    images = drawn(2, 8, 12, 3)
    patches = images.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    order = np.array([4, 0, 5, 2, 1, 3])
    shuffled = patches.reshape(2, 6, 4, 4, 3)[:, order].reshape(2, 2, 3, 4, 4, 3)
    shuffled = shuffled.transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)

    def permuted(path, leaf):
        names = [key.key for key in path]
        if names[2:] == ["token_mlp", "hidden", "kernel"]:
            return leaf[order]
        if names[2:4] == ["token_mlp", "out"]:
            return leaf[..., order]
        return leaf

    wanted = apply(model, params, images)[0]
    together = jax.tree_util.tree_map_with_path(permuted, params)
    found = apply(model, together, shuffled)[0]
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(apply(model, params, shuffled)[0] - wanted).max() > 1e-2


def test_activations_add_up():
    model, params = tiny()
    logits, out = apply(model, params, drawn(2, 8, 12, 3))
    x = out["stem"].reshape(2, 6, 32)
    for name in ("block_00", "block_01"):
        block = out["encoder"][name]
        x = x + block["token_mlp"] + block["channel_mlp"]
        np.testing.assert_allclose(block["output"], x, atol=1e-4)
    np.testing.assert_allclose(out["pre_logits"], out["encoded"].mean(1), atol=1e-5)
    head = params["head"]
    wanted = out["pre_logits"] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_initial_values():
    options = {"num_classes": 5, "image_size": (8, 12)} | SMALL
    model = create_model("Mixer-S/4", head_bias_init=-10.0, **options)
    params = init_params(model, jax.random.key(0))
    assert not params["head"]["kernel"].any()
    assert (params["head"]["bias"] == -10).all()
    blocks = [params["encoder"][f"block_0{i}"] for i in (0, 1)]
    kernels = (block["token_mlp"]["hidden"]["kernel"] for block in blocks)
    assert not np.allclose(*kernels)
    # LeCun normal and zero, as in the released code; the ViT's are neither.
    mlp = blocks[0]["channel_mlp"]
    kernel = np.asarray(mlp["out"]["kernel"])
    assert abs(kernel.std() * len(kernel) ** 0.5 - 1) < 0.15
    assert not any(mlp[layer]["bias"].any() for layer in ("hidden", "out"))
    headless = create_model("Mixer-S/4", **options | {"num_classes": 0})
    params = init_params(headless, jax.random.key(0))
    assert "head" not in params
    x, out = apply(headless, params, drawn(2, 8, 12, 3))
    np.testing.assert_array_equal(x, out["pre_logits"])


@pytest.mark.parametrize("option", ["dropout_rate", "stochastic_depth_rate"])
def test_dropout_acts_in_training_only(option):
    model, params = tiny(**{option: 0.5})
    images = drawn(4, 8, 12, 3)

    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(model, params, images, train=True, rngs=rngs)[0]

    still = apply(*tiny(), images)[0]
    np.testing.assert_array_equal(apply(model, params, images)[0], still)
    np.testing.assert_array_equal(trained(0), trained(0))
    assert np.abs(trained(0) - trained(1)).max() > 1e-3
    assert np.abs(trained(0) - still).max() > 1e-3


def test_stochastic_depth_grows_with_the_depth():
    model, params = tiny(stochastic_depth_rate=0.5)
    rngs = {"dropout": jax.random.key(0)}
    _, out = apply(model, params, drawn(400, 8, 12, 3), train=True, rngs=rngs)
    for name, wanted in (("block_00", 0), ("block_01", 0.5)):
        for branch in ("token_mlp", "channel_mlp"):
            dropped = ~np.any(out["encoder"][name][branch], axis=(1, 2))
            assert abs(dropped.mean() - wanted) < 0.08 * (wanted > 0) + 1e-9


def test_options_reach_the_layers():
    images = drawn(2, 8, 12, 3)
    model, params = tiny()
    wanted = apply(model, params, images)[0]
    changes = (
        {"activation": "relu"},
        {"norm_epsilon": 0.5},
        {"pixel_std": (0.2, 0.2, 0.2)},
    )
    for change in changes:
        assert np.abs(apply(tiny(**change)[0], params, images)[0] - wanted).max() > 1e-2


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    model, params = tiny(dtype="bfloat16")
    logits, out = apply(model, params, drawn(2, 8, 12, 3))
    assert out["encoder"]["block_01"]["output"].dtype == jnp.bfloat16
    assert logits.dtype == out["pre_logits"].dtype == jnp.float32
    exact = apply(tiny()[0], params, drawn(2, 8, 12, 3))[0]
    assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("options", "kwargs", "message"),
    [
        ({"image_size": (8, 10)}, {}, "image width must be a multiple of the patch"),
        ({"image_size": (8, 8)}, {}, "must have shape"),
        ({}, {"image_size": (16, 12)}, r"one image size: wanted \(8, 12\)"),
    ],
)
def test_errors_say_what_was_wanted(options, kwargs, message):
    options = {"num_classes": 5, "image_size": (8, 12)} | SMALL | options
    model = create_model("Mixer-S/4", **options)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), drawn(1, 8, 12, 3), train=False, **kwargs)
