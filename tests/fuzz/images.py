"""Images: all formats, their EXIF blocks, and JPEGs that are mended."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from fuzz.mutations import edited
from fuzz.reader import Finding, Reader, check_sentence
from vit_jax.data.decode import ImageError, decode_file
from vit_jax.data.jpeg_segments import segments

HEIGHT, WIDTH = 20, 28
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
PIXELS[..., :3] = PIXELS[:5, :7, :3].repeat(4, 0).repeat(4, 1)  # small when packed
NOISE = 40  # by which decoders of one JPEG differ where they smooth colours


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(file, kind)
    else:
        image = Image.fromarray(PIXELS).convert("RGB" if mode != "RGBA" else mode)
        image.convert(mode).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112], block[0x010E] = orientation, "a description"
    block.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    return block


def frames() -> list[Image.Image]:
    return [Image.fromarray(np.roll(PIXELS, n, 1)) for n in range(3)]


def jpegs() -> list[bytes]:
    plain = encoded("JPEG")
    samsung = bytearray(encoded("JPEG", subsampling=0))
    scan = next(end for marker, _, end in segments(plain) if marker == 0xDA)
    samsung[scan - 2] = 0
    return [
        plain,
        encoded("JPEG", exif=exif(6), subsampling=2),
        encoded("JPEG", progressive=True),
        encoded("JPEG", "L", exif=exif(3)),
        encoded("JPEG", "CMYK"),
        encoded("JPEG", restart_marker_rows=1, optimize=True, comment=b"x" * 5000),
        bytes(samsung),
        plain[:-2] + b"\0" * 9 + plain[-2:],
    ]


def jpeg_places(data: bytes) -> list[int]:
    """Markers, lengths and the first bytes of each segment, and of an EXIF block."""
    found = [*range(12), len(data) - 2, len(data) - 1]
    for _, start, _ in segments(data):
        found += range(start - 4, start + 12)
    tiff = data.find(b"Exif\0\0")
    return found + (list(range(tiff, tiff + 90)) if tiff >= 0 else [])


def png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the content of each chunk begins and ends."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield place + 8, place + 8 + length
        place += 12 + length


def png_places(data: bytes) -> list[int]:
    return [n for start, _ in png_chunks(data) for n in range(start - 8, start + 14)]


def with_png_checksums(data: bytes) -> bytes:
    content = bytearray(data)
    for start, end in png_chunks(data):
        if end + 4 <= len(content):
            content[end : end + 4] = zlib.crc32(content[start - 4 : end]).to_bytes(4)
    return bytes(content)


def pngs() -> list[bytes]:
    return [
        encoded("PNG"),
        encoded("PNG", "RGBA", exif=exif(8)),
        encoded("PNG", "P", transparency=1),
        encoded("PNG", "I;16"),
        encoded("PNG", "1"),
        encoded("PNG", "LA"),
        encoded("PNG", save_all=True, append_images=frames()),
    ]


def others() -> list[bytes]:
    animated = {"save_all": True, "append_images": frames()}
    return [
        encoded("WEBP", lossless=True),
        encoded("WEBP", "RGBA", exif=exif(5)),
        encoded("WEBP", **animated),
        encoded("GIF", "P"),
        encoded("GIF", "P", **animated),
        encoded("BMP"),
        encoded("BMP", "P"),
        *(encoded("TIFF", compression=name) for name in ("raw", "tiff_lzw", "jpeg")),
        encoded("TIFF", "RGBA", compression="tiff_adobe_deflate", exif=exif(7)),
        encoded("TIFF", "I;16"),
        encoded("ICO", "RGBA"),
        encoded("PPM"),
        encoded("JPEG2000"),
        encoded("TGA"),
    ]


def check(data: bytes, folder: Path) -> None:
    path = folder / "image.jpg"
    path.write_bytes(data)
    try:
        image = decode_file(str(path))
    except ImageError as error:
        return check_sentence(str(error), path)
    right = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not right or not image.size or not image.flags.c_contiguous:
        raise Finding(f"an image of {image.shape}, {image.dtype}")
    compare(data, image)


def compare(data: bytes, image: np.ndarray) -> None:
    """Raises Finding if another decoder, where it takes the file, sees other pixels."""
    try:
        plain = Image.open(io.BytesIO(data))
        kind, mode = plain.format, plain.mode
        turned = ImageOps.exif_transpose(plain).convert("RGB")
    except Exception:  # of many kinds; what Pillow refuses cannot be compared
        return
    if turned.size != (image.shape[1], image.shape[0]):
        raise Finding(f"{image.shape}, and Pillow has {turned.size}")
    if kind == "JPEG" and mode in ("RGB", "L"):
        difference = np.abs(np.asarray(turned).astype(int) - image)
        if difference.mean() > NOISE:
            raise Finding(f"pixels differ by {difference.mean():.0f} from Pillow's")
    if kind in ("PNG", "BMP") and mode == "RGB" and not plain.has_transparency_data:
        other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        same = other is not None and other.shape == image.shape
        if same and (np.abs(other.astype(int) - image) > 0).any():
            raise Finding("pixels differ from OpenCV's")


READERS = (
    Reader("JPEG", lambda: edited(jpegs(), jpeg_places), check, 100),
    Reader("PNG", lambda: edited(pngs(), png_places, with_png_checksums), check, 100),
    Reader("other images", lambda: edited(others()), check, 100),
)
