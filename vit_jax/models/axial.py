"""Axial attention in the Vision Transformer (arXiv 2010.11929, appendix D.6)."""

from collections.abc import Mapping
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.positions import PositionEmbedding, add_positions


class AxialBlock(nn.Module):
    """A block whose tokens see their row, then one whose tokens see their column.

    Each of the two has attention and MLP, so that the pair costs twice what it
    replaces.

    Attributes:
        block: class of the two.
        options: of both; its `positions`, if any, come once, before the first.
    """

    block: type[nn.Module]
    options: Mapping[str, Any]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        drop_rate: Any,
        *,
        grid: tuple[int, int],
        train: bool,
        return_attention: bool,
    ) -> tuple[Float[Array, "b l d"], dict[str, Any]]:
        if self.options["positions"] is not None:
            positions = PositionEmbedding(**self.options["positions"], name="positions")
            x = add_positions(x, positions(grid))
        out = {}
        places = dict(zip("hw", grid, strict=True))
        learned = self.options["grid"]
        for name, lines, length, line_grid, own_grid in (
            ("row", "(b h) w d", "w", (1, grid[1]), (1, learned[1])),
            ("column", "(b w) h d", "h", (grid[0], 1), (learned[0], 1)),
        ):
            options = {**self.options, "positions": None, "grid": own_grid}
            block = self.block(**options, name=name)
            x = einops.rearrange(x, f"b (h w) d -> {lines}", **places)
            x, inner = block(
                x,
                drop_rate,
                grid=line_grid,
                train=train,
                return_attention=return_attention,
            )
            x = einops.rearrange(x, f"{lines} -> b (h w) d", **places)
            weights = inner.pop("attention_weights", None)
            out[name] = {
                key: einops.rearrange(value, f"{lines} -> b (h w) d", **places)
                for key, value in inner.items()
            }
            if weights is not None:
                out[name]["attention_weights"] = self.over_grid(weights, length, places)
        return x, out

    def over_grid(
        self, weights: Float[Array, "_ k n n"], along: str, places: dict[str, int]
    ) -> Float[Array, "b k l l"]:
        """Attention within rows (`along` w) or columns, as one over all patches."""
        across = "h" if along == "w" else "w"
        eye = jnp.eye(places[across])
        pairs = {"w": "bhkxy,hi->bkhxiy", "h": "bwkxy,wi->bkxwyi"}[along]
        weights = einops.rearrange(weights, "(b z) k x y -> b z k x y", z=len(eye))
        weights = jnp.einsum(pairs, weights, eye)
        return einops.rearrange(weights, "b k h w i j -> b k (h w) (i j)")
