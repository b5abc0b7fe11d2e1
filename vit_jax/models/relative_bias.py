"""Numbers added to the attention logits, by the offset between query and key alone."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.resample import resample_bias

MLP = "relative_mlp"


class RelativeBias(nn.Module):
    """A number a head for each offset between patches, query minus key.

    `relative_bias` learns them (Swin, arXiv 2103.14030), and three a head for pairs
    with a token before the patches, if there is one (BEiT, arXiv 2106.08254): from
    such a token to a patch, from a patch to it, and among them. `relative_mlp` has an
    MLP that gets signed logarithms of the row and column offset (Swin V2, arXiv
    2111.09883), and 0 for those pairs. In training timm's has dropout within, ours not.

    Attributes:
        grid: rows and columns of patches that the numbers are learned for.
        hidden_dim: of the MLP.
    """

    kind: str
    grid: tuple[int, int]
    num_heads: int
    hidden_dim: int

    @nn.compact
    def __call__(self, num_tokens: int, grid: tuple[int, int]) -> Float[Array, "k l l"]:
        """Logits to add; the patches of the grid are the last tokens."""
        prefix = num_tokens - grid[0] * grid[1]
        y, x = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
        rows, columns = y[:, None] - y + grid[0] - 1, x[:, None] - x + grid[1] - 1
        bias = jnp.moveaxis(self.table(grid)[rows, columns], -1, 0)
        if self.kind == MLP or not prefix:
            return jnp.pad(bias, ((0, 0), (prefix, 0), (prefix, 0)))
        pairs = self.param("prefix", normal(), (3, self.num_heads))
        to_patch, from_patch, among = pairs[..., None, None]
        bias = jnp.pad(bias, ((0, 0), (prefix, 0), (prefix, 0)))
        first = np.arange(num_tokens) < prefix
        bias = jnp.where(first[:, None], to_patch, bias)
        bias = jnp.where(first, from_patch, bias)
        return jnp.where(first[:, None] & first, among, bias)

    def table(self, grid: tuple[int, int]) -> Float[Array, "rows columns k"]:
        """The numbers of all offsets on a grid, the most negative first."""
        if self.kind == MLP:
            sides = (np.arange(1 - size, size) for size in grid)
            offsets = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
            places = np.sign(offsets) * np.log1p(np.abs(offsets))
            hidden = nn.Dense(self.hidden_dim, kernel_init=normal(), name="hidden")
            out = nn.Dense(self.num_heads, kernel_init=normal(), name="out")
            return out(nn.relu(hidden(jnp.asarray(places, jnp.float32))))
        rows, columns = self.grid
        shape = (2 * rows - 1, 2 * columns - 1, self.num_heads)
        table = self.param("offsets", normal(), shape)
        return jnp.asarray(resample_bias(table, grid))


def normal() -> nn.initializers.Initializer:
    return nn.initializers.normal(stddev=0.02)
