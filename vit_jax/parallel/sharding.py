"""Where arrays live: the device mesh, and the shardings of parameters and batches.

Mesh axes: `data` divides the batch; `fsdp` divides the batch and the parameters, whose
pieces are gathered when a layer needs them (ZeRO-3, arXiv 1910.02054); `tensor` divides
the heads of the attention and the hidden units of the MLP (arXiv 1909.08053). What is
computed does not depend on the mesh.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
)
from jax.tree_util import keystr, tree_map_with_path

from vit_jax.values import Condition

AXES = ("data", "fsdp", "tensor")
Axis = Annotated[
    int,
    Condition(
        "-1 (the devices that are left) or a whole number of at least 1",
        lambda size: size == -1 or size >= 1,
    ),
]
BATCH = PartitionSpec(("data", "fsdp"))
# The end of a parameter's path, and the mesh axes of its last dimensions.
TENSOR_RULES = (
    (r"(\w+_)?attention/(query|key|value)/kernel", (None, "tensor", None)),
    (r"(\w+_)?attention/(query|key|value)/bias", ("tensor", None)),
    (r"(\w+_)?attention/rotary/frequencies", (None, "tensor", None)),
    (r"relative_positions/(offsets|prefix|out/kernel|out/bias)", ("tensor",)),
    (r"(\w+_)?attention/out/kernel", ("tensor", None, None)),
    (r"(\w+_)?mlp/(hidden|gate)/kernel", (None, "tensor")),
    (r"(\w+_)?mlp/(hidden|gate)/bias", ("tensor",)),
    (r"(\w+_)?mlp/norm/(scale|bias)", ("tensor",)),
    (r"(\w+_)?mlp/out/kernel", ("tensor", None)),
)
# Smaller arrays, and vectors, stay whole under fsdp: to gather them takes longer than
# what they hold is worth.
FSDP_LEAST = 4096
# Blocks stacked for a scan: the first axis is that of the layers, and a scan over a
# divided axis would gather it in every iteration.
STACKED = "encoder/blocks/"


def make_mesh(
    *, data: Axis, fsdp: Axis, tensor: Axis, devices: Sequence[Any] | None = None
) -> Mesh:
    """Arranges the devices as a mesh of axes `data`, `fsdp`, `tensor`.

    Devices of several slices, which is what XLA calls TPU slices and GPU nodes, are
    fast within a slice and slow between slices: slices follow each other along `data`,
    and along `fsdp` where `data` is too small for all, and `tensor` stays within one.

    Args:
        data, fsdp, tensor: sizes of the axes; one of them may be -1, which takes the
            devices that are left.
        devices: all devices of all processes if None. Of `AbstractDevice`s, all alike,
            the mesh is abstract: programs for it can be lowered, no more.

    Raises:
        ValueError: the sizes do not multiply to the number of devices, or `tensor`
            would have to cross slices.
    """
    sizes = [data, fsdp, tensor]
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // max(1, -int(np.prod(sizes)))
    if min(sizes) < 1 or np.prod(sizes) != count:
        raise ValueError(
            f"mesh.data, mesh.fsdp, mesh.tensor are {data}, {fsdp}, {tensor}: their "
            f"product must be the number of devices, {count}; one of them may be -1"
        )
    # The default of explicit axes would have the model state the sharding of every
    # operation.
    types = (AxisType.Auto,) * len(AXES)
    if isinstance(devices[0], AbstractDevice):
        abstract = AbstractMesh(
            tuple(sizes), AXES, axis_types=types, abstract_device=devices[0]
        )
        return cast(Mesh, abstract)  # for all that lowers a program it is one
    # CPUs of one process have no slice.
    slices = Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(slices) == 1:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    between = slices_along(sizes, slices)
    arranged = mesh_utils.create_hybrid_device_mesh(
        [size // number for size, number in zip(sizes, between, strict=True)],
        between,
        devices,
        # Where no physical axes have the sizes asked for; jax.make_mesh does so for
        # the TPUs that need it.
        allow_split_physical_axes=True,
    )
    return Mesh(arranged, AXES, axis_types=types)


def slices_along(sizes: Sequence[int], slices: Counter[int]) -> tuple[int, int, int]:
    """How many slices follow each other along each axis of a mesh.

    Args:
        sizes: of `data`, `fsdp`, `tensor`; their product is the number of devices.
        slices: the number of devices of each.

    Raises:
        ValueError: slices of different sizes, or that `tensor` would have to cross.
    """
    data, fsdp, tensor = sizes
    if len(set(slices.values())) > 1:
        found = ", ".join(str(slices[number]) for number in sorted(slices))
        raise ValueError(
            f"the {len(slices)} slices or nodes have {found} devices: start on equally "
            "many devices of each"
        )
    along_data = math.gcd(data, len(slices))
    along_fsdp = len(slices) // along_data
    if fsdp % along_fsdp:
        each = next(iter(slices.values()))
        raise ValueError(
            f"mesh.tensor={tensor} would cross the {len(slices)} slices or nodes of "
            f"{each} devices each, and what it sends is too much for the network "
            f"between them: set mesh.tensor to a divisor of {each}, and mesh.data or "
            "mesh.fsdp to -1"
        )
    return along_data, along_fsdp, 1


def undivided() -> Mesh:
    """The first device; of several processes all, since none may be left out of what
    Orbax does together."""
    devices = jax.devices() if jax.process_count() > 1 else jax.devices()[:1]
    return make_mesh(data=-1, fsdp=1, tensor=1, devices=devices)


def check_axes(mesh: Mesh) -> None:
    """Raises ValueError if a mesh is none of `make_mesh`."""
    if mesh.axis_names != AXES:
        raise ValueError(
            f"the mesh has the axes {', '.join(map(str, mesh.axis_names))}: make one "
            "by vit_jax.parallel.sharding.make_mesh(data=1, fsdp=-1, tensor=1)"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples divided over the devices."""
    return NamedSharding(mesh, BATCH)


def local_rows(placement: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a batch that devices of this process hold: sorted int64 numbers.

    All processes have equally many. Processes that hold the same rows, as under tensor
    parallelism over hosts, each get all of them.
    """
    indices = placement.addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in indices]
    return np.unique(np.concatenate(rows))


def state_shardings(state: Any, params: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a training state, as a tree like `state`.

    Arrays whose path ends as that of a parameter of the same shape, as the moments and
    averages of all optimizers do, are divided like it, all others replicated.

    Args:
        state, params: trees of arrays or of their shapes.

    Raises:
        ValueError: as `param_spec`, or nothing is there for `mesh.tensor` to divide.
    """
    specs = {}
    for keys, leaf in jax.tree.leaves_with_path(params):
        path = keystr(keys, simple=True, separator="/")
        specs[tuple(map(str, keys))] = leaf.shape, param_spec(path, leaf.shape, mesh)
    if mesh.shape["tensor"] > 1 and not any("tensor" in s for _, s in specs.values()):
        raise ValueError(
            f"mesh.tensor={mesh.shape['tensor']} divides heads and MLPs, of which "
            "this model has none: use mesh.fsdp"
        )

    def place(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = tuple(map(str, keys))
        for start in range(len(path)):
            shape, spec = specs.get(path[start:], (None, None))
            if shape == leaf.shape:
                return NamedSharding(mesh, spec)
        return replicated(mesh)

    return tree_map_with_path(place, state)


def param_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The mesh axis of each dimension of a parameter.

    First the table of tensor parallelism; then `fsdp` takes the largest dimension that
    is left and divisible.

    Args:
        path: such as `encoder/block_03/mlp/out/kernel`.

    Raises:
        ValueError: heads or hidden units that `mesh.tensor` does not divide.
    """
    axes: list[str | None] = [None] * len(shape)
    for pattern, names in TENSOR_RULES:
        if mesh.shape["tensor"] > 1 and re.search(f"(^|/){pattern}$", path):
            axes[-len(names) :] = names
    for axis, size in zip(axes, shape, strict=True):
        if axis == "tensor" and size % mesh.shape["tensor"]:
            raise ValueError(
                f"mesh.tensor={mesh.shape['tensor']} must divide the heads and the "
                f"hidden units of the MLP, but {path} has {size}"
            )
    first = 1 if path.startswith(STACKED) else 0
    free = [
        i
        for i in range(first, len(shape))
        if axes[i] is None and shape[i] % mesh.shape["fsdp"] == 0
    ]
    is_large = np.prod(shape[first:]) >= FSDP_LEAST and len(shape) - first > 1
    if mesh.shape["fsdp"] > 1 and is_large and free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function, traced such that the model's constraints refer to the mesh."""

    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def abstract(shapes: Any, shardings: Any) -> Any:
    """Shapes with their shardings: what to restore, or to compile for."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


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
            f"{pieces // accumulate_steps} devices of mesh.data and mesh.fsdp times "
            f"train.accumulate_steps={accumulate_steps}"
        )
