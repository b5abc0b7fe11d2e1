"""Decoding: every colour mode becomes RGB, and damaged files are errors."""

import importlib.machinery
import io
import os
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from vit_jax.data import decode
from vit_jax.data.decode import ImageError, decode_file, decode_image
from vit_jax.data.files import find_images
from vit_jax.data.listing import EXTENSIONS


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


def test_ycck_jpeg_as_pillow_reads_it():
    """The same data, of which Adobe's block says that they are YCCK."""
    picture = Image.fromarray(_picture()).convert("CMYK")
    data = bytearray(_encode(picture, "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(bytes(data), "x"), wanted)


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


# --- files whose pixels are whole ------------------------------------------------


def _scan_end(data: bytes) -> int:
    scan = data.index(b"\xff\xda")
    return scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")


def _with(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


@pytest.mark.parametrize("extra", [0, 100])
def test_odd_headers_and_padding_of_jpegs_are_no_damage(extra):
    good = _jpeg()
    end, jfif = _scan_end(good), good.index(b"JFIF\0") + 5
    odd = {
        "Se": _with(good, end - 2, b"\0"),
        "JFIF 0.00": _with(good, jfif, b"\0\0"),
        "JFIF 2.01": _with(good, jfif, b"\2\1"),
        "both": _with(_with(good, end - 2, b"\0"), jfif, b"\2\1"),
        "padding": good[:-2] + b"\x20" * 50 + good[-2:],
    }
    for name, data in odd.items():
        data = data[:-2] + bytes(extra) + data[-2:] if name != "padding" else data
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode_image(data, name), expected, name)


def test_mending_hides_no_damage():
    good = _with(_jpeg(), _scan_end(_jpeg()) - 2, b"\0")
    end = _scan_end(good)
    damaged = {
        "cut": good[: len(good) * 3 // 4],
        "cut and closed": good[: len(good) * 3 // 4] + b"\xff\xd9",
        "zeros": good[: end + 500] + bytes(len(good) - end - 502) + b"\xff\xd9",
        "text before the end": good[:-2] + b"some text" * 9 + good[-2:],
    }
    for name, data in damaged.items():
        with pytest.raises(ImageError, match=name):
            decode_image(data, name)


def test_exif_behind_other_blocks():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encode(Image.fromarray(_picture()), "JPEG", exif=exif)
    block = b"\xff\xe2" + (60002).to_bytes(2, "big") + bytes(60000)
    assert decode_image(data[:2] + block * 2 + data[2:], "x").shape == (32, 24, 3)


def test_exif_in_a_raw_profile_of_a_png():
    from PIL.PngImagePlugin import PngInfo

    exif = Image.Exif()
    exif[0x0112] = 6
    content = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    info = PngInfo()
    profile = f"\nexif\n{len(content):8d}\n{content.hex()}\n"
    info.add_text("Raw profile type exif", profile, zip=True)
    data = _encode(Image.fromarray(_picture()), "PNG", pnginfo=info)
    assert decode_image(data, "x").shape == (32, 24, 3)


@pytest.mark.parametrize("place", ["Raw profile type exif", "exif"])
def test_pixels_behind_a_damaged_exif_block_are_whole(place):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if place != "exif":
        info.add_text(place, "\nexif\n    8\nno digits\n")
    exif = {"exif": b"damaged" * 9000} if place == "exif" else {}
    data = _encode(Image.fromarray(_picture()), "PNG", pnginfo=info, **exif)
    np.testing.assert_array_equal(decode_image(data, "x"), _picture())
    with pytest.raises(ImageError, match="(?i)truncated"):
        decode_image(data[: len(data) - 200], "x")


def test_names_in_errors_are_one_line():
    for call in (decode_file, lambda name: decode_image(b"junk", name)):
        with pytest.raises(ImageError, match=r"^a\\nb\\x1b\.jpg: the "):
            call("a\nb\x1b.jpg")
    with pytest.raises(FileNotFoundError, match=r"^a\\nb is neither"):
        find_images(["a\nb"])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype):
    data = _encode(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    with pytest.raises(ImageError, match="of which no file tells what is white"):
        decode_image(data, "x")


def test_headers_that_claim_too_much_are_refused():
    jpeg = _jpeg()
    frame = jpeg.index(b"\xff\xc0") + 5
    huge = _with(jpeg, frame, (65500).to_bytes(2, "big") * 2)
    with pytest.raises(ImageError, match="claims 65500 x 65500.*raise MAX_PIXELS"):
        decode_image(huge, "x")
    png = _encode(Image.fromarray(_picture()), "PNG")
    header = _with(png, 16, (65500).to_bytes(4, "big") * 2)
    header = _with(header, 29, zlib.crc32(header[12:29]).to_bytes(4, "big"))
    with pytest.raises(ImageError, match="raise PIL.Image.MAX_IMAGE_PIXELS"):
        decode_image(header, "x")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF"])
def test_more_formats_in_folders(tmp_path, kind):
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(_encode(Image.fromarray(_picture()), kind))
    decoded = decode_file(str(path))
    assert np.abs(decoded.astype(int) - _picture()).mean() < 20
    assert path.name.endswith(EXTENSIONS)


# An ISO file of brand heic without boxes behind it.
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(decode, "reads_heif", lambda: False)
    with pytest.raises(ImageError, match=r'a.jpg: .*needs `pip install "vit_jax.heic'):
        decode_image(HEIC, "a.jpg")
    monkeypatch.setattr(decode, "reads_heif", lambda: True)
    with pytest.raises(
        ImageError, match=r"a.jpg: the image cannot be decoded"
    ) as error:
        decode_image(HEIC, "a.jpg")
    assert "pip install" not in str(error.value)


@pytest.mark.parametrize("brand", ["heic", "heix", "mif1"])
def test_heic_is_decoded_where_its_library_is(monkeypatch, brand):
    """A stand-in for the library, which registers a reader as that does."""

    def register():
        Image.register_open("STAND-IN", StandIn, lambda data: data[4:8] == b"ftyp")

    class StandIn(ImageFile.ImageFile):
        format = "STAND-IN"

        def _open(self):
            self._mode, self._size, self.tile = "RGB", (3, 2), []

        def load(self):
            self.im = Image.new("RGB", (3, 2), (9, 8, 7)).im

    library = types.ModuleType("pillow_heif", "")
    library.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    library.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    decode.reads_heif.cache_clear()
    decoded = decode_image(HEIC.replace(b"heic", brand.encode()), "x")
    decode.reads_heif.cache_clear()
    assert decoded.tolist() == [[[9, 8, 7]] * 3] * 2


def test_heic_of_the_library_itself():
    heif = pytest.importorskip("pillow_heif")
    assert {".heic", ".heif"} <= set(EXTENSIONS)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(_picture(64, 96))
    heif.from_pillow(picture).save(file, quality=95, exif=exif.tobytes())
    decoded = decode_image(file.getvalue(), "x")
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    np.testing.assert_array_equal(decoded, wanted)
    assert decoded.shape == (96, 64, 3)


def test_only_regular_files_of_a_sane_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with open(tmp_path / "hole.jpg", "wb") as file:
        file.truncate(1 << 40)
    for name, cause in (
        ("pipe", "a FIFO and no regular file"),
        ("zero", "a device and no regular file"),
        ("hole", "1,099,511,627,776 bytes, more than"),
        ("none", "No such file"),
    ):
        with pytest.raises(ImageError, match=f"{name}.jpg: .*cannot be read.*{cause}"):
            decode_file(str(tmp_path / f"{name}.jpg"))
