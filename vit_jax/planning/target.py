"""The devices of a plan, their peak figures, and the memory that a run can use."""

import os
import re
from typing import Any, NamedTuple

import jax

from vit_jax.planning.chips import Chip, find_chip
from vit_jax.planning.topology import CARDS, cards, pod

# The share of a GPU's memory that jax allocates, unless XLA_CLIENT_MEM_FRACTION is set.
# The rest is for CUDA itself, libraries, NCCL and other programs.
POOL = 0.75


class Target(NamedTuple):
    """The devices to compile for.

    Attributes:
        name: such as `v5e:16x16`.
        devices: all of them.
        chip: peak figures of each; None if they are not known.
        memory: bytes of each that a program can use; None if that is not known.
        share: the share of a device's memory that `memory` is; below 1 for GPUs.
    """

    name: str
    devices: list[Any]
    chip: Chip | None
    memory: int | None
    share: float = 1.0


def find_target(topology: str | None, devices: str | None) -> Target:
    """The devices of a topology, of `8xH100`, or those of this machine.

    Raises:
        ValueError: no such topology or card.
        ImportError: libtpu or the CUDA wheels of jax are needed.
    """
    if devices:
        share = pool_share()
        targets = cards(devices)
        memory = int(share * card_memory(devices))
        chip = find_chip(targets[0].device_kind)
        return Target(devices, targets, chip, memory, share)
    targets = pod(topology) if topology else jax.devices()
    chip = find_chip(targets[0].device_kind)
    name = topology or f"{len(targets)} x {targets[0].device_kind}"
    if not topology and (limit := (targets[0].memory_stats() or {}).get("bytes_limit")):
        return Target(name, targets, chip, limit)
    return Target(name, targets, chip, chip.memory if chip else None)


def card_memory(name: str) -> int:
    """Memory of a card in bytes, as its driver reports it."""
    text = (CARDS / f"{name.rpartition('x')[2]}.txtpb").read_text()
    return int(re.search(r"device_memory_size: (\d+)", text)[1])


def pool_share() -> float:
    """The share of a GPU's memory that jax allocates, 0.75 by default.

    Raises:
        ValueError: XLA_CLIENT_MEM_FRACTION is no number between 0 and 1.
    """
    old, new = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
    text = os.environ.get(new) or os.environ.get(old) or str(POOL)
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{new}={text}: wanted a share of the memory, such as 0.9")
    return share
