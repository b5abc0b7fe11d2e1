"""Encoded image bytes to uint8 RGB arrays, and a clear error when that fails."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

_JPEG_MAGIC = b"\xff\xd8\xff"
_EXIF_MAGIC = b"Exif\x00\x00"
_PILLOW_EXIF_MAGIC = (_EXIF_MAGIC, b"eXIf", b"EXIF")  # JPEG, PNG, WebP
_ORIENTATION = 0x0112


class ImageError(ValueError):
    """A record that cannot be used: unreadable image, or a label out of range."""


# Appended by the code that reads data sets.
ADVICE = 'mend or remove it, or set data.on_error="skip" to go on without it'


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP or BMP file to RGB.

    Grey, palette and CMYK images become RGB, 16-bit images keep their high bits,
    transparent pixels are laid on white (most such pictures were made for a white
    page, and dropping alpha would show colours that nobody was meant to see), of an
    animation the first frame is used, and the EXIF orientation is applied.
    JPEGs are decoded strictly: damaged ones are an error, where OpenCV and Pillow
    would return a half-grey picture. CMYK JPEGs, which only Pillow reads, are not
    protected in this way.

    Args:
        data: the bytes of the file.
        name: file or record named in the error.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        ImageError: names `name` and the cause.
    """
    if not data:
        raise ImageError(_message(name, "the file is empty"))
    try:
        if data.startswith(_JPEG_MAGIC):
            colours = simplejpeg.decode_jpeg_header(data)[2]
            if colours not in ("CMYK", "YCCK"):
                return _decode_jpeg(data)
        return _decode_with_pillow(data)
    # Pillow and libjpeg raise a dozen unrelated types on damaged files (SyntaxError,
    # struct.error, zlib.error, ...): all of them mean the same here.
    except Exception as error:
        raise ImageError(_message(name, _cause(error))) from error


def _message(name: str, cause: str) -> str:
    return f"{name}: the image cannot be decoded ({cause})"


def _cause(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a known image format"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _decode_jpeg(data: bytes) -> np.ndarray:
    # The tag is looked for in the bytes first: opening every file with Pillow only
    # to learn that it has no Exif block would cost as much as a small decode.
    orientation = 1
    if _EXIF_MAGIC in data[: 1 << 16]:
        orientation = Image.open(io.BytesIO(data)).getexif().get(_ORIENTATION, 1)
    image = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return _orient(image, orientation)


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation (1 to 8; anything else is left alone)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if any(magic in data for magic in _PILLOW_EXIF_MAGIC):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey clips at 255 instead of scaling.
        grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
