"""Imports torchvision beside a torch that its compiled operators do not fit.

The models need none of them, but torchvision does not import unless these two exist.
"""

import sys

import torch

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    LIBRARY = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        LIBRARY.define(f"{operator}{SCHEMA}")
    import torchvision  # noqa: F401
