"""Smaller copies: `vit_jax.data.prepare --shorter-side`."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_image

from vit_jax.data import prepare
from vit_jax.data.decode import decode_image
from vit_jax.data.shrink import encode, shrunk
from vit_jax.data.sources import make_source


def _shrunk(path: Path, side: int) -> tuple[str, bytes]:
    return shrunk(path.name, path.read_bytes(), side)


def _write(path: Path, width: int, height: int, **options) -> bytes:
    """A piece of a photograph; returns the content of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((width, height))
    photo.save(path, **options)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((500, 400), (160, 128)),
        ((300, 500), (128, 213)),
        ((129, 129), (128, 128)),
        ((600, 130), (591, 128)),
    ],
)
def test_larger_images_get_the_shorter_side(tmp_path, size, wanted):
    _write(tmp_path / "a.b.JPEG", *size, quality=95)
    name, content = _shrunk(tmp_path / "a.b.JPEG", 128)
    assert name == "a.b.JPEG"
    assert Image.open(io.BytesIO(content)).size == wanted
    assert simplejpeg.decode_jpeg_header(content)[3] == "420"


@pytest.mark.parametrize("size", [(128, 500), (500, 128), (60, 50)])
def test_smaller_images_stay_byte_by_byte(tmp_path, size):
    content = _write(tmp_path / "a.png", *size)
    assert _shrunk(tmp_path / "a.png", 128) == ("a.png", content)


def test_pixels_are_those_of_the_antialiased_resize(tmp_path):
    _write(tmp_path / "a.png", 600, 400)
    name, content = _shrunk(tmp_path / "a.png", 100)
    # Of the brightness, as colours are halved.
    small = decode_image(content, name).mean(-1)
    photo = Image.open(tmp_path / "a.png")

    def difference(method: Image.Resampling) -> float:
        return np.abs(np.mean(photo.resize((150, 100), method), -1) - small).mean()

    assert name == "a.jpg"
    assert difference(Image.Resampling.BICUBIC) < 2  # grey levels
    assert difference(Image.Resampling.BILINEAR) > 2
    assert difference(Image.Resampling.NEAREST) > 8


def test_a_turned_photo_is_upright_in_its_copy(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = _write(tmp_path / "a.jpg", 500, 400, exif=exif)
    _, small = _shrunk(tmp_path / "a.jpg", 128)
    assert decode_image(content, "a").shape == (500, 400, 3)
    assert decode_image(small, "a").shape == (160, 128, 3)


def test_an_image_that_no_jpeg_holds_stays(tmp_path):
    Image.new("RGB", (140_000, 260)).save(tmp_path / "a.png")
    name, content = _shrunk(tmp_path / "a.png", 256)
    assert (name, content) == ("a.png", (tmp_path / "a.png").read_bytes())


def test_a_damaged_image_is_packed_as_it_is_and_told(tmp_path, caplog):
    content = _write(tmp_path / "a.jpg", 500, 400)[:9000]
    (tmp_path / "a.jpg").write_bytes(content)
    with caplog.at_level(logging.WARNING, "vit_jax"):
        assert _shrunk(tmp_path / "a.jpg", 128) == ("a.jpg", content)
    assert "a.jpg: the image cannot be decoded" in caplog.text
    assert "packed as it is" in caplog.text


def test_encoding_keeps_a_grey_ramp():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    ramp = np.repeat(ramp, 16, 0)
    assert np.abs(decode_image(encode(ramp), "ramp").astype(int) - ramp).max() <= 2


def test_shards_of_smaller_copies_keep_order_names_and_labels(tmp_path, capsys):
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    for number in range(9):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        _write(path, 90 + number, 60 + number)
    command = [str(folder), "--output", str(shards), "--per-shard", "4"]
    prepare.main([*command, "--shorter-side", "64"])
    assert "train: 9 images" in capsys.readouterr().out
    whole, small = (
        make_source(str(name), "all" if name == folder else "train", cache="never")
        for name in (folder, shards)
    )
    assert small.label_names == whole.label_names
    assert small.labels().tolist() == whole.labels().tolist()
    for index in range(9):
        number = int(Path(whole.record_name(index)).stem)
        suffix = "png" if number <= 4 else "jpg"
        assert small.record_name(index).endswith(f"{index:08}_{number}.{suffix}")
        shape, before = (s[index]["image"].shape[:2] for s in (small, whole))
        assert min(shape) == min(64, min(before))
    assert json.loads((shards / "shards.json").read_text())["shorter_side"] == 64
    prepare.main([*command, "--shorter-side", "64"])
    for other in ([], ["--shorter-side", "63"]):
        with pytest.raises(SystemExit, match="another --per-shard or --shorter-side"):
            prepare.main([*command, *other])


def test_a_shorter_side_needs_images(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["cifar10", "--shorter-side", "64"])
    assert "--shorter-side goes with --output or --from" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main(["photos", "--output", "shards", "--shorter-side", "0"])
    assert "--shorter-side: '0': wanted" in capsys.readouterr().err
