"""The communication of a compiled program: bytes, and the mesh axes they cross."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_jax.planning.hlo import Module, Step, walk
from vit_jax.planning.topology import island

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)


class Collective(NamedTuple):
    """All collectives of one kind, dtype and set of mesh axes in a run of a program.

    Attributes:
        kind: such as `all-reduce`.
        axes: the mesh axes that they run over.
        dtype: the element type that is sent.
        count: number of calls.
        size: bytes of the arrays; for all-gather and reduce-scatter, of the whole ones.
        sent: least bytes that each device sends, as with ring algorithms.
        network: least bytes of these that leave the device's island of NVLink or ICI:
            each byte crosses once for all devices of an island, which share the work.
    """

    kind: str
    axes: tuple[str, ...]
    dtype: str
    count: int
    size: int
    sent: float
    network: float


def collectives(module: Module, mesh: Any) -> list[Collective]:
    """The collectives of a program, added up, the largest first.

    Args:
        mesh: the `jax.sharding.Mesh` that it was compiled for.

    Raises:
        ValueError: groups of devices are written in an unknown notation.
    """
    counts, sizes = defaultdict(int), defaultdict(int)
    sent, network = defaultdict(float), defaultdict(float)
    islands = np.array([island(device) for device in mesh.devices.flat])
    seen: set[str] = set()
    for step in walk(module):
        if not (kind := collective_kind(step)):
            continue
        # On TPU the pieces of an asynchronous collective are fused into what runs
        # meanwhile; they share one channel.
        channel = step.instruction.attribute(r"channel_id=(\d+)")
        if step.fused and channel:
            if channel in seen:
                continue
            seen.add(channel)
        groups = device_groups(step.instruction.text, mesh)
        members = len(groups[0])
        names = mesh_axes(groups, mesh)
        operand_bytes = defaultdict(int)
        for name in step.instruction.operands:
            for array in step.computation[name].arrays:
                operand_bytes[array.dtype] += array.size
        for dtype, size in operand_bytes.items():
            size *= members if kind == "all-gather" else 1
            key = kind, names, dtype
            counts[key] += step.times
            sizes[key] += step.times * size
            sent[key] += step.times * size * share_sent(kind, members)
            network[key] += step.times * size * share_between(kind, islands[groups])
    rows = [
        Collective(kind, names, dtype, count, sizes[key], sent[key], network[key])
        for key, count in counts.items()
        for kind, names, dtype in (key,)
    ]
    return sorted(rows, key=lambda row: -row.sent)


def collective_kind(step: Step) -> str:
    """The kind of collective that an instruction is or starts, "" for none."""
    kind = step.instruction.op.removesuffix("-start")
    if kind not in KINDS:
        return ""
    # On TPU, XLA writes a reduce-scatter as a reduction of which a slice is kept.
    is_scatter = kind == "all-reduce" and step.within.startswith("all-reduce-scatter")
    return "reduce-scatter" if is_scatter else kind


def share_sent(kind: str, members: int) -> float:
    """The bytes that each device has to send, as a share of the array."""
    if kind in ("collective-permute", "collective-broadcast"):
        return 1.0
    return (2.0 if kind == "all-reduce" else 1.0) * (members - 1) / members


def share_between(kind: str, islands: np.ndarray) -> float:
    """The bytes that each device sends to other islands, as a share of the array.

    Args:
        islands: the island of each device, a row for each group.
    """
    between = max(len(set(row)) for row in islands.tolist())
    devices = islands.shape[1] // between
    return share_sent(kind, between) / devices if between > 1 else 0.0


def device_groups(text: str, mesh: Any) -> np.ndarray:
    """The groups of devices that communicate, as their numbers in the mesh's order.

    Args:
        text: the instruction, whose groups may be written as `{{0,1},{2,3}}`, as
            `[2,4]<=[4,2]T(1,0)` (numbers 0, 1, ... of a (4, 2) array, transposed, in
            two groups of four), as `mesh['data'=4,'fsdp'=2] {'fsdp'}`, as `{}` for
            all, or as pairs of source and target.

    Raises:
        ValueError: the groups are written in another notation.
    """
    everyone = np.arange(mesh.devices.size)
    groups = re.search(r"(?:replica_groups|source_target_pairs)=(.*)", text)
    notation = groups[1] if groups else "{}"
    if notation.startswith("{}"):
        return everyone[None]
    if match := re.match(r"\{(\{[\d,{}]*\})\}", notation):
        rows = re.findall(r"\{([\d,]+)\}", match[1])
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    if match := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", notation):
        shape, source, order = (_numbers(part) for part in match.groups())
        numbers = np.arange(np.prod(source)).reshape(source)
        return (numbers.transpose(order) if order else numbers).reshape(shape)
    if match := re.match(r"mesh\[([^\]]*)\](?: \{([^}]*)\})?", notation):
        sizes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", match[1])}
        chosen = re.findall(r"'(\w+)'", match[2] or "") or list(sizes)
        numbers = np.arange(np.prod(list(sizes.values()))).reshape(*sizes.values())
        places = [list(sizes).index(name) for name in chosen]
        numbers = np.moveaxis(numbers, places, range(-len(places), 0))
        return numbers.reshape(-1, np.prod([sizes[name] for name in chosen]))
    raise ValueError(f"unknown way to write groups of devices: {notation[:80]}")


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []


def mesh_axes(groups: np.ndarray, mesh: Any) -> tuple[str, ...]:
    """The axes of the mesh along which the devices of a group differ."""
    places: Sequence[np.ndarray] = np.unravel_index(groups, mesh.devices.shape)
    return tuple(
        name
        for name, place in zip(mesh.axis_names, places, strict=True)
        if (place != place[:, :1]).any()
    )
