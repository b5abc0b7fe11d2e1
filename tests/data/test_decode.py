"""Decoding: every colour mode becomes RGB, and damaged files are errors."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.decode import ImageError, decode_image


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture(height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth picture without symmetry, which JPEG keeps to a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 7, y * 9, (x + y) * 4], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_formats(kind):
    picture = _picture()
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode_image(_encode(Image.fromarray(picture), kind, **options), "x")
    assert decoded.dtype == np.uint8 and decoded.shape == (24, 32, 3)
    tolerance = 12 if kind == "JPEG" else 0
    assert np.abs(decoded.astype(int) - picture).max() <= tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(kind):
    grey = _picture()[..., 0]
    decoded = decode_image(_encode(Image.fromarray(grey), kind, quality=95), "x")
    assert (decoded == decoded[..., :1]).all()
    assert np.abs(decoded[..., 0].astype(int) - grey).max() <= 3


def test_cmyk_jpeg():
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    decoded = decode_image(_encode(red.convert("CMYK"), "JPEG", quality=95), "x")
    assert np.abs(decoded.astype(int) - (250, 10, 10)).max() < 12


def test_transparent_pixels_are_laid_on_white():
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    decoded = decode_image(_encode(image, "PNG"), "x")
    assert decoded.tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 9, 9, 9])
    image.putpixel((1, 0), 1)
    decoded = decode_image(_encode(image, "PNG", transparency=1), "x")
    assert decoded.tolist() == [[[0, 0, 255], [255, 255, 255]]]


def test_grey_with_alpha():
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (0, 0))
    decoded = decode_image(_encode(image, "PNG"), "x")
    assert decoded.tolist() == [[[100] * 3, [255] * 3]]


def test_sixteen_bit_png_is_scaled_not_clipped():
    deep = np.array([[0, 256 * 7, 65535]], np.uint16)
    decoded = decode_image(_encode(Image.fromarray(deep), "PNG"), "x")
    assert decoded[0, :, 0].tolist() == [0, 7, 255]


def test_one_bit_png():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode_image(_encode(image, "PNG"), "x")[0, :, 1].tolist() == [0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_as_pillow_applies_it(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encode(Image.fromarray(_picture()), kind, exif=exif, quality=95)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode_image(data, "x")
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 6


def _jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return _encode(Image.fromarray(noise), "JPEG", quality=90)


def test_damaged_files_are_named_errors():
    jpeg = _jpeg()
    png = _encode(Image.fromarray(_picture()), "PNG")
    middle = len(jpeg) // 2
    damaged = {
        "empty.jpg": b"",
        "cut.jpg": jpeg[:middle],
        "middle.jpg": jpeg[:middle] + b"\xff\xd9" * 40 + jpeg[middle + 80 :],
        "head.jpg": jpeg[:5],
        "cut.png": png[: len(png) // 2],
        "text.png": b"this is no image",
    }
    for name, data in damaged.items():
        with pytest.raises(ImageError, match=f"{name}: the image cannot be decoded"):
            decode_image(data, name)
    with pytest.raises(ImageError, match="the file is empty"):
        decode_image(b"", "x")
    with pytest.raises(ImageError, match="not a known image format"):
        decode_image(b"this is no image", "x")
