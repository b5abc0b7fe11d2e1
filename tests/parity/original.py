"""What a model of another project has to do to be compared with ours."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Original(NamedTuple):
    """A model, written and read by the code of its project.

    Attributes:
        architecture, layout: for the table; the layout is that of `vit_jax`.
        image_size: (height, width).
        write: puts a checkpoint with random weights into a folder.
        logits: of the checkpoint in a folder, for pixels in [0, 1] of shape
            (b, height, width, 3); whatever the pixels go through is read there too.
    """

    architecture: str
    layout: str
    image_size: tuple[int, int]
    write: Callable[[Path], None]
    logits: Callable[[Path, np.ndarray], np.ndarray]
