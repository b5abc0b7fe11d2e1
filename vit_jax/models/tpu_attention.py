"""Attention as a TPU kernel whose scores never leave the chip.

XLA writes the scores of every layer to the TPU's memory and reads them again for each
product; at 197 tokens they are three times as large as the queries, and they are kept
for the backward pass. A ViT's tokens are so few that all keys of a head fit on the chip
at once: no online softmax, no statistics to be kept, and the backward pass computes the
scores again from what it reads anyway. Written in Pallas for want of another way to
tell XLA so.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

# Lanes of a vector register: blocks of features begin at multiples of it.
LANES = 128
# Of queries, and of keys. The (q l) float32 arrays of a head, of which the gradient has
# four, have to fit into the kernel's memory on the chip.
MOST_TOKENS = 1024
# Bytes of one array's block, at most: images are put together up to it, so that the
# start of a block, a third of a microsecond, is nothing beside its arithmetic.
BLOCK = 2**19
# On the chip, of 128 MiB in all (v5e, v6e); XLA's default of 16 is too little for 577
# tokens.
KERNEL_MEMORY = 64 * 2**20
SHARDED = PartitionSpec(("data", "fsdp"), None, "tensor")


def can_run(dtype: Any, num_queries: int, num_keys: int) -> bool:
    """Whether the kernel is made for this.

    float32 is left to XLA, and so is a single query, of which all is small.
    """
    fits = max(num_queries, num_keys) <= MOST_TOKENS and num_queries > 1
    return jnp.dtype(dtype) == jnp.bfloat16 and fits


def tpu_attention(
    query: Float[Array, "b q k e"],
    key: Float[Array, "b l k e"],
    value: Float[Array, "b l k e"],
) -> Float[Array, "b q k e"]:
    """softmax(query key^T / sqrt(e)) value of each head (Eqs. 6 and 7), in bfloat16.

    Logits, exponentials and sums are float32; the exponentials are rounded for the
    product with the values. On a mesh each device has its own examples and heads. It
    has no forward-mode derivative.
    """
    heads = query.shape[2]
    # Heads beside each other: as an axis of its own, of 12 heads of 64, it would be
    # padded to 16 heads of 128.
    flat = [einops.rearrange(x, "b l k e -> b l (k e)") for x in (query, key, value)]
    attend = functools.partial(_attention, query.shape[-1])
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        # The compiler cannot divide a kernel, and would gather the batch.
        attend = jax.shard_map(
            attend, mesh=mesh, in_specs=SHARDED, out_specs=SHARDED, check_vma=False
        )
    return einops.rearrange(attend(*flat), "b q (k e) -> b q k e", k=heads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(width: int, query: Array, key: Array, value: Array) -> Array:
    """Of arrays (b l (k e)); `width` is that of a head, e."""
    call = _call(_forward_kernel, width, (query, key, value), (query,), products=2)
    return call(query, key, value)[0]


def _forward(width: int, *inputs: Array) -> tuple[Array, tuple[Array, ...]]:
    return _attention(width, *inputs), inputs


def _backward(
    width: int, inputs: tuple[Array, ...], gradient: Array
) -> tuple[Array, ...]:
    arrays = (*inputs, gradient)
    return tuple(_call(_backward_kernel, width, arrays, inputs, products=5)(*arrays))


_attention.defvjp(_forward, _backward)


def _call(
    kernel: Callable[..., None],
    width: int,
    inputs: tuple[Array, ...],
    outputs: tuple[Array, ...],
    products: int,
) -> Callable[..., list[Array]]:
    """The kernel over blocks of images and heads.

    Args:
        outputs: arrays like the results.
        products: of (q l e) numbers, for the count of FLOPs in a plan.
    """
    batch, num_queries, features = inputs[0].shape
    num_keys = inputs[1].shape[1]
    lanes = _block_lanes(features, width)
    most = max(1, BLOCK // (2 * lanes * max(num_queries, num_keys)))
    images = max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)

    def spec(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((images, x.shape[1], lanes), lambda i, j: (i, 0, j))

    scores = batch * (features // width) * num_queries * num_keys
    moved = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*inputs, *outputs))
    return pl.pallas_call(
        functools.partial(kernel, width),
        grid=(batch // images, features // lanes),
        in_specs=[spec(x) for x in inputs],
        out_specs=[spec(x) for x in outputs],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"),
            vmem_limit_bytes=KERNEL_MEMORY,
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores * width,
            transcendentals=scores,
            bytes_accessed=moved,
        ),
        name=kernel.__name__.strip("_"),
    )


def _block_lanes(features: int, width: int) -> int:
    """Features of a block: whole heads, the fewest that fill whole registers."""
    heads = features // width
    counts = [n for n in range(1, heads) if heads % n == 0 and n * width % LANES == 0]
    # All features may be any number.
    return min(counts, default=heads) * width


def _each_head(width: int, blocks: tuple, head: Callable[..., tuple]) -> None:
    """Writes what `head` computes of one head of one image, for all in a block.

    Args:
        blocks: references, (images l (k e)): inputs, then as many outputs as `head`
            returns.
    """

    def image(i: Array, _: None) -> None:
        for start in range(0, blocks[0].shape[-1], width):
            place = (i, slice(None), pl.ds(start, width))
            results = head(*blocks, place)
            for block, result in zip(blocks[-len(results) :], results, strict=True):
                block[place] = result.astype(block.dtype)

    jax.lax.fori_loop(0, blocks[0].shape[0], image, None)


def _forward_kernel(width: int, *blocks: Any) -> None:
    def head(query, key, value, _, place):
        logits = width**-0.5 * _product(query[place], key[place], 1, 1)
        scores = jnp.exp(logits - logits.max(1, keepdims=True))
        total = scores.sum(1, keepdims=True)
        values = value[place]
        return (_product(scores.astype(values.dtype), values, 1, 0) / total,)

    _each_head(width, blocks, head)


def _backward_kernel(width: int, *blocks: Any) -> None:
    def head(query, key, value, gradient, *rest):
        # Keys before queries: so only one of the products reads its operand transposed.
        place = rest[-1]
        q, k, v, g = (x[place] for x in (query, key, value, gradient))
        scale = width**-0.5
        logits = scale * _product(k, q, 1, 1)
        scores = jnp.exp(logits - logits.max(0, keepdims=True))
        weights = scores / scores.sum(0, keepdims=True)
        slopes = _product(v, g, 1, 1)
        slopes = weights * (slopes - (weights * slopes).sum(0, keepdims=True))
        slopes = (scale * slopes).astype(q.dtype)
        return (
            _product(slopes, k, 0, 0),
            _product(slopes, q, 1, 0),
            _product(weights.astype(q.dtype), g, 1, 0),
        )

    _each_head(width, blocks, head)


def _product(left: Array, right: Array, over_left: int, over_right: int) -> Array:
    """A float32 product of matrices, over these axes of theirs."""
    axes = ((over_left,), (over_right,)), ((), ())
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
