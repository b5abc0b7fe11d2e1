"""Attention on NVIDIA cards that are not there: the choice, and what JAX lowers.

Lowering finds what JAX refuses, and which calls the program makes; nothing runs.
"""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vit_jax.analysis import equivariance, profile
from vit_jax.models import attention, create_model, flash_attention, init_params
from vit_jax.parallel.sharding import AXES, on_mesh
from vit_jax.planning.deviceless import cudnn_of

H100 = AbstractDevice(
    device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"
)
CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")
TPU = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"


def mesh_of(device, sizes=(1, 1, 1)):
    abstract = AbstractMesh(
        sizes, AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device
    )
    return types.SimpleNamespace(abstract_mesh=abstract)


def lowered(function, *arguments, device=H100, capability=(9, 0)):
    """The text of the program for CUDA."""
    traced = jax.jit(on_mesh(function, mesh_of(device)))
    with cudnn_of(capability):
        return traced.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def calls(text):
    """How often cuDNN's attention is called, and its gradient."""
    found = re.findall(r"custom_call @(\S+?)\(", text)
    return found.count(FORWARD), found.count(BACKWARD)


def small(name="ViT-S/16", **options):
    options = {"image_size": 224, "depth": 2, "dtype": "bfloat16"} | options
    return create_model(name, num_classes=3, **options)


def step(model):
    """The gradient in training, and its arguments as shapes."""

    def loss(params, images, key):
        variables, rngs = {"params": params}, {"dropout": key}
        logits, _ = model.apply(variables, images, train=True, rngs=rngs)
        return logits.sum()

    height, width = model.image_size
    params = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.grad(loss), params, images, jax.eval_shape(jax.random.key, 0)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (2, 2)),  # 197 tokens
        ({"pooling": "gap"}, (2, 2)),  # 196
        ({"name": "ViT-S/14"}, (2, 2)),  # 257
        ({"image_size": 384}, (2, 2)),  # 577
        ({"image_size": 384, "pooling": "gap"}, (2, 2)),  # 576
        ({"num_registers": 4}, (2, 2)),
        ({"pooling": "map"}, (2, 2)),
        ({"pooling": "token_gap"}, (2, 2)),
        ({"attention": "axial", "pooling": "gap"}, (4, 4)),  # 14
        ({"attention": "axial", "pooling": "gap", "image_size": 240}, (4, 4)),  # 15
        ({"dtype": "float16"}, (2, 2)),
        ({"dtype": "float32"}, (0, 0)),
        ({"attention_dropout_rate": 0.1}, (0, 0)),
        ({"positions": "relative"}, (0, 0)),
        ({"positions": "relative2d"}, (0, 0)),
        ({"width": 72, "num_heads": 2}, (0, 0)),  # heads of 36
        ({"width": 512, "num_heads": 2}, (2, 2)),  # of 256
        ({"width": 640, "num_heads": 2}, (0, 0)),  # of 320
        ({"dropout_rate": 0.1, "stochastic_depth_rate": 0.1}, (2, 2)),
        ({"attention_implementation": "xla"}, (0, 0)),
        ({"attention_implementation": "cudnn"}, (2, 2)),
        # A loop has the kernel once; with `full` it is run again for the gradient.
        ({"scan": True}, (1, 1)),
        ({"remat": "dots"}, (4, 2)),
        ({"remat": "full"}, (4, 2)),
        ({"scan": True, "remat": "full"}, (2, 1)),
    ],
    ids=str,
)
def test_training_is_lowered(options, wanted):
    assert calls(lowered(*step(small(**options)))) == wanted


def test_an_ampere_card_has_no_wide_heads():
    a100 = AbstractDevice(
        device_kind="NVIDIA A100-SXM4-80GB", num_cores=108, platform="gpu"
    )
    on_a100 = functools.partial(lowered, device=a100, capability=(8, 0))
    assert calls(on_a100(*step(small()))) == (2, 2)
    assert calls(on_a100(*step(small(width=512, num_heads=2)))) == (0, 0)


def test_the_mesh_decides_and_not_this_machine(monkeypatch):
    """A program for CPUs on a machine with a card calls no cuDNN, and vice versa."""
    card = types.SimpleNamespace(
        platform="gpu", device_kind=H100.device_kind, compute_capability="9.0"
    )
    function, *arguments = step(small())
    monkeypatch.setattr(jax, "devices", lambda: [card])
    assert calls(lowered(function, *arguments, device=CPU)) == (0, 0)
    with cudnn_of((9, 0)):  # no mesh: what is here counts
        traced = jax.jit(function).trace(*arguments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert calls(text) == (2, 2)


def test_runs_side_by_side_are_lowered():
    """Fleets: parameters batched by vmap, which jax 0.10 does not do with lengths."""
    function, params, images, key = step(small())
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), params)
    fleet = jax.vmap(function, in_axes=(0, None, None))
    assert calls(lowered(fleet, many, images, key)) == (2, 2)


def test_gradients_without_training_are_lowered():
    """As for saliency: an odd number of tokens and train=False."""
    model = small()

    def logit(images, params):
        return model.apply({"params": params}, images, train=False)[0].sum()

    _, params, images, _ = step(model)
    assert calls(lowered(jax.grad(logit), images, params)) == (2, 2)


@pytest.mark.parametrize("options", [{}, {"pooling": "gap"}, {"scan": True}], ids=str)
@pytest.mark.parametrize(
    "analysis",
    [
        equivariance.lie_derivatives,
        functools.partial(equivariance.equivariance_errors, moves=np.array([(16, 0)])),
        profile.last_layer_field,
    ],
    ids=["lie_derivatives", "equivariance_errors", "last_layer_field"],
)
def test_analyses_are_lowered(options, analysis):
    """Derivatives of forward mode; the kernel has none."""
    model = small(**options)
    _, params, images, key = step(model)
    keys = [key] if analysis is profile.last_layer_field else []
    text = lowered(lambda *x: analysis(model, *x), params, images, *keys)
    assert calls(text) == (0, 0)


REFERENCE = jax.nn.dot_product_attention
CASE = {
    "implementation": "auto",
    "num_queries": 197,
    "num_keys": 197,
    "head_width": 64,
    "dtype": jnp.bfloat16,
    "train": True,
    "dropout_rate": 0.0,
    "relative": "",
    "return_weights": False,
    "device": H100,
}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, "cudnn"),
        ({"train": False}, "cudnn"),
        ({"dtype": "float16"}, "cudnn"),
        ({"head_width": 256}, "cudnn"),
        ({"num_queries": 1}, "library"),
        ({"num_queries": 1, "implementation": "cudnn"}, "cudnn"),
        ({"num_queries": 1, "train": False}, "einsum"),
        ({"dtype": jnp.float32}, "library"),
        ({"dtype": jnp.float32, "train": False}, "einsum"),
        ({"head_width": 36}, "library"),
        ({"head_width": 264}, "library"),
        ({"dropout_rate": 0.1}, "einsum"),
        ({"relative": "relative2d"}, "einsum"),
        ({"return_weights": True}, "einsum"),
        ({"return_weights": True, "implementation": "cudnn"}, "einsum"),
        ({"implementation": "xla"}, "library"),
        ({"implementation": "xla", "train": False}, "einsum"),
        ({"device": CPU}, "softmax"),
        ({"device": CPU, "train": False}, "einsum"),
        ({"device": TPU}, "tpu"),
        ({"device": TPU, "train": False}, "einsum"),
        ({"device": TPU, "implementation": "xla"}, "softmax"),
        ({"device": TPU, "dtype": jnp.float32}, "softmax"),
        ({"device": TPU, "num_keys": 1025}, "softmax"),
        ({"device": TPU, "dropout_rate": 0.1}, "einsum"),
    ],
    ids=str,
)
def test_choice(change, wanted):
    assert attention.choose_kernel(**(CASE | change)) == wanted


def test_cudnn_says_all_that_is_in_its_way():
    case = {"implementation": "cudnn", "device": CPU, "dtype": jnp.float32}
    case |= {"head_width": 36, "dropout_rate": 0.1, "relative": "relative"}
    with pytest.raises(ValueError) as error:
        attention.choose_kernel(**(CASE | case))
    assert str(error.value) == (
        "attention implementation 'cudnn' needs an NVIDIA GPU of compute capability 8 "
        "or more, but the device is cpu and bfloat16 or float16, but the dtype is "
        "float32 and a head width of 8, 16, ... 128, but it is 36 and no attention "
        "dropout, but its rate is 0.1 and no relative positions, but they are "
        "'relative'; use 'auto' or 'xla'"
    )


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "wanted"),
    [
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", (9, 0)),
        ("gpu", "NVIDIA GeForce RTX 4090", "8.9", (8, 9)),
        ("gpu", "NVIDIA B300", "10.3", (10, 3)),
        ("gpu", "Tesla V100-SXM2-16GB", "7.0", (7, 0)),
        ("gpu", "AMD Instinct MI300X", "gfx942", None),
        ("tpu", "TPU v5e", None, None),
        ("cpu", "cpu", None, None),
    ],
)
def test_capability_of_a_device_of_this_machine(
    platform, kind, capability, wanted, monkeypatch
):
    device = types.SimpleNamespace(
        platform=platform, device_kind=kind, compute_capability=capability
    )
    assert flash_attention.compute_capability(device) == wanted
    # In a mesh only its name is known.
    monkeypatch.setattr(jax, "devices", lambda: [device])
    name = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    assert flash_attention.compute_capability(name) == wanted


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0)),
        ("NVIDIA H200", (9, 0)),
        ("NVIDIA GH200 480GB", (9, 0)),
        ("NVIDIA A100-SXM4-40GB", (8, 0)),
        ("NVIDIA A10G", (8, 6)),
        ("NVIDIA L40S", (8, 9)),
        ("NVIDIA B200", (10, 0)),
        ("Tesla V100-SXM2-16GB", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_capability_of_a_device_that_is_not_here(kind, wanted):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    assert flash_attention.compute_capability(device) == wanted


def test_an_unknown_card_is_refused_by_name():
    device = AbstractDevice(device_kind="NVIDIA X1000", num_cores=None, platform="gpu")
    with pytest.raises(ValueError, match="'NVIDIA X1000' can run is not known"):
        attention.choose_kernel(**(CASE | {"device": device}))
    case = CASE | {"device": device, "implementation": "xla"}
    assert attention.choose_kernel(**case) == "library"


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 7), (6, 7), (7, 6), (6, 6)])
def test_padding_changes_nothing(queries, keys, monkeypatch):
    """The padded way with jax's own attention: results and all gradients."""
    layer = attention.MultiHeadAttention(2, implementation="cudnn")
    draw = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(draw[0], (3, queries, 16))
    other = jax.random.normal(draw[1], (3, keys, 16))
    inputs = (x,) if queries == keys else (x, other)
    variables = layer.clone(implementation="xla").init(draw[2], *inputs, train=False)
    # All that the padded row could add shows: biases that are not zero.
    variables = jax.tree.map(lambda a: a + 0.3, variables)
    weights = jax.random.normal(draw[3], x.shape)

    def results(implementation):
        def total(variables, inputs):
            layer_ = layer.clone(implementation=implementation)
            y, _ = layer_.apply(variables, *inputs, train=False)
            return (y * weights).sum(), y

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(variables, inputs)

    wanted = results("xla")
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: "cudnn")
    monkeypatch.setattr(jax.nn, "dot_product_attention", like_cudnn)
    # The gradient of the keys' bias is zero but for rounding: one scale for all leaves.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    for ours, theirs in zip(
        jax.tree.leaves(results("cudnn")), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-6 * scale)


def like_cudnn(
    query, key, value, *, query_seq_lengths, key_value_seq_lengths, implementation
):
    """Masked attention by jax's formulas, for what cuDNN takes in a gradient.

    Of rows behind the length the gradients are NaN: cuDNN promises nothing of them.
    """
    assert implementation == "cudnn"
    assert query.shape[1] % 2 == key.shape[1] % 2 == 0
    assert query_seq_lengths.shape == key_value_seq_lengths.shape == query.shape[:1]
    behind = jnp.arange(key.shape[1]) >= key_value_seq_lengths[:, None]

    def attend(*inputs):
        return REFERENCE(*inputs, key_value_seq_lengths=key_value_seq_lengths)

    def backward(inputs, gradient):
        query, *others = jax.vjp(attend, *inputs)[1](gradient)
        spoiled = (jnp.where(behind[..., None, None], jnp.nan, x) for x in others)
        return query, *spoiled

    kernel = jax.custom_vjp(attend)
    kernel.defvjp(lambda *inputs: (attend(*inputs), inputs), backward)
    return kernel(query, key, value)
