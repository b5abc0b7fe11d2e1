"""Tar shards, their index and classes; zip archives of images; names of folders."""

import contextlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzz.images import encoded
from fuzz.mutations import any_json, edited
from fuzz.reader import Finding, Reader, check_sentence, equal, telling
from vit_jax.data import tar_index
from vit_jax.data.decode import ImageError
from vit_jax.data.files import find_images
from vit_jax.data.folder import FolderSource
from vit_jax.data.layout import find_layout
from vit_jax.data.prepare import images_of
from vit_jax.data.tar_source import TarSource

PNG = encoded("PNG", "L")
CLASSES = ["cat", "dog"]
BLOCK = 512  # bytes, of which a tar file is made


def shard(members: dict[str, bytes], kind: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mtime = 1.5 if kind == tarfile.PAX_FORMAT else 1
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def shards() -> list[bytes]:
    long = "deep/" * 30
    return [
        shard({"0.png": PNG, "0.cls": b"1", "1.png": PNG, "1.cls": b"cat"}, kind)
        for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ] + [
        shard({f"{long}{n}.json": b'{"label": 1}', f"{long}{n}.jpg": PNG}, kind)
        for n, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ]


def tar_headers(data: bytes) -> list[int]:
    """The blocks that are headers, by their checksum."""
    found = []
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        with contextlib.suppress(tarfile.HeaderError):
            block = data[start : start + BLOCK]
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            found.append(start)
    return found


def tar_places(data: bytes) -> list[int]:
    """Names, sizes, types and checksums in headers, and the content behind them."""
    fields = (0, 124, 130, 135, 148, 156, 157, 257, 263, BLOCK, BLOCK + 3, BLOCK + 9)
    return [start + n for start in tar_headers(data) for n in fields]


def with_tar_checksums(data: bytes) -> bytes:
    """Headers that carry ustar's magic, with the checksums that they should have."""
    content = bytearray(data)
    for start in range(0, len(content) - BLOCK + 1, BLOCK):
        if content[start + 257 :].startswith(b"ustar"):
            header = content[start : start + BLOCK]
            header[148:156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(content)


def write_set(folder: Path, content: bytes) -> Path:
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    path = folder / "train-0.tar"
    path.write_bytes(content)
    return path


def check_shard(content: bytes, folder: Path) -> None:
    path = write_set(folder, content)
    with telling(folder, errors=(ValueError, OSError)):
        source = TarSource(str(folder), "train")
        labels = source.labels()
        equal(len(labels), len(source), "labels")
        for index in range(len(source)):
            try:
                record = source[index]
            except ImageError as error:
                check_sentence(str(error), path)
                continue
            equal(record["label"], int(labels[index]), "label")
            name = source.record_name(index).removeprefix(f"{path}/")
            with tarfile.open(path) as tar:
                found = [x.offset_data for x in tar if x.isfile() and x.name == name]
            if int(source._records[index]["offset"]) not in found:
                raise Finding(f"{name} is not where tarfile finds it")


def index_bytes() -> bytes:
    records = np.zeros(2, tar_index.RECORD)
    records["offset"] = records["header"] + BLOCK
    file = io.BytesIO()
    np.save(file, records)
    return file.getvalue()


def check_index(content: bytes, folder: Path) -> None:
    """The index of a shard, kept from an earlier run and damaged since."""
    write_set(folder, shards()[0])
    wanted = TarSource(str(folder), "train")._records.tolist()
    index = next((folder / ".index").glob("*.npy"))
    index.write_bytes(content)
    equal(TarSource(str(folder), "train")._records.tolist(), wanted, "records")


def check_classes(content: bytes, folder: Path) -> None:
    for name in tar_index.CLASS_FILES:
        path = folder / name
        path.write_bytes(content)
        with telling(path):
            names = tar_index.read_classes(str(path))
            if not names or len(set(names)) < len(names) or not all(names):
                raise Finding(f"classes {names!r}")
            if path.suffix == ".json":
                equal(list(names), json.loads(content), "classes")


def zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name in ("a/cat/0.png", "a/cat/1.png", "a/dog/é.png", "../out.png"):
                archive.writestr(name, PNG)
        found.append(file.getvalue())
    return found


def zip_places(data: bytes) -> list[int]:
    """The fields of the headers and of the table at the end."""
    found = []
    for magic, length in ((b"PK\3\4", 60), (b"PK\1\2", 60), (b"PK\5\6", 22)):
        place = data.find(magic)
        while place >= 0:
            found += range(place, place + length)
            place = data.find(magic, place + 1)
    return found


def check_zip(content: bytes, folder: Path) -> None:
    path, output = folder / "images.zip", folder / "in" / "shards"
    output.parent.mkdir()
    path.write_bytes(content)
    with telling(path, output, errors=(ValueError, OSError, zipfile.BadZipFile)):
        with images_of(str(path), str(output)) as images:
            if os.path.isdir(images):
                with telling(folder, errors=(ValueError, OSError)):
                    FolderSource(images, "all")
    equal(sorted(os.listdir(folder)), ["images.zip", "in"], "files")
    equal(os.listdir(output.parent), [], "what is left of the archive")


WORDS = ("train", "Training", "test", "test_set", "val", "seg_train", "seg_test", "cat")
WORDS += ("dog", "images", "@eaDir", ".hidden", "été", "a\nb", "caf\udce9", "x" * 200)
FILES = (
    "0.png",
    "1.JPG",
    "notes.txt",
    ".DS_Store",
    "a\x1b[31m.png",
    "Thumbs.db",
    "t.tif",
)


def trees() -> st.SearchStrategy[list[tuple[str, ...]]]:
    """Paths of files in folders that are often named as splits and classes."""
    words = st.sampled_from(WORDS)
    path = st.tuples(st.lists(words, max_size=3), st.sampled_from(FILES))
    return st.lists(path.map(lambda x: (*x[0], x[1])), min_size=1, max_size=8)


def check_tree(paths: list[tuple[str, ...]], folder: Path) -> None:
    root = folder / "data"
    for parts in paths:
        place = root.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(PNG)
    errors: Any = (ValueError, OSError)
    with telling_names(root, errors):
        layout = find_layout(str(root))
        for split in layout.splits or ("all",):
            source = FolderSource(str(root), split)
            base = layout.splits.get(split, layout.base)
            present = sum(path.is_file() for path in Path(base).rglob("*"))
            hidden = source.left_out[base]
            if len(source) + sum(hidden.values()) > present:
                raise Finding(f"{len(source)} images and {hidden} of {present} files")
            for index in range(len(source)):
                source[index]
    with telling_names(root, errors):
        equal(all(path.exists() for path in find_images([str(root)])), True, "there")


@contextlib.contextmanager
def telling_names(root: Path, errors: Any) -> Any:
    """As `telling`; names of folders are shown as they are, and escaped at the end."""
    try:
        yield
    except errors as error:
        check_sentence(str(error).replace("a\nb", "a b"), root)


READERS = (
    Reader(
        "tar shards",
        lambda: edited(shards(), tar_places, with_tar_checksums),
        check_shard,
    ),
    Reader("index of shards", lambda: edited([index_bytes()]), check_index),
    Reader(
        "classes of shards",
        lambda: any_json([CLASSES]) | edited(["\n".join(CLASSES).encode()]),
        check_classes,
    ),
    Reader("zip of images", lambda: edited(zips(), zip_places), check_zip),
    Reader("folders of images", lambda: trees(), check_tree),
)
