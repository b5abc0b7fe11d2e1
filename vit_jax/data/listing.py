"""The image files below a folder, and how many others lie there and why."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping

from PIL import features

HEIF = (".heic", ".heif")  # of phones
HEIF_ADVICE = '`pip install "vit_jax[heic]"`'
# As Pillow decodes them; AVIF where it was built with it, HEIF where it has a plugin.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *((".avif",) if features.check("avif") else ()),
    *(HEIF if importlib.util.find_spec("pillow_heif") else ()),
)
_SHOWN = 5  # reasons
# Made by file systems, archives and storage boxes: thumbnails and bins of the images.
_SYSTEM_FOLDERS = frozenset(
    (
        "@eadir",
        "@__thumb",
        "@recently-snapshot",
        "@recycle",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "$recycle.bin",
        "__macosx",
        "lost+found",
        "system volume information",
    )
)


@functools.cache
def tell(guess: str) -> None:
    """Says once in a process what was assumed."""
    logging.getLogger("vit_jax").warning(guess)


def why_skipped(entry: os.DirEntry) -> str:
    """The reason why a folder is not looked into; "" if it is."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.name.lower() in _SYSTEM_FOLDERS:
        return f"folder {entry.name}"
    if entry.is_symlink() and _leads_up(entry.path):
        return "link to a folder above it"
    return ""


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one; a link of a ring is none, no error."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk(folder: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, reason) of all that lies below a folder; the reason is "" for an image.

    Paths begin with `prefix` and have "/". Links are followed, to regular files and to
    folders, but into each folder once; which of two ways leads there does not depend on
    the file system's order.
    """
    parent = os.stat(os.path.dirname(os.path.abspath(folder)))
    seen = {(parent.st_dev, parent.st_ino)}
    waiting, links = deque([(folder, prefix)]), deque()
    while waiting or links:
        if not waiting:
            links = deque(sorted(links))
            waiting.append(links.popleft())
        place, start = waiting.popleft()
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            yield start, "link to a folder that is listed already"
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in entries:
                path = f"{start}/{entry.name}" if start else entry.name
                if not is_folder(entry):
                    yield path, _why_no_image(entry)
                elif reason := why_skipped(entry):
                    yield path, reason
                else:
                    (links if entry.is_symlink() else waiting).append(
                        (entry.path, path)
                    )


def own_files(folder: str) -> Iterator[tuple[str, str]]:
    """(name, reason) as `walk`, of what lies in a folder itself and is not entered."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_folder(entry):
                yield entry.name, _why_no_image(entry)
            elif reason := why_skipped(entry):
                yield entry.name, reason


def folders_of(folder: str) -> list[str]:
    """Sorted names of the folders in a folder that are looked into."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if is_folder(e) and not why_skipped(e))


def image_folders(folder: str) -> list[str]:
    """Those of `folders_of` in which there is an image, at any depth."""
    return [
        name for name in folders_of(folder) if has_images(os.path.join(folder, name))
    ]


def has_images(folder: str) -> bool:
    """Whether there is an image below a folder, at any depth."""
    return any(not reason for _, reason in walk(folder))


def has_own_images(folder: str) -> bool:
    """Whether there is an image in a folder itself."""
    return any(not reason for _, reason in own_files(folder))


def describe_left_out(counts: Mapping[str, int]) -> str:
    """Such as "5 left out (3 .txt, 2 hidden)"; "" if there are none."""
    if not counts:
        return ""
    parts = [
        f"{count:,} {reason}"
        for reason, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair))
    ]
    more = f", and {len(parts) - _SHOWN} other kinds" if len(parts) > _SHOWN else ""
    parts = parts[:_SHOWN]
    return f"{sum(counts.values()):,} left out ({', '.join(parts)}{more})"


def _why_no_image(entry: os.DirEntry) -> str:
    if entry.name.startswith("."):
        return "hidden"
    if not entry.name.lower().endswith(EXTENSIONS):
        ending = os.path.splitext(entry.name)[1].lower()
        if ending in HEIF:
            return f"{ending} until {HEIF_ADVICE}"
        return ending if ending.isprintable() and ending else "without an ending"
    with contextlib.suppress(OSError):
        if entry.is_file():
            return ""
    broken = entry.is_symlink() and not os.path.exists(entry.path)
    return "broken link" if broken else "no regular file"


def _leads_up(link: str) -> bool:
    """Whether a link leads to the folder that it is in, or to one above that."""
    target = os.path.realpath(link)
    here = os.path.realpath(os.path.dirname(link))
    return here == target or here.startswith(target.rstrip(os.sep) + os.sep)
