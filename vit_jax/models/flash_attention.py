"""cuDNN's flash attention: the cards that have it, and any number of tokens.

JAX refuses an odd number of tokens wherever a gradient is taken, and a ViT has one
mostly: 197, 257, 577. A row of padding makes it even; `key_value_seq_lengths` hides it.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# NVIDIA's cards for which programs are compiled on machines without them, by a word of
# their names: https://developer.nvidia.com/cuda-gpus.
CAPABILITIES = {
    **dict.fromkeys(("A100", "A800", "A30"), (8, 0)),
    **dict.fromkeys(("A10", "A10G", "A16", "A2", "A40"), (8, 6)),
    **dict.fromkeys(("L4", "L40", "L40S"), (8, 9)),
    **dict.fromkeys(("H100", "H200", "H800", "H20", "GH200"), (9, 0)),
    **dict.fromkeys(("B200", "GB200"), (10, 0)),
    **dict.fromkeys(("B300", "GB300"), (10, 3)),
}
Capability = tuple[int, int]


def traced_device() -> Any:
    """A device of the mesh that a function is traced for; without one, the default.

    That of a mesh is a `jax.sharding.AbstractDevice`: it may be on another machine.
    """
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def compute_capability(device: Any) -> Capability | None:
    """That of an NVIDIA card; None for other devices, and for some before Ampere.

    A device of a mesh has a name only: a card of that name on this machine is asked,
    then the table.

    Args:
        device: a `jax.Device` or a `jax.sharding.AbstractDevice`.

    Raises:
        ValueError: a card that is not here, and that the table does not have.
    """
    if device.platform != "gpu":
        return None
    alike = [d for d in jax.devices() if d.device_kind == device.device_kind]
    for found in (device, *alike):
        number = getattr(found, "compute_capability", None)
        if number is not None:
            # An AMD card says gfx942.
            match = re.fullmatch(r"(\d+)\.(\d+)", number)
            return (int(match[1]), int(match[2])) if match else None
    # The name of a card since Ampere begins so; "Tesla V100-SXM2-16GB" is older.
    if "NVIDIA" not in device.device_kind:
        return None
    for word in re.split(r"[^A-Z0-9]+", device.device_kind):
        if word in CAPABILITIES:
            return CAPABILITIES[word]
    raise ValueError(
        f"what attention a {device.device_kind!r} can run is not known, and there is "
        "no such card here: set model.attention_implementation to xla, or add it to "
        "CAPABILITIES in vit_jax/models/flash_attention.py"
    )


def pad_to_even(x: Float[Array, "b l d"]) -> Float[Array, "b _ d"]:
    """Tokens with a row of zeros behind them if their number is odd."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0)))


def flash_attention(
    query: Float[Array, "b q k e"],
    key: Float[Array, "b l k e"],
    value: Float[Array, "b l k e"],
    num_keys: int,
    tokens: Float[Array, "b q d"],
) -> Float[Array, "b q k e"]:
    """Attention over the first `num_keys` keys; those behind have zero gradients.

    Args:
        query, key, value: of even numbers of tokens, bfloat16 or float16.
        tokens: that the queries are of; tells how examples are divided over devices.
    """

    def cut(x: Array) -> Array:
        # What cuDNN leaves in the gradients of rows behind the length is not said
        # anywhere. Written in place, unlike the product with a mask.
        zeros = jnp.zeros((x.shape[0], x.shape[1] - num_keys, *x.shape[2:]), x.dtype)
        return jax.lax.dynamic_update_slice_in_dim(x, zeros, num_keys, axis=1)

    if num_keys < key.shape[1]:
        key, value = cut(key), cut(value)
    # Even where nothing is padded: without lengths the gradient of cuDNN can be NaN
    # where the last tile of keys is not full, as at 576 tokens on an H100
    # (https://github.com/NVIDIA/cudnn-frontend/issues/1072 and pull request 628).
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths_like(tokens, query.shape[1]),
        key_value_seq_lengths=lengths_like(tokens, num_keys),
        implementation="cudnn",
    )


def lengths_like(x: Float[Array, "b q d"], length: int) -> Int[Array, " b"]:
    """The same length for each example, divided over devices and batched as they are.

    jax 0.10 cannot batch lengths that vmap leaves alone, and cuDNN wants as many as
    there are examples on its device. The heads, which a mesh may divide, would cost an
    all-reduce.
    """
    return jnp.where(x[:, 0, 0] > 0, length, length).astype(jnp.int32)
