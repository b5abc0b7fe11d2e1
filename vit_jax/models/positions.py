"""Position embeddings: what tells a token where it is (arXiv 2010.11929, D.4)."""

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

KINDS = ("learned", "sincos2d")


class PositionEmbedding(nn.Module):
    """Adds a position to each token; `prefix` tokens come before the patches.

    Attributes:
        kind: `learned`, one vector a token in raster order, prefix included, from
            N(0, 0.02) as in the released code (Eq. 1); `sincos2d`, fixed sines and
            cosines of row and column, nothing for the prefix.
        grid: rows and columns of patches.
    """

    kind: str
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        _, length, width = x.shape
        if self.kind == "learned":
            init = nn.initializers.normal(stddev=0.02)
            table = self.param("embedding", init, (1, length, width))
        elif self.kind == "sincos2d":
            prefix = length - self.grid[0] * self.grid[1]
            table = jnp.pad(sincos2d(*self.grid, width), ((prefix, 0), (0, 0)))
        else:
            raise ValueError(
                f"unknown positions {self.kind!r}: wanted one of {', '.join(KINDS)}"
            )
        return x + table.astype(x.dtype)


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
