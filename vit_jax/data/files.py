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
    """Lists the named files, and the images in the named folders at any depth.

    Raises:
        FileNotFoundError: a name that is neither a file nor a folder.
        ValueError: a folder without images.
    """
    paths = []
    for name in names:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f"{name} is neither a file nor a folder")
        if not path.is_dir():
            paths.append(path)
            continue
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        images = [file for file in files if is_image(file.relative_to(path))]
        if not images:
            raise ValueError(
                f"the folder {name} holds no images ({', '.join(EXTENSIONS)})"
            )
        paths += images
    return paths


def is_image(path: Path) -> bool:
    """Whether a file counts as an image by its extension and is not hidden."""
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden
