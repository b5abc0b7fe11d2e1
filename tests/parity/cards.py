"""The model card of a written folder: read by the hub's library, its code executed."""

import contextlib
import re
from pathlib import Path

from huggingface_hub import ModelCard


def check(folder: Path) -> None:
    """Raises what the library raises for the header, and what the code raises."""
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name and card.data.pipeline_tag, card.data
    with contextlib.chdir(folder):
        for code in re.findall(r"^```python\n(.*?)^```", card.text, re.M | re.S):
            exec(code, {})
