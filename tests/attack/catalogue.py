"""All attacks, by the part of the program that they aim at."""

from collections.abc import Callable, Iterable

from attack import (
    by_hand,
    configs,
    damages,
    flags,
    headers,
    outputs,
    pictures,
    tables,
    together,
    weights,
)
from attack.outcomes import Attack

KINDS: dict[str, Callable[[], Iterable[Attack]]] = {
    "texts": configs.texts,
    "objects": configs.objects,
    "by hand": by_hand.by_hand,
    "edges": configs.edges,
    "damages": damages.damages,
    "folders": damages.odd_folders,
    "bits": damages.bits,
    "images": pictures.images,
    "tables": tables.tables,
    "weights damaged": weights.damages,
    "weights tensors": weights.tensors,
    "weights headers": headers.headers,
    "weights configs": weights.configs,
    "flags": flags.flags,
    "places": outputs.bad_places,
    "disks": outputs.disks,
    "processes": together.processes,
}
