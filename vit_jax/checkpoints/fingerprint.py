"""Fingerprints of arrays: 32 bits, the same on any mesh and on the host.

The sum, modulo 2^32, of each element's bits times an odd number of its own. It does not
depend on the order of addition, so that an array may be cut in any way, and no change
of a single element leaves it as it was.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 2**24  # elements at a time on the host, which bounds its memory


def examine(tree: Any) -> tuple[bool, dict[str, int]]:
    """Looks at every array where it lies, also if it is spread over processes.

    Returns:
        Whether no floating-point array holds NaN or Inf, and the fingerprints by the
        dotted path that Orbax saves an array under.
    """
    # One program: on CPUs the messages of several programs between processes can mix,
    # and then all wait for ever.
    results = jax.device_get(examine_arrays(by_path(tree)))
    finite = all(bool(finite) for finite, _ in results.values())
    return finite, {name: int(value) for name, (_, value) in results.items()}


def lower_examination(tree: Any) -> jax.stages.Lowered:
    """The program of `examine` for a tree of shapes with shardings, to be compiled."""
    return examine_arrays.lower(by_path(tree))


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their dotted paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@jax.jit
def examine_arrays(
    arrays: dict[str, jax.Array],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """`examine_array` for each."""
    return {name: examine_array(array) for name, array in arrays.items()}


def examine_array(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether all values are finite, and the fingerprint."""
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    finite = jnp.isfinite(array).all() if floating else jnp.bool_(True)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = min(array.dtype.itemsize, 4)  # 8 bytes become two words
    words = jax.lax.bitcast_convert_type(array, f"uint{8 * width}").astype(jnp.uint32)
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position += index * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return finite, jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)


def host_fingerprint(array: np.ndarray) -> int:
    """The fingerprint of an array on the host."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(f"u{min(flat.dtype.itemsize, 4)}")
    total = 0
    for start in range(0, words.size, CHUNK):
        chunk = words[start : start + CHUNK].astype(np.uint32)
        position = np.arange(start, start + chunk.size, dtype=np.uint64)
        odd = (2 * position + 1).astype(np.uint32)
        total += int(np.sum(chunk * odd, dtype=np.uint32))
    return total % 2**32
