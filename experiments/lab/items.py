"""Every result of the paper, and what reproducing it at the paper's scale needs.

The report has a line for each, run or not.
"""

import re
from typing import NamedTuple

JFT = "JFT-300M, which is not public"
IMAGENET = "ImageNet and some days on accelerators"
IMAGENET_21K = "ImageNet-21k and weeks on accelerators"


class Item(NamedTuple):
    """A table, figure or section of the paper."""

    name: str  # as `item_names` writes it
    shows: str
    needs: str  # at the paper's own scale; "" if nothing but this code


ITEMS = (
    Item("Table 1", "sizes of the models", ""),
    Item("Table 2", "transfer beside the state of the art", JFT),
    Item("Table 3", "hyper-parameters of pre-training", ""),
    Item("Table 4", "hyper-parameters of fine-tuning", ""),
    Item("Table 5", "transfer by pre-training set and model", JFT),
    Item("Table 6", "transfer and compute of 18 models", JFT),
    Item("Table 7", "ResNets pre-trained by Adam and by SGD", JFT),
    Item("Table 8", "position embeddings", JFT),
    Item("Table 9", "VTAB-1k by task", f"the 19 data sets, and {JFT}"),
    Item("Fig. 2", "VTAB by groups of tasks", f"the 19 data sets, and {JFT}"),
    Item("Fig. 3", "transfer to ImageNet by pre-training set", JFT),
    Item("Fig. 4", "few-shot accuracy by amount of pre-training data", JFT),
    Item("Fig. 5", "transfer by pre-training compute", JFT),
    Item("Fig. 6", "attention rollout, three images", f"a ViT-L/16, {IMAGENET_21K}"),
    Item("Fig. 7", "filters, position similarity, attention distance", IMAGENET_21K),
    Item("Fig. 8", "depth, width, patch size scaled one by one", JFT),
    Item("Fig. 9", "class token and global average pooling", JFT),
    Item("Fig. 10", "position similarity by training recipe", JFT),
    Item("Fig. 11", "attention distance, ViT and hybrid", JFT),
    Item("Fig. 12", "speed and largest batch by image size", "a TPUv3"),
    Item("Fig. 13", "axial attention", JFT),
    Item("Fig. 14", "attention rollout, 128 images", f"a ViT-L/16, {IMAGENET_21K}"),
    Item("Section 4.6", "masked patch prediction", f"{JFT}, or {IMAGENET}"),
    Item("Section D.9", "ObjectNet", f"ObjectNet's images, and {JFT}"),
)

_KINDS = {"table": "Table", "fig": "Fig.", "figure": "Fig.", "section": "Section"}
# The paper describes this experiment in two places.
_SAME = {"Section B.1.2": "Section 4.6"}


def item_names(text: str) -> list[str]:
    """The items that an experiment's `item` names.

    "Tables 2, 5 and 6; Figs. 3/5" gives Table 2, Table 5, Table 6, Fig. 3 and Fig. 5.
    Other words, such as those for a part of a figure, are ignored.
    """
    names, kind = [], ""
    for part in re.split(r"[,;/+]| and ", text):
        match = re.match(
            r"\s*(?:(table|fig|figure|section)s?\.?\s+)?([A-D]\.[\d.]*\d|\d[\d.]*)\b",
            part,
            re.IGNORECASE,
        )
        if not match:
            continue
        kind = _KINDS[match[1].lower()] if match[1] else kind
        name = f"{kind} {match[2]}"
        names.append(_SAME.get(name, name))
    return list(dict.fromkeys(names))
