"""Encoded image bytes to uint8 RGB arrays, and a clear error when that fails."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from vit_jax.data.jpeg_segments import has_exif
from vit_jax.storage.foreign import read_regular
from vit_jax.storage.output import printable

# Of a JPEG, whose header may claim what no memory holds; Pillow has a limit of its own
# for other formats. Raise them for larger pictures.
MAX_PIXELS = 1 << 28
MAX_FILE_BYTES = 1 << 30
_JPEG_MAGIC = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
# Of files of the family of MPEG-4, which AVIF is too: where it is HEIC, and its kind.
_HEIF = slice(4, 12)
_HEIF_BRANDS = tuple(b"ftyp" + x for x in (b"heic", b"heix", b"heim", b"heis", b"mif1"))


class ImageError(ValueError):
    """A record that cannot be used: unreadable image, or a label out of range."""


# Appended by the code that reads data sets.
ADVICE = 'mend or remove it, or set data.on_error="skip" to go on without it'


def decode_file(name: str) -> np.ndarray:
    """Reads and decodes an image file; raises ImageError if that is not possible."""
    try:
        data = read_regular(name, MAX_FILE_BYTES)
    except OSError as error:
        raise ImageError(
            f"{printable(name)}: the file cannot be read ({error.strerror})"
        ) from error
    return decode_image(data, name)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file to RGB.

    Grey, palette and CMYK images become RGB, 16-bit images keep their high bits,
    transparent pixels are laid on white (most such pictures were made for a white
    page, and dropping alpha would show colours that nobody was meant to see), of an
    animation the first frame is used, and the EXIF orientation is applied.
    JPEGs are decoded strictly: damaged ones are an error, where OpenCV and Pillow
    would return a half-grey picture; those of which only a header is odd are not
    (`jpeg_mending.mended`). CMYK JPEGs, which only Pillow reads, are not protected in
    this way. Floating-point and 32-bit pixels, whose range no file tells, are an error.

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
    # Pillow and libjpeg raise a dozen unrelated types on damaged files (SyntaxError,
    # struct.error, zlib.error, ...): all of them mean the same here.
    try:
        return _decode(data)
    except Exception as error:
        if data.startswith(_JPEG_MAGIC):
            from vit_jax.data.jpeg_mending import mended

            for other in mended(data):
                with contextlib.suppress(Exception):
                    return _decode(other)
        cause = _cause(error)
        if is_heif(data) and not reads_heif():
            from vit_jax.data.listing import HEIF_ADVICE

            cause = f"it is HEIC, which needs {HEIF_ADVICE}"
        raise ImageError(_message(name, cause)) from error


def is_heif(data: bytes) -> bool:
    """Whether a file begins as a HEIC picture of a phone does."""
    return data[_HEIF] in _HEIF_BRANDS


@functools.cache
def reads_heif() -> bool:
    """Teaches Pillow to read HEIC, if the plugin is installed."""
    if not importlib.util.find_spec("pillow_heif"):
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _decode(data: bytes) -> np.ndarray:
    if not data.startswith(_JPEG_MAGIC):
        return _decode_with_pillow(data)
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if int(height) * int(width) > MAX_PIXELS:
        raise ValueError(
            f"it claims {width} x {height} pixels, more than {MAX_PIXELS:,}; make it "
            "smaller, or raise MAX_PIXELS in vit_jax/data/decode.py"
        )
    if colours in ("CMYK", "YCCK"):
        return _decode_with_pillow(data)
    return _decode_jpeg(data)


def _message(name: str, cause: str) -> str:
    return f"{printable(name)}: the image cannot be decoded ({cause})"


def _cause(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a known image format"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _decode_jpeg(data: bytes) -> np.ndarray:
    # The block is looked for first: opening every file with Pillow only to learn that
    # it has none would cost as much as a small decode.
    orientation = 1
    if has_exif(data):
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
    if is_heif(data):
        reads_heif()
    image = Image.open(io.BytesIO(data))
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(
            f"it has {kind} pixels, of which no file tells what is white; save it with "
            "8 or 16 bits"
        )
    image.load()
    # The pixels are whole where only the EXIF block is damaged.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey clips at 255 instead of scaling.
        grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
