"""Image files that a person names, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vit_jax.data.decode import ImageError, decode_image
from vit_jax.data.folder import EXTENSIONS


class Files:
    """Image files as a `Source` without labels."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        """{"image": uint8 (h, w, 3)}; ImageError if the file cannot be read."""
        name = self.record_name(index)
        try:
            return {"image": decode_image(self.paths[index].read_bytes(), name)}
        except OSError as error:
            raise ImageError(f"{name}: cannot be read ({error.strerror})") from error

    def record_name(self, index: int) -> str:
        """Path of the file."""
        return str(self.paths[index])


def find_images(names: Sequence[str]) -> list[Path]:
    """The files that are named, and the images in the folders that are, at any depth.

    Raises:
        FileNotFoundError: a name that is neither a file nor a folder.
        ValueError: a folder without images.
    """
    paths = []
    for name in names:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f"{name} is neither a file nor a folder")
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        if path.is_dir():
            found = [f for f in found if f.is_file() and is_image(f.relative_to(path))]
        if not found:
            raise ValueError(
                f"the folder {name} holds no images ({', '.join(EXTENSIONS)})"
            )
        paths += found
    return paths


def is_image(path: Path) -> bool:
    """Whether a file in a folder is taken for an image: by its name, if not hidden."""
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden
