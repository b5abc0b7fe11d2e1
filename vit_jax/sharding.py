"""Where arrays live: the device mesh and the sharding of batches and state."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")


def make_mesh(*, data: int, fsdp: int, tensor: int) -> Mesh:
    """Arranges all devices as a mesh of axes `data`, `fsdp`, `tensor`.

    Args:
        data, fsdp, tensor: sizes of the axes; one of them may be -1, which takes the
            devices that are left. Only `data` may exceed 1 so far.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = [data, fsdp, tensor]
    devices = jax.device_count()
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = devices // max(1, -int(np.prod(sizes)))
    if min(sizes) < 1 or np.prod(sizes) != devices:
        raise ValueError(
            f"mesh.data, mesh.fsdp, mesh.tensor are {data}, {fsdp}, {tensor}: their "
            f"product must be the number of devices, {devices}; one of them may be -1"
        )
    if sizes[1] * sizes[2] > 1:
        raise ValueError(
            f"mesh.fsdp={sizes[1]} and mesh.tensor={sizes[2]} must be 1: sharded "
            "parameters are not there yet, use mesh.data"
        )
    # jax.make_mesh defaults to explicit axes, under which the model would have to
    # state the sharding of every operation.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch(
    name: str, batch_size: int, mesh: Mesh, accumulate_steps: int = 1
) -> None:
    """Checks that the batch of a config key can be divided.

    Raises:
        ValueError: by the devices, or by the pieces of gradient accumulation.
    """
    pieces = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate_steps
    if batch_size % pieces:
        raise ValueError(
            f"{name}={batch_size} must be a multiple of {pieces}: "
            f"{pieces // accumulate_steps} devices times train.accumulate_steps="
            f"{accumulate_steps}"
        )
