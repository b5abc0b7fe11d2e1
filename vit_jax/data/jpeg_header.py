"""The segments of a JPEG file: its EXIF block, and headers that cost no pixels."""

from __future__ import annotations

from collections.abc import Iterator

_EXIF = b"Exif\x00\x00"
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # frames whose scans have all frequencies
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}


def has_exif(data: bytes) -> bool:
    """Whether there is an EXIF block, however far behind other blocks."""
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
        if marker == _END:
            return
        start = position + 4
        position += 2 + (data[position + 2] << 8 | data[position + 3])
        yield marker, start, position
        if marker == _SCAN:
            return


def mended(data: bytes) -> Iterator[bytes]:
    """The file with a header and an end that no decoder warns of; the pixels stay.

    libjpeg warns of these as it does of damage, but none says anything of the pixels:
    the version of JFIF; an unknown transform in Adobe's block, in whose place it takes
    the usual one; the frequencies of a sequential scan, which are always all (phones of
    Samsung write 0 as the last); a run of one byte before the end marker. A second file
    is without this run: a decoder that does not warn of it has had all pixels. In a
    progressive file the run may stand for a lost scan, which no decoder misses.
    """
    content = bytearray(data)
    position, sequential = 2, False
    while True:
        scan = None
        for marker, start, end in segments(data, position):
            if end > len(data):
                return
            if marker in _FRAMES:
                sequential = marker in _SEQUENTIAL
            _mend_segment(content, marker, start, end, sequential)
            scan = end if marker == _SCAN else scan
        if scan is None:
            return
        position = _marker_after(data, scan)
        if position < 0:
            return
        if data[position + 1] == _END:
            break
    yield bytes(content)
    if sequential:
        body, tail = bytes(content[:position]), bytes(content[position:])
        body = body.rstrip(body[-1:])
        # A zero behind 0xFF is a part of it.
        yield body + b"\0" * body.endswith(b"\xff") + tail


def _mend_segment(
    content: bytearray, marker: int, start: int, end: int, sequential: bool
) -> None:
    if marker == 0xE0 and content.startswith(b"JFIF\0", start) and end >= start + 7:
        content[start + 5 : start + 7] = b"\1\1"
    elif marker == 0xEE and content.startswith(b"Adobe", start) and end >= start + 12:
        content[start + 11] = min(content[start + 11], 2)
    elif marker == _SCAN and sequential:
        content[end - 3 : end] = b"\0\x3f\0"


def _marker_after(data: bytes, position: int) -> int:
    """Where the next marker is that ends the data of a scan; -1 if there is none."""
    while (position := data.find(b"\xff", position)) >= 0:
        if position + 1 >= len(data):
            return -1
        following = data[position + 1]
        if following not in (0, 0xFF) and not 0xD0 <= following <= 0xD7:
            return position
        position += 1
    return -1
