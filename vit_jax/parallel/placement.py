"""Parameters to their devices, of which none ever holds more than its share."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.parallel import sharding


def place(tree: Any, shardings: Any) -> Any:
    """Puts arrays where the shardings say; those that are there already stay.

    Args:
        tree: of arrays of the devices, or of the host: then equal in all processes, and
            each device is sent its own part.
    """

    def put(x: jax.Array | np.ndarray, placement: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array):
            return jax.device_put(x, placement)
        # Copied, or JAX on CPUs would take a mapped file itself for the array.
        return jax.make_array_from_callback(
            x.shape, placement, lambda index: np.array(x[index])
        )

    return jax.tree.map(put, tree, shardings)


def place_params(params: Any, mesh: Mesh) -> Any:
    """Puts the parameters of a model on a mesh as they are divided in training.

    Args:
        params: as `place` takes them.

    Raises:
        ValueError: as `sharding.state_shardings`.
    """
    return place(params, sharding.state_shardings(params, params, mesh))


def stack_layers(leaves: Sequence[jax.Array]) -> jax.Array:
    """As `jnp.stack` of arrays that are divided alike; deletes them.

    By way of the host, so that no device ever holds an array twice.
    """
    first = leaves[0]
    divided = cast(NamedSharding, first.sharding)
    parts = [part_of(leaf) for leaf in leaves]
    return jax.make_array_from_callback(
        (len(leaves), *first.shape),
        NamedSharding(divided.mesh, PartitionSpec(None, *divided.spec)),
        lambda index: np.stack([part(index[1:]) for part in parts]),
    )


def unstack_layers(leaf: jax.Array) -> list[jax.Array]:
    """Undoes `stack_layers`: deletes the array, whose first axis is not divided."""
    part, divided = part_of(leaf), cast(NamedSharding, leaf.sharding)
    placement = NamedSharding(divided.mesh, PartitionSpec(*tuple(divided.spec)[1:]))

    def layer(number: int) -> jax.Array:
        return jax.make_array_from_callback(
            leaf.shape[1:],
            placement,
            lambda index: np.array(part((slice(None), *index))[number]),
        )

    return [layer(number) for number in range(leaf.shape[0])]


def part_of(leaf: jax.Array) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Moves this process's parts of an array to the host: the part of an index."""

    def key(index: tuple[slice, ...]) -> tuple[tuple[int, int], ...]:
        whole = zip(index, leaf.shape, strict=True)
        return tuple(part.indices(size)[:2] for part, size in whole)

    unique = {key(shard.index): shard.data for shard in leaf.addressable_shards}
    # Copies: a view of a CPU's array would keep it from being freed.
    parts = {index: np.array(part) for index, part in unique.items()}
    leaf.delete()
    return lambda index: parts[key(index)]
