"""The TPU's attention kernel: run as JAX interprets it, and lowered for a TPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from vit_jax.models import create_model, init_params
from vit_jax.models.softmax_attention import softmax_attention
from vit_jax.models.tpu_attention import (
    _block_lanes,
    can_run,
    tpu_attention,
)
from vit_jax.parallel.sharding import make_mesh
from vit_jax.planning.deviceless import ABSENT, lower


def result_and_gradients(function, query, key, value, gradient):
    result, pull = jax.vjp(function, query, key, value)
    return result, *pull(gradient)


@pytest.mark.parametrize(
    ("shape", "keys"),
    [((2, 9, 4, 64), 9), ((2, 5, 3, 20), 11)],
    ids=["two blocks of heads", "one block, fewer queries than keys"],
)
def test_it_is_no_worse_than_xla(shape, keys):
    """Mean errors of the result and the gradients, against float32."""
    draws = [
        jax.random.normal(k, shape) for k in jax.random.split(jax.random.key(0), 2)
    ]
    others = (shape[0], keys, *shape[2:])
    draws += [jax.random.normal(k, others) for k in jax.random.split(jax.random.key(1))]
    query, gradient, key, value = (x.astype(jnp.bfloat16) for x in draws)
    inputs = query, key, value, gradient
    with pltpu.force_tpu_interpret_mode():
        found = result_and_gradients(tpu_attention, *inputs)
    ours, plain = found, result_and_gradients(softmax_attention, *inputs)
    exact = result_and_gradients(
        softmax_attention, *(x.astype(jnp.float32) for x in inputs)
    )
    for one, other, wanted in zip(ours, plain, exact, strict=True):
        assert one.dtype == jnp.bfloat16 and one.shape == wanted.shape
        errors = [np.abs(x.astype(jnp.float32) - wanted).mean() for x in (one, other)]
        assert errors[0] < 1.1 * errors[1]


def gradient_text(**options):
    """The gradient of a small model, lowered for two chips."""
    model = create_model(
        "ViT-S/16", num_classes=10, dtype="bfloat16", depth=1, **options
    )
    mesh = make_mesh(data=2, fsdp=1, tensor=1, devices=[ABSENT["v5e"]] * 2)

    def loss(params, images):
        return model.apply({"params": params}, images, train=True)[0].sum()

    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((4, 224, 224, 3), jnp.float32)
    return lower(jax.jit(jax.grad(loss)), params, images, mesh=mesh).as_text()


def test_scores_stay_on_the_chip():
    text = gradient_text()
    assert text.count("@tpu_custom_call") == 2
    assert not re.search(r"tensor<[\dx]*197x197x", text)
    # Each chip has its own images; the compiler could not divide them.
    assert text.count("sdy.manual_computation") == 2


def test_xla_is_the_way_out():
    text = gradient_text(attention_implementation="xla")
    assert "tpu_custom_call" not in text
    assert re.search(r"tensor<4x6x197x197xbf16>", text)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"dtype": "float32"}, False),
        ({"dtype": "float16"}, False),
        ({"num_queries": 1}, False),
        ({"num_keys": 1025}, False),
    ],
    ids=str,
)
def test_where_it_runs(change, wanted):
    case = {"dtype": "bfloat16", "num_queries": 197, "num_keys": 197}
    assert can_run(**(case | change)) == wanted


@pytest.mark.parametrize(
    ("features", "width", "wanted"),
    [(768, 64, 128), (1280, 80, 640), (192, 64, 192), (36, 12, 36), (512, 128, 128)],
)
def test_blocks_have_whole_heads_and_registers(features, width, wanted):
    assert _block_lanes(features, width) == wanted
