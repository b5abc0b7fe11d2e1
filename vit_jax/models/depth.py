"""Deep encoders at less cost: blocks scanned, blocks computed again.

A scanned encoder is compiled as one block, whose parameters are those of all blocks
stacked: `encoder/blocks/...`, first axis the layer, instead of `encoder/block_00/...`
Rematerialisation keeps fewer activations for the backward pass and computes the others
once more (arXiv 1604.06174).
"""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

STACKED = "blocks"
# What is kept of a block for its backward pass, by name.
POLICIES = {
    # Nothing but its input: least memory, a third more arithmetic.
    "full": jax.checkpoint_policies.nothing_saveable,
    # The products with weights, but not those of attention: its (l, l) scores, norms
    # and activation functions are computed again.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
REMAT = ("none", *POLICIES)


def rematerialized(
    function: Callable[..., Any], policy: str, *, scanned: bool = False
) -> Callable[..., Any]:
    """A function of a Flax module and arrays that keeps what the policy names."""
    if policy == "none":
        return function
    # In a loop there is nothing to merge the second computation with.
    return nn.remat(function, policy=POLICIES[policy], prevent_cse=not scanned)


def scan_blocks(
    layer: Callable[..., tuple[jax.Array, Any]],
    block: nn.Module,
    x: jax.Array,
    drop_rates: list[float] | None,
    *,
    depth: int,
    remat: str,
) -> jax.Array:
    """Applies `layer(block, x, drop_rate)` in a loop, each time with other parameters.

    Args:
        drop_rates: one a layer; None for 0.0 in all.
    """

    def body(block: nn.Module, x: jax.Array, rate: Any) -> tuple[jax.Array, None]:
        # Activations are not returned: a loop would store those of every layer.
        return layer(block, x, 0.0 if rate is None else rate)[0], None

    rates = None if drop_rates is None else jnp.array(drop_rates)
    scan = nn.scan(
        rematerialized(body, remat, scanned=True),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
    )
    return scan(block, x, rates)[0]


def stack_blocks(tree: Any, stack: Callable[..., Any] = jnp.stack) -> Any:
    """The parameters as a scanned model has them; also within optimizer states.

    Args:
        tree: parameters, or a tree that holds such dicts.
        stack: makes one parameter of the list of those of all blocks.
    """

    def stacked(params: Any) -> Any:
        if not has_encoder(params) or STACKED in params["encoder"]:
            return params
        encoder = dict(params["encoder"])
        names = [name for name in encoder if re.fullmatch(r"block_\d+", name)]
        # By number: beyond 99 they are longer.
        names.sort(key=lambda name: int(name.removeprefix("block_")))
        blocks = [encoder.pop(name) for name in names]
        one = jax.tree.map(lambda *leaves: stack(leaves), *blocks)
        return {**params, "encoder": {**encoder, STACKED: one}}

    return jax.tree.map(stacked, tree, is_leaf=has_encoder)


def unstack_blocks(tree: Any, unstack: Callable[[Any], Any] = list) -> Any:
    """The inverse of `stack_blocks`."""

    def unstacked(params: Any) -> Any:
        if not has_encoder(params) or STACKED not in params["encoder"]:
            return params
        encoder = dict(params["encoder"])
        leaves, tree = jax.tree.flatten(encoder.pop(STACKED))
        blocks = zip(*map(unstack, leaves), strict=True)
        for i, block in enumerate(blocks):
            encoder[f"block_{i:02d}"] = jax.tree.unflatten(tree, block)
        return {**params, "encoder": encoder}

    return jax.tree.map(unstacked, tree, is_leaf=has_encoder)


def has_encoder(tree: Any) -> bool:
    return isinstance(tree, dict) and isinstance(tree.get("encoder"), dict)


def scanned(
    model: Any, params: Any, stack: Callable[..., Any] = jnp.stack
) -> tuple[Any, Any]:
    """The same model and parameters, its blocks stacked, as by `stack_blocks`.

    Raises:
        ValueError: the model has no blocks that can be.
    """
    if not hasattr(model, "scan"):
        raise ValueError(f"a {type(model).__name__} cannot be scanned: leave out scan")
    return model.clone(scan=True), stack_blocks(params, stack)


def unrolled(model: Any) -> Any:
    """The same model with a subtree of parameters a block and all activations."""
    if getattr(model, "scan", False) or getattr(model, "remat", "none") != "none":
        return model.clone(scan=False, remat="none")
    return model
