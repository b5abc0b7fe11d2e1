"""Attention with its own gradient, against float64 formulas and against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import attention, create_model, init_params
from vit_jax.models.softmax_attention import softmax_attention


def arrays(dtype, scale=1.0):
    """Queries, keys, values and a gradient; 7 queries, 11 keys, heads of 20."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, 7, 3, 20), (2, 11, 3, 20), (2, 11, 3, 20), (2, 7, 3, 20)]
    draws = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    draws[0] *= scale
    return [x.astype(dtype) for x in draws]


def exact(query, key, value, gradient):
    """The result and its gradients by the formulas, in float64."""
    q, k, v, g = (np.asarray(x, np.float64) for x in (query, key, value, gradient))
    logits = np.einsum("bqke,blke->bkql", q, k) / np.sqrt(q.shape[-1])
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("bqke,blke->bkql", g, v)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return (
        np.einsum("bkql,blke->bqke", p, v),
        np.einsum("bkql,blke->bqke", ds, k),
        np.einsum("bkql,bqke->blke", ds, q),
        np.einsum("bkql,bqke->blke", p, g),
    )


def result_and_gradients(function, query, key, value, gradient):
    result, pull = jax.vjp(function, query, key, value)
    return result, *pull(gradient)


def plain(query, key, value):
    """The same with the gradient of autodiff."""
    scores, total = attention.attention_scores(query, key)
    return attention.attend(scores.astype(value.dtype), total, value)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_float32(scale):
    inputs = arrays(jnp.float32, scale)
    found = result_and_gradients(softmax_attention, *inputs)
    for ours, wanted in zip(found, exact(*inputs), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_half_precision_is_no_worse_than_autodiff(dtype, scale):
    """Mean errors of the result and of the three gradients."""
    inputs = arrays(dtype, scale)
    wanted = exact(*inputs)
    errors = [
        [
            np.abs(np.asarray(x, np.float64) - w).mean()
            for x, w in zip(result_and_gradients(f, *inputs), wanted, strict=True)
        ]
        for f in (softmax_attention, plain)
    ]
    for ours, autodiff in zip(*errors, strict=True):
        assert ours < 1.3 * autodiff


def test_half_precision_keeps_the_type():
    inputs = arrays(jnp.bfloat16)
    found = result_and_gradients(softmax_attention, *inputs)
    assert all(x.dtype == jnp.bfloat16 for x in found)
    # What waits for the backward pass: nothing of the size of the scores in float32.
    _, pull = jax.eval_shape(lambda *x: jax.vjp(softmax_attention, *x), *inputs[:3])
    saved = [x for x in jax.tree.leaves(pull) if x.size == 2 * 3 * 7 * 11]
    assert [x.dtype for x in saved] == [jnp.bfloat16]


def test_large_logits_do_not_overflow():
    query, key, value, gradient = arrays(jnp.bfloat16, 1e4)
    found = result_and_gradients(softmax_attention, query, key, value, gradient)
    assert all(bool(jnp.isfinite(x).all()) for x in found)


def test_training_uses_it_and_evaluation_agrees(monkeypatch):
    """In training without dropout the model gives the logits of evaluation."""
    model = create_model("ViT-mu/8", num_classes=3, image_size=16, dtype="float32")
    params = init_params(model, jax.random.key(0))
    params["head"]["kernel"] += 1.0
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1)
    calls = []

    def counted(*inputs):
        calls.append(1)
        return softmax_attention(*inputs)

    monkeypatch.setattr(attention, "softmax_attention", counted)
    tested, _ = model.apply({"params": params}, images, train=False)
    assert not calls
    trained, _ = model.apply({"params": params}, images, train=True)
    assert len(calls) == model.depth
    np.testing.assert_allclose(trained, tested, atol=1e-5)
    model.clone(attention_dropout_rate=0.1).apply(
        {"params": params}, images, train=True, rngs={"dropout": jax.random.key(2)}
    )
    model.apply({"params": params}, images, train=True, return_attention=True)
    assert len(calls) == model.depth
