"""Circular borders and blurred strides; which models are equivariant is in
tests/analysis/test_equivariance.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model, init_params, model_options
from vit_jax.models.borders import blur, wrap

OPTIONS = {"conv_padding": "circular", "antialias": True}


def test_the_opposite_side_is_beyond_the_border():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    rows, columns = [2, 0, 1, 2, 0], [3, 0, 1, 2, 3, 0]
    wanted = x[:, np.array(rows)][:, :, np.array(columns)]
    np.testing.assert_array_equal(wrap(x, 3, 1, ((1, 1), (1, 1))), wanted)
    # What XLA adds for 3 places at a stride of 2: one on both sides of 3 rows, and one
    # after 4 columns.
    wanted = x[:, np.array(rows)][:, :, np.array([0, 1, 2, 3, 0])]
    np.testing.assert_array_equal(wrap(x, 3, 2, "SAME"), wanted)


def test_blur():
    ones = jnp.ones((1, 5, 8, 2), jnp.bfloat16)
    for circular in (True, False):
        even = blur(ones, 2, circular=circular)
        assert even.shape == (1, 3, 4, 2) and even.dtype == jnp.bfloat16
        np.testing.assert_array_equal(even, 1)
    rows, columns = np.mgrid[:8, :8]
    fastest = jnp.asarray((-1.0) ** rows[None, ..., None])
    np.testing.assert_array_equal(blur(fastest, 2, circular=True), 0)
    dot = jnp.zeros((1, 8, 8, 1)).at[0, 0, 3].set(16)
    weights = np.outer([2, 1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 2, 1, 0, 0, 0]) * 1.0
    np.testing.assert_array_equal(blur(dot, 1, circular=True)[0, ..., 0], weights)
    found = blur(dot, 2, circular=True)[0, ..., 0]
    np.testing.assert_array_equal(found, weights[::2, ::2])
    # In the mirror the second row is beyond the border; the first is not doubled.
    ramp = jnp.asarray(1.0 * columns)[None, ..., None]
    found = blur(ramp, 1, circular=False)[0, 0, :, 0]
    np.testing.assert_allclose(found, [0.5, *range(1, 7), 6.5])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_weights_can_be_taken_over(version):
    """The same parameters and grids; another function."""
    sizes = {"image_size": 32, "blocks": (1, 1), "width": 32, "version": version}
    create = functools.partial(create_model, "BiT-R26x1", num_classes=0, **sizes)
    params = jax.jit(functools.partial(init_params, create()))(jax.random.key(0))
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype("float32")

    def run(**options):
        model = create(**options)
        shapes = jax.eval_shape(
            functools.partial(init_params, model), jax.random.key(0)
        )
        jax.tree.map(lambda x, y: x.shape == y.shape or pytest.fail(), params, shapes)
        return jax.jit(model.apply)({"params": params}, images)

    usual, out = run()
    for options in ({"conv_padding": "circular"}, {"antialias": True}, OPTIONS):
        changed, other = run(**options)
        jax.tree.map(lambda x, y: x.shape == y.shape or pytest.fail(), out, other)
        assert np.abs(changed - usual).max() > 1e-2 * np.std(usual)


def test_the_options_belong_to_resnets():
    model = create_model("BiT-R26x1", **OPTIONS)
    found = model_options(model)
    assert {name: found[name] for name in OPTIONS} == OPTIONS
    for name in ("ViT-B/16", "R26+ViT-S/32", "Mixer-B/16"):
        create_model(name, conv_padding="zeros", antialias=False)
        with pytest.raises(ValueError, match=f"{name[:3]}.* has no option 'conv_pad"):
            create_model(name, conv_padding="circular")
    for options in ({"conv_padding": "circular"}, {"antialias": True}):
        with pytest.raises(ValueError, match="an axial ResNet attends where others"):
            create_model("AxialResNet-26", **options)
    with pytest.raises(ValueError, match=r"conv_padding.*one of zeros, circular"):
        create_model("BiT-R26x1", conv_padding="reflect")
