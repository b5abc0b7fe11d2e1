"""Labels of VTAB's structured tasks, derived from a record of tensorflow-datasets.

The rules are those of google-research/task_adaptation (`data/clevr.py`, `dsprites.py`,
`kitti.py`), the code of the benchmark (arXiv 1910.04867). A config names one as
`data.label`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Distances in units of CLEVR's scenes, and in metres.
_CLEVR_DISTANCES = (8.0, 8.5, 9.0, 9.5, 10.0)
_KITTI_DISTANCES = (8.0, 20.0)
_KITTI_VEHICLES = 3  # types 0, 1 and 2: car, van, truck


class LabelRule(NamedTuple):
    """How a label is derived.

    Attributes:
        field: the field of the record that `function` reads.
        function: maps that field's value to the label.
        names: names of the classes.
    """

    field: str
    function: Callable[[Any], int]
    names: tuple[str, ...]


def clevr_count(objects: dict[str, Any]) -> int:
    """Number of objects, of which there are 3 to 10, minus 3: 8 classes."""
    return len(objects["size"]) - 3


def clevr_distance(objects: dict[str, Any]) -> int:
    """Distance of the closest object from the camera in 6 ranges."""
    return _range_of(_third(objects["pixel_coords"]).min(), _CLEVR_DISTANCES)


def kitti_distance(objects: dict[str, Any]) -> int:
    """Distance of the closest car, van or truck: 3 ranges, and one for none."""
    is_vehicle = np.asarray(objects["type"], int) < _KITTI_VEHICLES
    ahead = _third(objects["location"])[is_vehicle]
    if not ahead.size:
        return len(_KITTI_DISTANCES) + 1
    return _range_of(ahead.min(), _KITTI_DISTANCES)


def _third(places: Any) -> np.ndarray:
    """The third coordinate of each of n places, also of none: (n,)."""
    # The places are a list of arrays, or an array; without any, of shape (0,).
    return np.asarray(places, np.float32).reshape(-1, 3)[:, 2]


def _range_of(value: float, limits: tuple[float, ...]) -> int:
    """The number of limits below a value: one that equals a limit is in the range."""
    return int(np.searchsorted(np.array(limits), value, side="left"))


def _binned(values: int, bins: int) -> Callable[[Any], int]:
    return lambda label: int(label) * bins // values


def _range_names(limits: tuple[float, ...], unit: str = "") -> tuple[str, ...]:
    between = zip(limits, limits[1:], strict=False)
    return (
        f"up to {limits[0]:g}{unit}",
        *(f"{low:g} to {high:g}{unit}" for low, high in between),
        f"over {limits[-1]:g}{unit}",
    )


_BINS = tuple(f"{number} of 16" for number in range(1, 17))

RULES = {
    "clevr_count": LabelRule(
        "objects", clevr_count, tuple(f"{number} objects" for number in range(3, 11))
    ),
    "clevr_distance": LabelRule(
        "objects", clevr_distance, _range_names(_CLEVR_DISTANCES)
    ),
    "kitti_distance": LabelRule(
        "objects",
        kitti_distance,
        (*_range_names(_KITTI_DISTANCES, " m"), "no vehicle"),
    ),
    # 32 places from left to right, and 40 angles of a full turn, in 16 bins.
    "dsprites_location": LabelRule("label_x_position", _binned(32, 16), _BINS),
    "dsprites_orientation": LabelRule("label_orientation", _binned(40, 16), _BINS),
}
