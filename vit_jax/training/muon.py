"""Muon: the momentum of each hidden kernel, made orthogonal, is its update.

As in github.com/KellerJordan/Muon, with the scale of arXiv 2502.16982: updates are as
large as AdamW's usually are, so that learning rates and weight decays of AdamW fit.
`optax.contrib.muon` takes 2-D parameters alone for kernels, and would leave those of
the attention, (d, k, e) and (k, e, d), and all stacked ones, to Adam without a word;
so which axes make a matrix is said here.
"""

import math
import re
from typing import Any, cast

import jax
import optax
from jax.tree_util import keystr, tree_map_with_path
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.parallel.sharding import STACKED

Params = Any
# Kernels whose inputs are pixels or places, or whose outputs are predictions.
OUTER = (
    r"(embedding|head|distillation_head|patch_head|resnet/root)/"
    r"|(.*/)?relative_positions/"
)
# The usual root mean square of an update of Adam (section 2.2 of the paper above).
USUAL_SIZE = 0.2


def matrix_axes(name: str, ndim: int) -> MuonDimensionNumbers | None:
    """The axes of a parameter that are the rows and the columns of one matrix.

    Heads and their width are one axis, as are the height, width and input features of
    a convolution; stacked blocks are matrices of their own.

    Args:
        name: its path, such as `encoder/blocks/attention/query/kernel`.

    Returns:
        None for what is no hidden kernel, and is Adam's.
    """
    if not name.endswith("/kernel") or re.match(OUTER, name):
        return None
    first = 1 if name.startswith(STACKED) else 0
    is_input = re.search("attention/(query|key|value)/kernel$", name)
    split = first + 1 if is_input else ndim - 1
    return MuonDimensionNumbers(tuple(range(first, split)), tuple(range(split, ndim)))


def muon_or_adam(
    adam: optax.GradientTransformation, momentum: float, momentum_dtype: str
) -> optax.GradientTransformation:
    """The updates of hidden kernels by Muon, of everything else by `adam`.

    Args:
        momentum: of Muon, which uses it as Nesterov does.
        momentum_dtype: in which that momentum is stored.
    """

    def axes(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        return matrix_axes(keystr(path, simple=True, separator="/"), leaf.ndim)

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        return "adam" if axes(path, leaf) is None else "muon"

    def scaled(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        sides = [
            math.prod(update.shape[axis] for axis in cast(tuple[int, ...], side))
            for side in axes(path, update) or ()
        ]
        return update * USUAL_SIZE * max(sides) ** 0.5

    # Functions of the tree, not trees: under `freeze` it has holes.
    muon = scale_by_muon(
        beta=momentum,
        mu_dtype=momentum_dtype,
        weight_dimension_numbers=lambda tree: tree_map_with_path(axes, tree),
    )
    scale = optax.stateless(lambda updates, _: tree_map_with_path(scaled, updates))
    return optax.partition(
        {"muon": optax.chain(muon, scale), "adam": adam},
        lambda tree: tree_map_with_path(label, tree),
    )
