"""Rotary 2-D positions: queries and keys of patches, turned by where the patches are.

A head's features are pairs, and a pair is a point in a plane. It is turned by an angle
that grows with the place of the patch, so that attention sees offsets between patches
(arXiv 2104.09864, arXiv 2403.13298). What the published models have:

                   frequencies  coordinates   base  layout  axes
    DINOv3         axial        centred        100  half    yx
    EVA-02         axial        index, scaled  1e4  pairs   yx
    RoPE-ViT       axial        index          100  pairs   xy
    RoPE-ViT mixed mixed        index           10  pairs   xy
    ViT-5          axial        index          1e4  pairs   yx

ViT-5 also turns its registers, with a base of their own, 100.
"""

import math
from typing import Annotated, Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.values import Choice, Condition, Positive, Size

Frequencies = Annotated[str, Choice("axial", "mixed")]
Coordinates = Annotated[str, Choice("centred", "index")]
Layout = Annotated[str, Choice("half", "pairs")]
Axes = Annotated[str, Choice("yx", "xy")]
Grid = Annotated[
    tuple[Size, ...],
    Condition("() or rows and columns, such as (14, 14)", lambda x: len(x) in (0, 2)),
]
OPTIONS = (
    *("frequencies", "coordinates", "base", "layout", "axes", "grid"),
    "register_base",
)


class RotaryPositions(nn.Module):
    """Turns the queries and keys of patches, and perhaps of registers, no others.

    Attributes:
        frequencies: `axial`, fixed: half of the pairs turn with the first axis, half
            with the second; `mixed`, learned for each head, pairs turn with both.
        coordinates: `centred`, of patch centres in [-1, 1] whatever the grid, one turn
            a unit; `index`, numbers of rows and columns, one radian a unit.
        base: frequencies fall from 1 to almost 1 / base.
        layout: which features are a pair: `half`, those half a head apart; `pairs`,
            neighbours.
        axes: the order of the two, rows (y) and columns (x).
        grid: rows and columns that `index` coordinates are scaled to; () for the grid
            of the tokens.
        registers: tokens at the very front that `register_base` is for.
        register_base: the base for registers, which then have the places of patches in
            a square grid of their own; 0 leaves them as they are.
    """

    frequencies: Frequencies = "axial"
    coordinates: Coordinates = "centred"
    base: Positive = 100.0
    layout: Layout = "half"
    axes: Axes = "yx"
    grid: tuple[int, ...] = ()
    registers: int = 0
    register_base: float = 0.0

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b l k e"],
        key: Float[Array, "b l k e"],
        grid: tuple[int, int],
        prefix: int,
    ) -> tuple[Float[Array, "b l k e"], Float[Array, "b l k e"]]:
        """Queries and keys, of which those of the grid stand behind `prefix` others."""
        self.check(query.shape[-1])
        places = jnp.asarray(self.places(grid, self.grid or grid), jnp.float32)
        if self.frequencies == "mixed":
            shape = (2, query.shape[2], query.shape[3] // 2)
            learned = self.param("frequencies", self.initial_frequencies, shape)
            angles = jnp.einsum("la,ake->lke", places, learned, precision="highest")
        else:
            angles = axial_angles(places, bands(query.shape[-1], self.base))
        behind = query.shape[1] - prefix - len(places)
        angles = jnp.pad(angles, ((prefix, behind), (0, 0), (0, 0)))
        if self.register_base:
            side = math.isqrt(self.registers)
            square = jnp.asarray(self.places((side, side), (side, side)), jnp.float32)
            own = axial_angles(square, bands(query.shape[-1], self.register_base))
            angles = angles.at[: self.registers].set(own)
        return turn(query, angles, self.layout), turn(key, angles, self.layout)

    def places(
        self, grid: tuple[int, int], scale: tuple[int, ...]
    ) -> Float[np.ndarray, "l 2"]:
        """Coordinates of a grid in raster order, in radians at frequency 1.

        Those of kind `index` are as far apart as if the grid had the size of `scale`.
        """
        lines = []
        for size, scaled in zip(grid, scale, strict=True):
            if self.coordinates == "centred":
                line = 2 * math.pi * (2 * (np.arange(size) + 0.5) / size - 1)
            else:
                line = np.arange(size) * (scaled / size)
            lines.append(line)
        pair = np.meshgrid(*lines, indexing="ij")
        pair = pair if self.axes == "yx" else pair[::-1]
        return np.stack([line.ravel() for line in pair], axis=1)

    def initial_frequencies(
        self, rng: Array, shape: tuple[int, ...]
    ) -> Float[Array, "2 k e"]:
        """The fixed frequencies, their axes rotated by a random angle in each head."""
        fixed = jnp.asarray(bands(2 * shape[2], self.base), jnp.float32)
        angle = jax.random.uniform(rng, (shape[1], 1), maxval=2 * math.pi)
        turned = [
            jnp.concatenate([fixed * wave(angle), fixed * wave(angle + math.pi / 2)], 1)
            for wave in (jnp.cos, jnp.sin)
        ]
        return jnp.stack(turned)

    def check(self, head_width: int) -> None:
        """Raises ValueError for options that do not go together, or odd heads."""
        if self.grid and self.coordinates != "index":
            raise ValueError(
                "rope_grid is the rows and columns that coordinates of kind 'index' "
                f"are scaled to, or (): it is {self.grid} with rope_coordinates="
                f"{self.coordinates!r}"
            )
        square = self.registers and math.isqrt(self.registers) ** 2 == self.registers
        if self.register_base and not square:
            raise ValueError(
                "rope_register_base puts the registers on a square grid: num_registers "
                f"must be 1, 4, 9 and so on, not {self.registers}"
            )
        if head_width % 4:
            raise ValueError(
                "rotary positions need heads of a width divisible by 4, not "
                f"{head_width}"
            )


def bands(head_width: int, base: float) -> Float[np.ndarray, " e"]:
    """The fixed frequencies of one axis."""
    count = head_width // 4
    return base ** -(np.arange(count) / count)


def axial_angles(
    places: Float[Array, "l 2"], frequencies: Float[np.ndarray, " e"]
) -> Float[Array, "l 1 half"]:
    """Half of the pairs turn with the first axis, half with the second."""
    angles = places[..., None] * jnp.asarray(frequencies, jnp.float32)
    return einops.rearrange(angles, "l a e -> l 1 (a e)")


def turn(
    x: Float[Array, "b l k e"], angles: Float[Array, "l _ half"], layout: str
) -> Float[Array, "b l k e"]:
    """Each pair of features, turned by its angle; computed in float32."""
    features = "b l k (p e)" if layout == "half" else "b l k (e p)"
    split = f"{features} -> p b l k e"
    first, second = einops.rearrange(x.astype(jnp.float32), split, p=2)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin])
    return einops.rearrange(turned, f"p b l k e -> {features}").astype(x.dtype)


def rotary_options(model: Any) -> dict[str, Any]:
    """The options of `RotaryPositions` that a model has under names with `rope_`."""
    options = {name: getattr(model, f"rope_{name}") for name in OPTIONS}
    return options | {"registers": model.num_registers}
