"""What breaks the equivariance of a ResNet, mended: its borders and its strides.

Zeros beyond the border tell where it is (arXiv 2003.07064), and a stride folds the
frequencies that the smaller grid does not hold onto those that it does (arXiv
1904.11486). Neither function has parameters.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from vit_jax.models.conv_forms import Padding


def wrap(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: str | Padding
) -> Float[Array, "b _ _ c"]:
    """Features with the opposite side's beyond each border, for a window and a stride.

    Args:
        size: side of the window that comes next, without padding of its own.
        padding: numbers of places before and after, down and to the right; or how XLA
            chooses them, such as `SAME`.
    """
    if isinstance(padding, str):
        window, strides = (size, size), (stride, stride)
        padding = tuple(lax.padtype_to_pads(x.shape[1:3], window, strides, padding))
    return jnp.pad(x, ((0, 0), *padding, (0, 0)), "wrap")


def blur(
    x: Float[Array, "b h w c"], stride: int, *, circular: bool
) -> Float[Array, "b _ _ c"]:
    """BlurPool (arXiv 1904.11486, section 3.2): [1, 2, 1] / 4 down and across.

    Of its filters the smallest that removes the Nyquist frequency and is centred on a
    place, so that features stay where they are: [1, 1] would move them by half a place.

    Args:
        stride: of the result; sides are rounded up.
        circular: whether the places beyond the border are those of the opposite side;
            otherwise the border mirrors the features, as in the released code, and does
            not darken as it would with zeros.
    """
    for axis in (1, 2):
        border = [(0, 0)] * 4
        border[axis] = (1, 1)
        padded = jnp.pad(x, border, "wrap" if circular else "reflect")
        parts = (
            lax.slice_in_dim(padded, i, i + x.shape[axis], stride, axis)
            for i in range(3)
        )
        before, here, after = parts
        x = (before + 2 * here + after) / 4
    return x
