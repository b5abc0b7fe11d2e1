"""The segments of a JPEG file before its pixels, and whether one is an EXIF block."""

from __future__ import annotations

from collections.abc import Iterator

_EXIF = b"Exif\x00\x00"
_SMALL = 4096  # bytes
SCAN, END = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}


def has_exif(data: bytes) -> bool:
    """Whether there is an EXIF block, however far behind other blocks.

    Of a small file that has its name by chance elsewhere this is said too.
    """
    if len(data) <= _SMALL:  # sought faster than walked through
        return _EXIF in data
    return any(
        marker == 0xE1 and data.startswith(_EXIF, start)
        for marker, start, _ in segments(data)
    )


def segments(data: bytes, position: int = 2) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the contents of segments, up to the first scan header."""
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == END:
            return
        start = position + 4
        position += 2 + (data[position + 2] << 8 | data[position + 3])
        yield marker, start, position
        if marker == SCAN:
            return
