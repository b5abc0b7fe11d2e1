"""Learned 1-D position embedding (arXiv 2010.11929, Eq. 1)."""

import flax.linen as nn
from jaxtyping import Array, Float


class LearnedPositions(nn.Module):
    """Adds one learned vector a token, in raster order, class token first.

    Initialised from N(0, 0.02) as in the released code.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        _, length, width = x.shape
        table = self.param(
            "embedding", nn.initializers.normal(stddev=0.02), (1, length, width)
        )
        return x + table.astype(x.dtype)
