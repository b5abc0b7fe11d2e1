"""Image files that a person names, without labels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vit_jax.data.decode import decode_file
from vit_jax.data.listing import EXTENSIONS, describe_left_out, walk
from vit_jax.storage.output import printable
from vit_jax.storage.paths import expanded

_LOG = logging.getLogger("vit_jax")


class Files:
    """Image files as a `Source` without labels."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """{"image": uint8 (h, w, 3)}; ImageError if the file cannot be read."""
        return {"image": decode_file(self.record_name(index))}

    def record_name(self, index: int) -> str:
        """Path of the file."""
        return str(self.paths[index])


def find_images(names: Sequence[str]) -> list[Path]:
    """Lists the named files, and the images in the named folders at any depth.

    What training would leave out of a folder is left out here too, and told.

    Raises:
        FileNotFoundError: a name that is neither a file nor a folder.
        ValueError: a folder without images.
    """
    paths = []
    for name in names:
        path = expanded(name)
        if not path.exists():
            raise FileNotFoundError(f"{printable(name)} is neither a file nor a folder")
        if not path.is_dir():
            paths.append(path)
            continue
        images, left_out = [], Counter()
        for file, reason in walk(str(path)):
            if reason:
                left_out[reason] += 1
            else:
                images.append(path / file)
        if not images:
            others = describe_left_out(left_out)
            raise ValueError(
                f"the folder {printable(name)} holds no images "
                f"({', '.join(EXTENSIONS)})"
                f"{others and f', {others}'}"
            )
        text = f"{printable(name)}: {len(images):,} images"
        if left_out:
            text += f"; {describe_left_out(left_out)}"
        _LOG.info(text)
        paths += sorted(images)
    return paths
