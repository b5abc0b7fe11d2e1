"""JPEG files whose pixels are whole, with headers that decoders warn of, put right."""

from __future__ import annotations

from collections.abc import Iterator

from vit_jax.data.jpeg_segments import END, SCAN, segments

_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # frames whose scans have all frequencies
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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
            scan = end if marker == SCAN else scan
        if scan is None:
            return
        position = _marker_after(data, scan)
        if position < 0:
            return
        if data[position + 1] == END:
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
    elif marker == SCAN and sequential:
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
