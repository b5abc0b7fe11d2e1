"""Arms at the paper's own scale.

They have only ever been checked (`--check`), never run: JFT-300M is not public.
"""

from collections.abc import Mapping
from typing import Any

from experiments.lab.frame import Arm

# Section 4.1: five examples a class of ImageNet, linear in closed form. The pool of
# 65,000 training images and the crop are those of big_vision's `common_fewshot.py`.
IMAGENET_5SHOT = {
    "fewshot.every": "100%",
    "fewshot.name": "imagenet2012",
    "fewshot.train_split": "train[:65000]",
    "fewshot.test_split": "validation",
    "fewshot.crop": "resize_center_crop",
    "fewshot.shots": (5,),
}


def jft(model: str, changes: Mapping[str, Any] = {}, epochs: str = "") -> Arm:
    """Pre-training on JFT-300M by Table 3, then ImageNet 5-shot.

    Args:
        changes: values by config key.
        epochs: passes over JFT-300M; the number in Table 3 if not given.
    """
    config = f"configs/pretrain.py:model={model},data=jft,epochs={epochs}"
    return Arm(config, IMAGENET_5SHOT | dict(changes))
