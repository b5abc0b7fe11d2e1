"""Position embeddings: what tells a token where it is (arXiv 2010.11929, D.4).

    kind        what is learned                        where it is used
    none        nothing                                the encoder sees a bag of patches
    learned     a vector a token, in raster order      added to the tokens
    learned2d   half a vector a column, half a row     added to the tokens
    sincos2d    nothing: sines of column and row       added to the tokens
    relative    a vector a raster offset               a key beside each attention key
    relative2d  a vector a row and a column offset     a key beside each attention key
    relative_bias  a number a head and offset          added to attention's logits
    relative_mlp   an MLP that gives these numbers     added to attention's logits
    rope2d      nothing, or frequencies: rotary.py     turns queries and keys
    learned_rope2d is `learned` and `rope2d` together.

Those that are added come at the `stem`, before `every_layer` from a table of its own,
or before every layer from one `shared` table. The others are in every layer; the
numbers of relative_bias.py can be `shared`, the same in all.
"""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.models.resample import (
    resample_grid,
    resample_offsets,
    resample_raster_offsets,
    resample_table,
)

LEARNED = ("learned", "learned_rope2d")  # a table in raster order
ADDED = (*LEARNED, "learned2d", "sincos2d")
RELATIVE = ("relative", "relative2d")
OFFSET_BIASES = ("relative_bias", "relative_mlp")
ROTARY = ("rope2d", "learned_rope2d")
KINDS = ("none", *ADDED, *RELATIVE, *OFFSET_BIASES, "rope2d")
PLACES = ("stem", "every_layer", "shared")


def check_positions(kind: str, place: str, *, axial: bool) -> None:
    """Raises ValueError for a kind and a place that do not go together."""
    if kind in OFFSET_BIASES and place == "shared":
        if axial:
            raise ValueError(
                "rows and columns of axial attention have no offsets in common: leave "
                f"positions_at at 'stem' with positions={kind!r}"
            )
        return
    if kind not in ADDED and place != "stem":
        raise ValueError(
            f"positions_at={place!r} goes with positions that are added to the tokens "
            f"({', '.join(ADDED)}), not with {kind!r}; leave it at 'stem'"
        )


def position_options(model: Any) -> dict[str, Any]:
    """The options of the `PositionEmbedding` of a `VisionTransformer`."""
    return {
        "kind": model.positions,
        "grid": model.grid,
        "width": model.width,
        "prefix": model.num_placed_tokens,
    }


class PositionEmbedding(nn.Module):
    """The table of an added kind: a vector for each token that has a position.

    Attributes:
        kind: `learned`, from N(0, 0.02) as in the released code (Eq. 1); `learned2d`,
            likewise; `sincos2d`, fixed.
        grid: rows and columns of patches that it is learned for.
        width: of the tokens.
        prefix: rows in front, of the class token and the distillation token; the fixed
            one gives them zeros.
    """

    kind: str
    grid: tuple[int, int]
    width: int
    prefix: int

    @nn.compact
    def __call__(self, grid: tuple[int, int]) -> Float[Array, "1 l d"]:
        """The table for a grid, which may be another than the learned one."""
        rows, columns = self.grid
        if self.kind in LEARNED:
            length = self.prefix + rows * columns
            table = self.learned("embedding", (1, length, self.width))
            return jnp.asarray(resample_table(table, self.grid, grid, self.prefix))
        fixed = self.kind == "sincos2d"
        table = sincos2d(*grid, self.width) if fixed else self.learned2d(grid)
        if self.prefix:
            shape = (self.prefix, self.width)
            first = jnp.zeros(shape) if fixed else self.learned("class_token", shape)
            table = jnp.concatenate([first, table])
        return table[None]

    def learned2d(self, grid: tuple[int, int]) -> Float[Array, "l d"]:
        if self.width % 2:
            raise ValueError(
                f"positions 'learned2d' need an even width, not {self.width}"
            )
        half = self.width // 2
        x = self.learned("column", (self.grid[1], half))
        y = self.learned("row", (self.grid[0], half))
        x = resample_grid(x[None], (1, grid[1]))
        y = resample_grid(y[:, None], (grid[0], 1))
        x, y = jnp.broadcast_to(x, (*grid, half)), jnp.broadcast_to(y, (*grid, half))
        return einops.rearrange(jnp.concatenate([x, y], -1), "h w d -> (h w) d")

    def learned(self, name: str, shape: tuple[int, ...]) -> Array:
        return self.param(name, nn.initializers.normal(stddev=0.02), shape)


def add_positions(
    x: Float[Array, "b l d"], table: Float[Array, "1 _ d"]
) -> Float[Array, "b l d"]:
    """Adds a table to the last tokens; those in front of them have no position."""
    unplaced = x.shape[1] - table.shape[1]
    return x + jnp.pad(table, ((0, 0), (unplaced, 0), (0, 0))).astype(x.dtype)


class RelativePositions(nn.Module):
    """Attention logits of the offsets between patches (D.4, "relative").

    Each offset, query minus key, has a learned vector that is used as a key with the
    content of the query, the same for all heads (arXiv 1803.02155). `relative` counts
    in raster order, as the paper does; `relative2d` has one vector for the row offset
    and one for the column offset. Class token and registers have none.
    """

    kind: str
    grid: tuple[int, int]

    @nn.compact
    def __call__(
        self, query: Float[Array, "b l k e"], grid: tuple[int, int]
    ) -> Float[Array, "b k l l"]:
        """Logits to add, of queries that are scaled already."""
        prefix = query.shape[1] - grid[0] * grid[1]
        query = query[:, prefix:]
        y, x = (
            axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]]
        )  # of each patch
        rows, columns = self.grid
        if self.kind == "relative":
            table = self.learned("embedding", rows * columns, query)
            table = jnp.asarray(resample_raster_offsets(table, self.grid, grid))
            logits = offset_logits(query, table, np.arange(len(x)))
        else:
            row = self.learned("row", rows, query)
            column = self.learned("column", columns, query)
            row = jnp.asarray(resample_offsets(row, grid[0]))
            column = jnp.asarray(resample_offsets(column, grid[1]))
            logits = offset_logits(query, row, y) + offset_logits(query, column, x)
        return jnp.pad(logits, ((0, 0), (0, 0), (prefix, 0), (prefix, 0)))

    def learned(self, name: str, size: int, query: Array) -> Array:
        init = nn.initializers.normal(stddev=0.02)
        return self.param(name, init, (2 * size - 1, query.shape[-1]))


def offset_logits(
    query: Float[Array, "b l k e"],
    table: Float[Array, "o e"],
    places: Int[np.ndarray, " l"],
) -> Float[Array, "b k l l"]:
    """Products of each query with the vector of its offset to each key."""
    offsets = places[:, None] - places + len(table) // 2
    products = jnp.einsum(
        "blke,oe->bklo",
        query,
        table.astype(query.dtype),
        preferred_element_type=jnp.float32,
    )
    return jnp.take_along_axis(products, offsets[None, None], axis=-1)


def sincos2d(rows: int, columns: int, width: int) -> Float[Array, "l d"]:
    """Fixed embedding [sin x, cos x, sin y, cos y] (MoCo v3, arXiv 2104.02057).

    Frequencies fall from 1 to 1/10000; x is the column, y the row.

    Raises:
        ValueError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(
            f"positions 'sincos2d' need a width divisible by 4, not {width}"
        )
    frequencies = 10000.0 ** -np.linspace(0, 1, width // 4)
    y, x = np.mgrid[:rows, :columns]
    angles = [
        einops.rearrange(place, "h w -> (h w) 1") * frequencies for place in (x, y)
    ]
    parts = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return jnp.asarray(np.concatenate(parts, axis=1), jnp.float32)
