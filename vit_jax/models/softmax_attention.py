"""Attention of queries over keys with a gradient of its own, for training.

Autodiff would keep the exponentials of every layer in float32 until the backward pass,
and move them four times. Here they are kept in the dtype of the products, which rounds
them anyway, and what XLA stores on the way is known for each platform.
"""

import functools
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.forms import on_cpu


class _Axes(NamedTuple):
    """The order of axes of queries, of keys and values, and of scores."""

    query: str
    key: str
    scores: str

    @property
    def over(self) -> int:
        """The axis of the scores that is that of the keys."""
        return self.scores.index("l")


# CPU: batches of (q e) matrices are multiplied a third faster than with heads between.
_HEADS_FIRST = _Axes("bkqe", "bkle", "bkql")
# TPU: in this order no array has to be transposed in memory.
_TOKENS_FIRST = _Axes("bqke", "blke", "bklq")


def softmax_attention(
    query: Float[Array, "b q k e"],
    key: Float[Array, "b l k e"],
    value: Float[Array, "b l k e"],
) -> Float[Array, "b q k e"]:
    """softmax(query key^T / sqrt(e)) value of each head (Eqs. 6 and 7).

    Logits, exponentials and sums are float32; the exponentials are rounded to the
    dtype of the arguments for the product with the values and for the gradient.
    It has no forward-mode derivative.
    """
    if query.dtype != jnp.float32 and not on_cpu():
        return _attention(_TOKENS_FIRST, query, key, value)
    moved = (einops.rearrange(x, "b l k e -> b k l e") for x in (query, key, value))
    return einops.rearrange(_attention(_HEADS_FIRST, *moved), "b k q e -> b q k e")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(axes: _Axes, query: Array, key: Array, value: Array) -> Array:
    return _forward(axes, query, key, value)[0]


def _forward(
    axes: _Axes, query: Array, key: Array, value: Array
) -> tuple[Array, tuple[Array, ...]]:
    """The result, and what the gradient needs: scores in the dtype of the products."""
    product = f"{axes.query},{axes.key}->{axes.scores}"
    scale = query.shape[-1] ** -0.5
    logits = _einsum(product, query * scale, key)
    largest = logits.max(axes.over, keepdims=True)
    if axes is _TOKENS_FIRST:
        # From a product of its own, of which only the maxima are stored: the float32
        # logits then never are. The probabilities do not depend on what is subtracted.
        largest = scale * _einsum(product, query, key).max(axes.over, keepdims=True)
    scores = jnp.exp(logits - largest).astype(query.dtype)
    total = scores.sum(axes.over, keepdims=True, dtype=jnp.float32)
    x = _einsum(f"{axes.scores},{axes.key}->{axes.query}", scores, value)
    # Divided after the product: e numbers a query instead of l.
    x = (x / _a_query(axes, total)).astype(value.dtype)
    return x, (query, key, value, scores, total, x)


def _backward(
    axes: _Axes, saved: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    query, key, value, scores, total, x = saved
    scale = query.shape[-1] ** -0.5
    to_queries = f"{axes.scores},{axes.key}->{axes.query}"
    shared = (gradient / _a_query(axes, total)).astype(gradient.dtype)
    value_gradient = _to_keys(axes, scores, shared)
    # Of the probabilities; its mean under them is that of the result, as softmax asks.
    slopes = _einsum(f"{axes.query},{axes.key}->{axes.scores}", gradient, value)
    exact = gradient.astype(jnp.float32) * x.astype(jnp.float32)
    mean = exact.sum(-1, keepdims=True)
    slopes = scores * ((slopes - _a_score(axes, mean)) / total)
    slopes = slopes.astype(query.dtype)
    query_gradient = scale * jnp.einsum(to_queries, slopes, key)
    key_gradient = _to_keys(axes, slopes, query * scale)
    return query_gradient, key_gradient, value_gradient


def _to_keys(axes: _Axes, scores: Array, x: Array) -> Array:
    """Sums of `x`, an array like queries, over the queries: an array like keys."""
    if axes is _HEADS_FIRST and x.dtype != jnp.float32:
        # Transposed, (l q), the scores would be multiplied by a plain loop in bfloat16.
        x = jnp.einsum(
            "bkeq,bkql->bkel", einops.rearrange(x, "b k q e -> b k e q"), scores
        )
        return einops.rearrange(x, "b k e l -> b k l e")
    return jnp.einsum(f"{axes.scores},{axes.query}->{axes.key}", scores, x)


def _a_query(axes: _Axes, x: Array) -> Array:
    """One number a query, shaped like scores: now shaped like queries."""
    return x if axes is _HEADS_FIRST else einops.rearrange(x, "b k 1 q -> b q k 1")


def _a_score(axes: _Axes, x: Array) -> Array:
    """The inverse of `_a_query`."""
    return x if axes is _HEADS_FIRST else einops.rearrange(x, "b q k 1 -> b k 1 q")


def _einsum(equation: str, *arrays: Array) -> Array:
    return jnp.einsum(equation, *arrays, preferred_element_type=jnp.float32)


_attention.defvjp(_forward, _backward)
