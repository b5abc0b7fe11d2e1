"""Initial values with a structure planted in self-attention: mimetic and impulse.

Both change queries, keys, values and output projections of the encoder. All else is as
`xavier` draws it, but that `impulse` enlarges the positions.

`mimetic` (arXiv 2305.09828) copies what is seen in trained ViTs. The product of queries
and keys is near the identity, so that a token attends to itself and to tokens like it,
which are its neighbours if positions are sines; that of values and projection is near
the negative identity. The authors' code could not be had. The constants, the uniform
noise, and that each head has its own are as the code of arXiv 2505.19985, below, has
them for comparison. It multiplies values and projection in the reverse order, which
gives a similar matrix; the order here is the paper's.

`impulse` (arXiv 2505.19985) makes each head attend to one offset, itself or one of its
eight neighbours, as a convolution with an impulse for a filter does. Numbers and
factorisation are those of the authors' code, osiriszjq/structured_initialization at
2623dcc: `impulse_init` and `post_init_weights` of timm/models/vision_transformer.py.
The paper draws the offsets at random; the code gives head i offset i modulo 9 in every
layer. The pattern is that of positions alone and of the first block: patches disturb
it, and in later blocks what the earlier ones add. Narrow heads attend to other places
as well: of 64 positions, heads of 32 features give 97 % to their offset, of 16 a half.

Axes: `i` layers, `k` heads, `e` head width, `d` width, `n` patches.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Params = dict[str, Any]
# Factor of the noise and of the identity in the two products.
QUERY_KEY, VALUE_OUT = 0.7, 0.4
# Rows and columns from a query to its key, by head.
OFFSETS = (
    (0, 0),
    (-1, 0),
    (0, 1),
    (0, -1),
    (1, 0),
    (-1, -1),
    (-1, 1),
    (1, -1),
    (1, 1),
)
# Logits that the factors approximate: of the offset, and the deviation of all others.
PEAK, NOISE = 1000.0, 1.8
CUT = 2.0 / 0.6  # deviations where that noise is cut off
POSITION_SCALE = 18.0  # the positions' deviation becomes 0.36
FACTOR_NORM = 7.0  # Frobenius norm of a head's queries, and of its keys
PLACES = {
    "mimetic": ("none", "learned", "learned2d", "sincos2d"),
    "impulse": ("learned",),
}


def structured(model: Any, params: Params, key: Key[Array, ""]) -> Params:
    """The parameters with the structure of `model.initialization`; float32.

    Args:
        model: a `VisionTransformer`, whose blocks are not scanned.
        params: what `xavier` drew.

    Raises:
        ValueError: options with which a product of two kernels is not what attention
            computes, or, for `impulse`, positions that it cannot be found from.
    """
    check(model)
    names = [name for name in params["encoder"] if name.startswith("block_")]
    copies = ("attention", "second_attention")[: 1 + (model.block == "pairs")]
    places = [(name, copy) for name in names for copy in copies]
    sizes = (len(places), model.num_heads, model.width // model.num_heads, model.width)
    first, second = jax.random.split(key)
    if model.initialization == "mimetic":
        queries, keys = mimetic_query_key(first, *sizes)
    else:
        table = params["positions"]["embedding"] * POSITION_SCALE
        params = params | {"positions": params["positions"] | {"embedding": table}}
        patches = table[0, model.num_placed_tokens :]
        queries, keys = impulse_query_key(first, patches, model.grid, *sizes[:3])
    values, outputs = mimetic_value_out(second, *sizes)
    parts = {"query": queries, "key": keys, "value": values, "out": outputs}
    encoder = dict(params["encoder"])
    for i, (name, copy) in enumerate(places):
        attention = dict(encoder[name][copy])
        for part, kernels in parts.items():
            attention[part] = attention[part] | {"kernel": kernels[i]}
        encoder[name] = encoder[name] | {copy: attention}
    return params | {"encoder": encoder}


def check(model: Any) -> None:
    """Raises ValueError for a model in which the structure has no meaning."""
    kind = model.initialization
    beside = {
        "attention": ("full",),
        "qk_norm": ("none",),
        "attention_inner_norm": (False,),
        "positions": PLACES[kind],
    }
    if kind == "impulse":
        # Its logits are those of normed tokens, with the positions of the stem.
        beside |= {"positions_at": ("stem",), "block": ("pre_norm", "parallel")}
    for option, wanted in beside.items():
        value = getattr(model, option)
        if value not in wanted:
            raise ValueError(
                f"initialization={kind!r} is not defined with {option}={value!r}: "
                f"wanted {' or '.join(map(repr, wanted))}, or initialization='xavier'"
            )
    head_width, (rows, columns) = model.width // model.num_heads, model.grid
    # Norms take one dimension from the positions.
    most = min(model.width - 1, rows * columns)
    if kind == "impulse" and head_width > most:
        raise ValueError(
            f"initialization='impulse' factorises over {most} dimensions of the "
            f"positions, but heads are {head_width} wide: wanted more heads or patches"
        )


def near_identity(
    key: Key[Array, ""], shape: tuple[int, ...], share: float
) -> Float[Array, "*b d d"]:
    """`share` times the identity, and uniform noise of variance `share`^2 / d."""
    width = shape[-1]
    bound = abs(share) * (3 / width) ** 0.5
    noise = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    return noise + share * jnp.eye(width)


def factors(
    product: Float[Array, "*b d d"], rank: int
) -> tuple[Float[Array, "*b d r"], Float[Array, "*b r d"]]:
    """The best factors of a rank, which share the singular values equally."""
    left, values, right = jnp.linalg.svd(product)
    roots = jnp.sqrt(values[..., :rank])
    return left[..., :rank] * roots[..., None, :], roots[..., None] * right[
        ..., :rank, :
    ]


def mimetic_query_key(
    key: Key[Array, ""], layers: int, heads: int, head_width: int, width: int
) -> tuple[Float[Array, "i d k e"], Float[Array, "i d k e"]]:
    """Kernels whose product is near the identity in every head."""
    product = near_identity(key, (layers, heads, width, width), QUERY_KEY)
    left, right = factors(product, head_width)
    return left.transpose(0, 2, 1, 3), right.transpose(0, 3, 1, 2)


def mimetic_value_out(
    key: Key[Array, ""], layers: int, heads: int, head_width: int, width: int
) -> tuple[Float[Array, "i d k e"], Float[Array, "i k e d"]]:
    """Kernels whose product over all heads together is near the negative identity."""
    product = near_identity(key, (layers, width, width), -VALUE_OUT)
    left, right = factors(product, width)
    split = heads, head_width
    return left.reshape(layers, width, *split), right.reshape(layers, *split, width)


def impulse_query_key(
    key: Key[Array, ""],
    positions: Float[Array, "n d"],
    grid: tuple[int, int],
    layers: int,
    heads: int,
    head_width: int,
) -> tuple[Float[Array, "i d k e"], Float[Array, "i d k e"]]:
    """Kernels with which each head attends to one offset, as far as their rank allows.

    With positions P = U S V', normed as the first block norms its tokens, and logits W,
    the product is V S^-1 U' W U S^-1 V' over the `head_width` largest of S: a solution
    of P product P' = W in these directions. Both factors are then scaled, so that of W
    only the pattern remains.

    Args:
        positions: rows of the patches, of a table that is enlarged already.
    """
    shifts = np.stack([impulse(grid, OFFSETS[i % len(OFFSETS)]) for i in range(heads)])
    noise = jax.random.truncated_normal(key, -CUT, CUT, (layers, *shifts.shape))
    logits = jnp.where(shifts, PEAK, NOISE * noise)
    mean, variance = positions.mean(-1, keepdims=True), positions.var(-1, keepdims=True)
    normed = (positions - mean) / jnp.sqrt(variance + 1e-5)
    left, values, right = jnp.linalg.svd(normed, full_matrices=False)
    inverse = left[:, :head_width] / values[:head_width]
    inner = jnp.einsum("nr,iknm,ms->ikrs", inverse, logits, inverse)
    queries, keys = factors(inner, head_width)
    basis = right[:head_width]

    def kernel(factor: Float[Array, "i k r e"]) -> Float[Array, "i d k e"]:
        norm = jnp.sqrt((factor**2).sum((-2, -1), keepdims=True))
        return FACTOR_NORM * jnp.einsum("ikre,rd->idke", factor / norm, basis)

    return kernel(queries), kernel(keys.swapaxes(-1, -2))


def impulse(grid: tuple[int, int], offset: tuple[int, int]) -> np.ndarray:
    """Which key (n n, bool) lies at an offset in rows and columns from each query."""
    y, x = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    rows, columns = y - y[:, None], x - x[:, None]
    return (rows == offset[0]) & (columns == offset[1])
