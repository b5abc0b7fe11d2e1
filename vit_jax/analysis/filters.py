"""The filters that patches are embedded with (arXiv 2010.11929, Fig. 7, left)."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float


class PrincipalFilters(NamedTuple):
    """Principal components of a set of filters, the largest first.

    Attributes:
        components: unit vectors; the largest entry of each by size is positive.
        images: the components, each scaled to [0, 1]; 0.5 is a weight of zero.
        explained_variance: share of each in the variance of all filters, in [0, 1].
    """

    components: Float[np.ndarray, "count p q 3"]
    images: Float[np.ndarray, "count p q 3"]
    explained_variance: Float[np.ndarray, " count"]


def principal_filters(
    kernel: Float[ArrayLike, "p q c d"], count: int = 28
) -> PrincipalFilters:
    """The principal components of d RGB filters, their mean removed first.

    Args:
        kernel: `embedding/kernel`, or the kernel of a ResNet's root.
        count: number of components; the paper shows 28.

    Raises:
        ValueError: the filters are not RGB, or have fewer components.
    """
    kernel = np.asarray(kernel, np.float64)
    p, q, colours, number = kernel.shape
    if colours != 3:
        raise ValueError(
            f"filters to be shown must be of 3 colours, but these are of {colours} "
            "features; a hybrid's RGB filters are at resnet/root/kernel"
        )
    # Removing the mean takes one dimension from the filters.
    most = min(p * q * 3, number - 1)
    if not 1 <= count <= most:
        raise ValueError(
            f"{number} filters of {p} x {q} pixels have {most} principal components: "
            f"wanted 1 to {most}, not {count}"
        )
    filters = kernel.reshape(-1, number).T
    filters = filters - filters.mean(axis=0)
    _, sizes, components = np.linalg.svd(filters, full_matrices=False)
    components = components[:count]
    largest = np.take_along_axis(
        components, abs(components).argmax(axis=1)[:, None], axis=1
    )
    components = components * np.sign(largest)
    images = 0.5 + 0.5 * components / abs(largest)
    variance = sizes**2 / max(np.sum(sizes**2), np.finfo(np.float64).tiny)
    shape = (count, p, q, 3)
    return PrincipalFilters(
        components.reshape(shape), images.reshape(shape), variance[:count]
    )
