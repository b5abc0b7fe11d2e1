"""Forms of convolutions for CPUs: values and gradients are those of XLA and Flax."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vit_jax.models import conv_forms, create_model, forms, init_params
from vit_jax.models.std_conv import GROUPS, group_norm

CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def compare(own, plain, *arguments):
    """Values, and gradients by all arguments."""
    expected, pull_plain = jax.vjp(plain, *arguments)
    found, pull = jax.vjp(own, *arguments)
    np.testing.assert_allclose(found, expected, **CLOSE)
    slope = normal(9, *expected.shape)
    for one, other in zip(pull(slope), pull_plain(slope), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "half"])
@pytest.mark.parametrize("sides", [(12, 8), (11, 9)], ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_convolutions(size, stride, padding, sides, train):
    padding = ((size // 2,) * 2,) * 2 if padding == "half" else padding

    def own(x, kernel):
        return conv_forms.convolve(x, kernel, stride, padding, train=train)

    def plain(x, kernel):
        axes = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=axes
        )

    compare(own, plain, normal(0, 2, *sides, 4), normal(1, size, size, 4, 5) / size)


def test_gradients_of_convolutions_are_products():
    """Of no convolution: XLA's CPU backend would take several times as long."""

    def total(kernel, train):
        x = normal(0, 2, 8, 8, 4)
        return conv_forms.convolve(x, kernel, 1, "SAME", train=train).sum()

    gradient, kernel = jax.grad(total), jnp.ones((3, 3, 4, 5))
    text = [
        str(jax.make_jaxpr(gradient, static_argnums=1)(kernel, train))
        for train in (True, False)
    ]
    assert [len(re.findall("conv_general_dilated", t)) for t in text] == [1, 2]
    assert "dot_general" in text[0]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_group_norms(relu, train, offset):
    """The mean may be far larger than the deviation."""
    module = group_norm("norm", 1e-5, jnp.float32, relu=relu, train=train)
    flax = nn.GroupNorm(GROUPS, epsilon=1e-5, use_fast_variance=False)

    def own(x, scale, bias):
        return module.apply({"params": {"scale": scale, "bias": bias}}, x)

    def plain(x, scale, bias):
        x = flax.apply({"params": {"scale": scale, "bias": bias}}, x)
        return nn.relu(x) if relu else x

    x = normal(0, 3, 4, 5, 96) + offset
    compare(own, plain, x, normal(1, 96), normal(2, 96))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_of_equal_numbers_the_first_has_the_gradient(padding):
    """Many are equal after a ReLU."""

    def own(x):
        return conv_forms.max_pool(x, 3, 2, padding, train=True)

    def plain(x):
        return nn.max_pool(x, (3, 3), (2, 2), padding)

    x = jnp.round(nn.relu(normal(0, 2, 10, 11, 3)))
    compare(own, plain, x)


@pytest.mark.parametrize("epsilons", [(1e-5, 0.0), (0.0, 1e-10)], ids=str)
def test_standardised_kernels_have_the_same_gradient(epsilons):
    kernel = normal(0, 3, 3, 4, 6) + 2
    compare(
        lambda k: conv_forms.standardize(k, *epsilons, train=True),
        lambda k: conv_forms.standardize(k, *epsilons),
        kernel,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"version": "v1"},
        {"version": "v2"},
        {"version": "v2", "conv_padding": "circular", "antialias": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_resnet_trains_as_without(options, monkeypatch):
    """The gradient of all parameters, beside that on other devices."""
    options = {"image_size": 32, "blocks": (1, 1), "width": 32} | options
    model = create_model("BiT-R50x1", num_classes=5, **options)
    images = normal(0, 2, 32, 32, 3).clip(-1, 1)
    # No scale is 0.
    random = jax.random.key(0)
    params = jax.tree.map(lambda x: x + 0.1, init_params(model, random))

    def gradient():
        def loss(params):
            logits, _ = model.apply({"params": params}, images, train=True)
            return (logits * normal(1, 2, 5)).sum()

        return jax.jit(jax.grad(loss))(params)

    own = gradient()
    monkeypatch.setattr(forms, "on_cpu", lambda: False)
    plain = gradient()
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * largest),
        own,
        plain,
    )
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, own, plain)))


def test_evaluation_has_forward_derivatives():
    """The forms for training have none."""
    options = {"image_size": 32, "blocks": (1,), "width": 32, "version": "v2"}
    model = create_model("BiT-R50x1", num_classes=5, **options)
    params = init_params(model, jax.random.key(0))
    images = jnp.zeros((1, 32, 32, 3))

    def lowered(train):
        def apply(x):
            return model.apply({"params": params}, x, train=train)[0]

        return jax.jit(lambda x: jax.jvp(apply, (x,), (x,))[1]).lower(images)

    assert lowered(train=False).out_info.shape == (1, 5)
    with pytest.raises(TypeError, match="forward-mode"):
        lowered(train=True)
