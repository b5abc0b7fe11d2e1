"""Forms of layers for GPUs: the same functions and gradients, and what they keep."""

import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import checks
from vit_jax.models import attention, create_model, gpu_forms, init_params
from vit_jax.parallel.sharding import make_mesh, on_mesh
from vit_jax.planning.deviceless import ABSENT, lower

EPSILON = 1e-6
H100 = ABSENT["H100"]


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def plain_norm(x, scale, bias):
    module = nn.LayerNorm(EPSILON, dtype=x.dtype)
    return module.apply({"params": {"scale": scale, "bias": bias}}, x)


def own_norm(x, scale, bias):
    return gpu_forms.layer_norm(x, scale, bias, EPSILON)


FUNCTIONS = {
    "norm": (plain_norm, own_norm, ((6, 5, 16), (16,), (16,))),
    "gelu": (nn.gelu, gpu_forms.gelu_tanh, ((6, 5, 16),)),
}


def inputs(shapes, dtype, offset=0.0):
    first, *others = [normal(i, *shape) for i, shape in enumerate(shapes)]
    return ((2 * first + offset).astype(dtype), *others)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_values_and_gradients_in_float32(name, offset):
    """The mean of a norm's argument may be far larger than its deviation."""
    plain, own, shapes = FUNCTIONS[name]
    arguments = inputs(shapes, jnp.float32, offset)
    expected, pull_plain = jax.vjp(plain, *arguments)
    found, pull = jax.vjp(own, *arguments)
    close = {"rtol": 2e-3 if offset else 1e-5, "atol": 2e-3 if offset else 1e-5}
    np.testing.assert_allclose(found, expected, **close)
    slope = normal(9, *expected.shape)
    for a, b in zip(pull(slope), pull_plain(slope), strict=True):
        np.testing.assert_allclose(a, b, **close)


def test_a_constant_token_has_a_gradient():
    """Its variance, by the mean of the squares, may be below 0 by rounding."""
    x = jnp.full((1, 700), 1000.1)
    _, pull = jax.vjp(own_norm, x, jnp.ones(700), jnp.zeros(700))
    assert all(jnp.isfinite(a).all() for a in pull(normal(0, 1, 700)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_bfloat16_they_are_as_near_to_float32(name):
    """Errors against float32 on the same rounded argument: not beyond autodiff's."""
    plain, own, shapes = FUNCTIONS[name]
    half = inputs(shapes, jnp.bfloat16)
    exact = (half[0].astype(jnp.float32), *half[1:])
    slope = normal(9, *shapes[0], dtype=jnp.bfloat16)

    def gradient(function, arguments):
        value, pull = jax.vjp(function, *arguments)
        return pull(slope.astype(value.dtype))[0].astype(jnp.float32)

    true = gradient(plain, exact)
    errors = [float(jnp.abs(gradient(f, half) - true).max()) for f in (own, plain)]
    assert errors[0] <= 1.05 * errors[1]


def test_what_is_kept():
    """Of a norm its argument and its scale, of GELU its argument: nothing else."""
    for name, kept in (("norm", [(6, 5, 16), (16,)]), ("gelu", [(6, 5, 16)])):
        _, own, shapes = FUNCTIONS[name]
        arguments = inputs(shapes, jnp.bfloat16)
        leaves = jax.tree.leaves(jax.vjp(own, *arguments)[1])
        assert sorted(leaf.shape for leaf in leaves) == sorted(kept)
        assert leaves[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("biased", [True, False])
def test_to_heads(biased):
    x = normal(0, 3, 4, 6, dtype=jnp.bfloat16)
    module = nn.DenseGeneral((2, 5), use_bias=biased, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(1), x)["params"]
    if biased:
        params["bias"] = normal(2, 2, 5)
    found = gpu_forms.to_heads(params, x, jnp.bfloat16)
    expected = module.apply({"params": params}, x)
    assert found.shape == (3, 4, 2, 5) and found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected)


def gradient_text(dtype, device=H100, **options):
    """The gradient of a ViT-Ti/16 of one block in training, as lowered text."""
    options = {"image_size": 64, "depth": 1, "dtype": dtype} | options
    model = create_model("ViT-Ti/16", num_classes=3, **options)

    def loss(params, images):
        return model.apply({"params": params}, images, train=True)[0].sum()

    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    mesh = make_mesh(data=1, fsdp=1, tensor=1, devices=[device]).abstract_mesh
    step = jax.jit(on_mesh(jax.grad(loss), SimpleNamespace(abstract_mesh=mesh)))
    return lower(step, params, images, mesh=mesh).as_text()


def test_tokens_are_rows_on_gpus():
    """17 tokens an image, 18 within attention, of 4: 68 and 72 rows of each product.

    Of three axes XLA would put the examples last, and transpose them for each product.
    """
    text = gradient_text("bfloat16")
    products = re.findall(r"dot_general [^\n]*:\s*\(([^)]*)\)", text)
    encoder = [shapes for shapes in products if "192" in shapes and "bf16" in shapes]
    # Patches, once each way; query, key, value, projection, MLP, three products each.
    assert len(encoder) == 2 + 6 * 3
    inside = [shapes for shapes in encoder if "tensor<4x4x4x" not in shapes]
    assert len(inside) == 6 * 3
    for shapes in inside:
        assert re.match("tensor<(68|72)x", shapes), shapes


def test_gelu_keeps_its_argument_alone_on_gpus():
    """The tanh is computed again in the backward pass, in float32."""
    count = {
        dtype: len(
            re.findall(r"tanh \S+ : tensor<[\dx]*768xf32>", gradient_text(dtype))
        )
        for dtype in ("bfloat16", "float32")
    }
    assert count == {"bfloat16": 1, "float32": 1}
    assert "tanh" in gradient_text("bfloat16", activation="gelu_tanh")


def test_elsewhere_nothing_changes(monkeypatch):
    """In float32, and on other devices, a program is as it was without these forms."""
    for dtype, device in (("float32", H100), ("bfloat16", ABSENT["v5e"])):
        text = gradient_text(dtype, device)
        with monkeypatch.context() as patch:
            for module in (gpu_forms, attention):
                patch.setattr(module, "for_gpu", lambda _: False)
            assert gradient_text(dtype, device) == text


def test_evaluation_has_forward_derivatives():
    """Those forms have none: with `train=False` the plain ones are taken."""
    model = create_model("ViT-Ti/16", num_classes=3, image_size=32, depth=1)
    model = model.clone(dtype=jnp.bfloat16, attention_implementation="xla")
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def change(params, images):
        def apply(x):
            return model.apply({"params": params}, x, train=False)[0]

        return jax.jvp(apply, (images,), (images,))[1]

    mesh = make_mesh(data=1, fsdp=1, tensor=1, devices=[H100]).abstract_mesh
    assert "dot_general" in lower(jax.jit(change), params, images, mesh=mesh).as_text()


def on_this_device(patch):
    """Takes the forms for GPUs here, for half precision as there."""
    half = jnp.dtype(jnp.bfloat16)
    for module in (gpu_forms, attention):
        patch.setattr(module, "for_gpu", lambda dtype: jnp.dtype(dtype) == half)


def test_two_blocks_are_as_near_to_float32_as_without(monkeypatch):
    """Logits and the whole gradient of a ViT, as `make gpu` compares them."""
    device = jax.devices()[0]
    exact = checks.gradient_of("xla", 5, "float32", device)
    plain = checks.gradient_of("xla", 5, "bfloat16", device)
    on_this_device(monkeypatch)
    own = checks.gradient_of("xla", 5, "bfloat16", device)
    for one, other, reference in zip(own, plain, exact, strict=True):
        far = checks.distance(other, reference)
        assert checks.distance(one, other) > 0
        assert 0 < checks.distance(one, reference) <= 1.1 * far


@pytest.mark.full
def test_losses_are_those_of_the_plain_forms(monkeypatch):
    """200 steps on digits: means of 20 losses, beside float32."""
    device = jax.devices()[0]

    def means(dtype):
        losses = checks.training_losses("xla", dtype, 200, device)
        return losses.reshape(-1, checks.WINDOW).mean(1)

    exact, plain = means("float32"), means("bfloat16")
    on_this_device(monkeypatch)
    own = means("bfloat16")
    print(f"{exact}\n{plain}\n{own}")
    assert abs(own - exact).max() <= abs(plain - exact).max() + 0.05
    assert own[-1] < 0.5 * own[0]
