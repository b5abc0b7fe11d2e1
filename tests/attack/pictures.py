"""Hostile images and folders as data: bombs, pipes, loops, names, damage."""

import contextlib
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attack.outcomes import Attack, Outcome, call, judge
from vit_jax.data.files import Files, find_images
from vit_jax.data.pipeline import Data

SIZE = 24  # images of the folder without the attack
REFUSED, TOLD, SAME = Outcome.REFUSED, Outcome.TOLD, Outcome.SAME
ESCAPES = "ev\x1b[31mil\n\u202e.jpg"


def pixels(seed: int, side: int = 32) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (side, side, 3))
    return Image.fromarray(values.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain_folder(folder: Path) -> Path:
    """Two classes, twelve JPEGs each."""
    for number in range(SIZE):
        place = folder / "data" / "cat dog".split()[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(encoded(pixels(number), "JPEG"))
    return folder / "data"


def claiming(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size."""
    data = bytearray(encoded(pixels(0), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png(width: int, height: int, data: bytes, *blocks: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels, with a header of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *blocks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def bomb(side: int) -> bytes:
    """The pixels of a PNG of one colour, a thousandth of their size."""
    packer = zlib.compressobj(9)
    line = bytes(side + 1)
    return b"".join([packer.compress(line) for _ in range(side)] + [packer.flush()])


def bad_images() -> Iterator[tuple[str, bytes]]:
    """What is no image, or only a part of one, or claims what no memory holds."""
    jpeg, image = encoded(pixels(0), "JPEG"), pixels(1)
    yield from (("empty.jpg", b""), ("text.jpg", b"hello"), ("zeros.png", bytes(999)))
    yield "random.jpg", np.random.default_rng(0).bytes(2000)
    for share in (0.1, 0.5, 0.9):
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
            data = encoded(image, kind)
            yield f"cut{share}.{kind.lower()}", data[: int(share * len(data))]
    yield "claims.jpg", claiming(65500, 65500)
    yield "wide.jpg", claiming(65535, 9)
    yield "nothing.jpg", claiming(0, 0)
    yield "claims.png", png(60000, 60000, zlib.compress(bytes(99)))
    yield "bomb.png", png(20000, 20000, bomb(20000))
    yield "most.png", png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(99)))
    yield "negative.bmp", encoded(image, "BMP")[:18] + struct.pack("<ii", -5, 2**31 - 1)
    yield "claims.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(50)
    yield "claims.ppm.png", b"P6 60000 60000 255\n" + bytes(99)
    yield "script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "page.jpg", b"<!doctype html><html></html>"
    yield "picture.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "lfs.jpg", b"version https://git-lfs.github.com/spec/v1\n"
    text = zlib.compress(bytes(200 << 20), 9)
    yield "comment.png", png(9, 9, b"", (b"zTXt", b"a\0\0" + text))
    scan = jpeg.index(b"\xff\xda") + 14
    yield "noise.jpg", jpeg[:scan] + bytes(len(jpeg) - scan - 2) + jpeg[-2:]
    many = Image.fromarray(np.zeros((8, 8), np.float32))
    yield "float.tiff", encoded(many, "TIFF")


def good_images() -> Iterator[tuple[str, bytes]]:
    """Odd ones that are whole."""
    image = pixels(2)
    yield "really-a-png.jpg", encoded(image, "PNG")
    yield "really-a-jpeg.png", encoded(image, "JPEG")
    yield "one.png", encoded(image.resize((1, 1)), "PNG")
    yield "line.png", encoded(image.resize((3000, 1)), "PNG")
    yield "column.jpg", encoded(image.resize((1, 3000)), "JPEG")
    for mode in ("L", "LA", "P", "RGBA", "1", "I;16"):
        kind = Image.fromarray(np.zeros((9, 9), np.uint16)) if mode == "I;16" else None
        yield f"{mode}.png", encoded(kind or image.convert(mode), "PNG")
    yield "cmyk.jpg", encoded(image.convert("CMYK"), "JPEG")
    yield "trailing.jpg", encoded(image, "JPEG") + bytes(5000)
    yield "profile.jpg", encoded(image, "JPEG", icc_profile=b"no profile")
    yield "exif.jpg", encoded(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    frames = {"save_all": True, "append_images": [pixels(3)]}
    yield "animated.gif", encoded(image, "GIF", **frames)
    for name in (
        ESCAPES,
        "caf\udce9.jpg",
        "-rf.jpg",
        "a=b,c:d.jpg",
        "n" * 250 + ".jpg",
    ):
        yield name, encoded(image, "JPEG")
    yield "%s{0}$(id)`id`.jpg", encoded(image, "JPEG")


def odd_files() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What is no regular file, under the name of an image."""
    yield "a FIFO", os.mkfifo
    yield "a link to /dev/zero", lambda path: path.symlink_to("/dev/zero")
    yield "a link to itself", lambda path: path.symlink_to(path)
    yield "a link to nowhere", lambda path: path.symlink_to("/nowhere/x.jpg")
    yield "a link to its folder", lambda path: path.symlink_to(path.parent)
    yield "a link to /", lambda path: path.symlink_to("/proc/self")
    yield "a hole of 1 TB", lambda path: (path.touch(), os.truncate(path, 1 << 40))

    def listen(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
            server.bind(path.name)

    yield "a socket", listen


def decode(folder: Path, name: str) -> tuple[Outcome, str]:
    """Reads all as `vit_jax.predict` does."""
    seen = 0

    def act() -> None:
        nonlocal seen
        files = Files(find_images([str(folder)]))
        seen = sum(1 for index in range(len(files)) if files[index]["image"].size)

    ending = call(act)
    names = (name, name.encode("unicode_escape").decode(), str(folder))
    return judge(ending, names=names, same=seen == SIZE + 1, told="left out")


def draw(folder: Path, name: str, on_error: str) -> tuple[Outcome, str]:
    """Reads all as a training does, which takes every image in one batch."""
    data = Data(
        name=str(folder), image_size=(16, 16), batch_size=8, on_error=on_error,
        holdout=0.01, cache="never",
    )  # fmt: skip
    seen, skipped, words = 0, [], ""

    def act() -> None:
        nonlocal seen, words
        words = data.in_words(("train", "val"))
        for split in ("train", "val"):
            batches = data.eval_batches(split, 8)
            with contextlib.closing(batches):
                seen += sum(int(batch["mask"].sum()) for batch in batches)
                skipped.extend(batches.skipped)

    ending = call(act)
    ending = ending._replace(said=f"{words}\n{ending.said}\n{skipped or ''}")
    names = (name, repr(name)[1:-1], str(folder), folder.name)
    same = seen == SIZE + 1 and not skipped
    return judge(ending, names=names, same=same, told=r"left out|\[.*\]")


def images() -> Iterator[Attack]:
    """One hostile file more among the images of a class, for each of three readers."""
    makers: list[tuple[str, Callable[[Path], object], tuple[Outcome, ...]]] = []
    for name, data in bad_images():
        makers.append(
            (name, lambda path, data=data: path.write_bytes(data), (REFUSED,))
        )
    for name, data in good_images():
        makers.append((name, lambda path, data=data: path.write_bytes(data), (SAME,)))
    for name, make in odd_files():
        makers.append((f"{name}.jpg".replace("/", "-"), make, (REFUSED, TOLD)))
    for name, make, good in makers:
        readers: dict[str, Callable[[Path, str], tuple[Outcome, str]]] = {
            "predicted": decode,
            "trained on": lambda path, name: draw(path, name, "raise"),
            "skipped": lambda path, name: draw(path, name, "skip"),
        }
        for word, reader in readers.items():

            def act(
                folder: Path, name: str = name, make: Any = make, reader: Any = reader
            ) -> tuple[Outcome, str]:
                data = plain_folder(folder)
                place = data / "cat" / name
                try:
                    make(place)
                except OSError:
                    os.close(os.open(os.fsencode(place), os.O_CREAT | os.O_WRONLY))
                    make(place)
                return reader(data, name)

            allowed = (TOLD,) if word == "skipped" and good == (REFUSED,) else good
            yield Attack(f"images, {word}", ascii(name)[:50], act, allowed)
