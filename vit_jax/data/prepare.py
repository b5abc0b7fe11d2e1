"""Prepares a data set for training.

    python -m vit_jax.data.prepare cifar10
    python -m vit_jax.data.prepare imagenet2012 --manual-dir TARS --data-dir DISK/tfds
    python -m vit_jax.data.prepare cifar10 --from cifar10-images.zip
    python -m vit_jax.data.prepare photos --output photos_shards --shorter-side 384

A name downloads a data set of tensorflow-datasets with the official builder and writes
ArrayRecord files, which the training reads without TensorFlow; it is the only step that
needs it. With `--from` the images come from a folder or .zip that you have instead, and
need no TensorFlow; the name then stands for them.

A folder of images, train/CLASS/*.jpg and test/CLASS/*.jpg or CLASS/*.jpg, can be
trained on as it is: `--config.data.name=FOLDER`, or `--data cifar10=FOLDER` for the
experiments. With `--output` it, or a .zip of it, is packed into tar shards, which take
its place everywhere and are faster to copy and to list. `--shorter-side 384` packs
copies of that size of larger images, which are faster to decode.

fashion_mnist needs no network where Debian's package `dataset-fashion-mnist` is
installed, or `--manual-dir` holds its four .gz files.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vit_jax.cli import command_parser, parse
from vit_jax.data.openers import packed_folder
from vit_jax.data.pack import pack
from vit_jax.flags import Positive, flag
from vit_jax.storage import output
from vit_jax.storage.archives import ArchiveError, check_archive, reading
from vit_jax.storage.foreign import check_regular

_DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
# Seconds since 1970 in the header of each original file.
_FASHION_MNIST_TIMES = {
    "train-images-idx3-ubyte": 1504176606,
    "train-labels-idx1-ubyte": 1504176606,
    "t10k-images-idx3-ubyte": 1504176627,
    "t10k-labels-idx1-ubyte": 1504176627,
}
_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_FLAG_NAME = 0x08


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; exits with code 1 and one sentence if it cannot be done."""
    parser = command_parser("vit_jax.data.prepare", __doc__)
    parser.add_argument(
        "name",
        help="such as cifar10, imagenet2012, fashion_mnist; with --output the folder "
        "of images, one sub-folder a class, or a .zip of it",
    )
    parser.add_argument("--output", help="folder of the tar shards")
    parser.add_argument(
        "--from", dest="images", help="folder or .zip of the images of the data set"
    )
    parser.add_argument(
        "--per-shard",
        type=flag(Positive),
        default=5000,
        help="images in a tar shard (5000)",
    )
    parser.add_argument(
        "--shorter-side",
        type=flag(Positive),
        help="most pixels of an image's shorter side: larger ones become JPEGs of that "
        "size, of quality 95 (as they are)",
    )
    parser.add_argument("--data-dir", help="where to write; default: that of tfds")
    parser.add_argument("--manual-dir", help="files that you downloaded by hand")
    args = parse(parser, list(sys.argv[1:] if argv is None else argv))
    if args.output or args.images:
        if args.manual_dir or (args.output and (args.data_dir or args.images)):
            parser.error(
                "--output goes without --from and --data-dir, and --manual-dir without "
                "--output and --from"
            )
        shards = args.output or packed_folder(args.name, args.data_dir)
        try:
            read = [args.images or args.name]
            output.check(Path(shards).expanduser(), read, is_folder=True)
            with images_of(args.images or args.name, shards) as folder:
                counts = pack(folder, shards, args.per_shard, args.shorter_side)
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from error
        overrides = _overrides(args.name if args.images else shards, args.data_dir)
        print(_packed(counts, shards, overrides))
        return
    if args.shorter_side:
        parser.error("--shorter-side goes with --output or --from")
    if os.path.exists(args.name):
        raise SystemExit(
            f"error: {args.name} is no name of a data set. A folder of images needs no "
            "preparation: train with --config.data.name=FOLDER. To pack it, or a .zip "
            "of it, into tar shards, give --output SHARDS"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise SystemExit(
            "preparing a data set needs TensorFlow, which is not installed; run "
            '`pip install "vit_jax[prepare]"` (training does not need it), or give the '
            "images, train/CLASS/*.jpg and test/CLASS/*.jpg, with --from FOLDER_OR_ZIP"
        )
    print(_summary(prepare(args.name, args.data_dir, args.manual_dir), args))


@contextlib.contextmanager
def images_of(name: str, output: str) -> Iterator[str]:
    """The folder of images that a name stands for; a .zip is unpacked meanwhile.

    It is unpacked beside `output`, at the same place each time, since the shards go on
    only with images of the same paths.

    Raises:
        ValueError: it unpacks to far more than images do, is damaged, or is no .zip.
        OSError: no such file, or no room.
    """
    if not name.lower().endswith(".zip"):
        yield name
        return
    unpacked = f"{output.rstrip('/')}.unpacked"
    check_regular(name)
    try:
        _unpack(name, unpacked)
        inside = os.listdir(unpacked)
        # Many archives hold one folder, with all else in it.
        yield os.path.join(unpacked, inside[0]) if len(inside) == 1 else unpacked
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(name: str, folder: str) -> None:
    """Unpacks a .zip; raises as `images_of`."""
    with reading(name), zipfile.ZipFile(name) as archive:
        size = check_archive(archive, name)
        beside = os.path.dirname(os.path.abspath(folder))
        os.makedirs(beside, exist_ok=True)
        free = shutil.disk_usage(beside).free
        if size > free:
            raise ArchiveError(
                f"{name} unpacks to {size / 2**30:.1f} GiB, and there is room for "
                f"{free / 2**30:.1f} at {folder}: give an --output on another disk"
            )
        os.makedirs(folder, exist_ok=True)
        archive.extractall(folder)


def prepare(name: str, data_dir: str | None, manual_dir: str | None) -> Any:
    """Downloads and writes a data set, or returns it if that was done before.

    Args:
        name: name of the data set, also `name/config`.
        data_dir: folder to write to; None is the default of tensorflow-datasets.
        manual_dir: folder with files that cannot be downloaded, or were before.

    Returns:
        The builder of the prepared data set.

    Raises:
        SystemExit: unknown name, or a download that failed, in one sentence.
    """
    import tensorflow_datasets as tfds
    from requests.exceptions import RequestException
    from tensorflow_datasets.core.download import DownloadError
    from tensorflow_datasets.core.download.download_manager import (
        NonMatchingChecksumError,
    )

    try:
        builder = tfds.builder(
            name, data_dir=data_dir, try_gcs=False, file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError as error:
        raise SystemExit(
            f"tensorflow-datasets knows no data set {name!r}; the names are at "
            "https://www.tensorflow.org/datasets/catalog/overview"
        ) from error
    if builder.name == "fashion_mnist" and manual_dir is None:
        if os.path.isdir(_DEBIAN_FASHION_MNIST):
            manual_dir = _DEBIAN_FASHION_MNIST
    with tempfile.TemporaryDirectory() as restored:
        files_dir = manual_dir
        if builder.name == "fashion_mnist" and manual_dir is not None:
            restore_fashion_mnist(manual_dir, restored)
            files_dir = restored
        config = tfds.download.DownloadConfig(manual_dir=files_dir)
        try:
            builder.download_and_prepare(download_config=config)
        # AssertionError is what builders raise for a missing manual download.
        except (
            OSError,
            AssertionError,
            RequestException,
            DownloadError,
            NonMatchingChecksumError,
        ) as error:
            raise SystemExit(_download_help(builder, manual_dir, error)) from error
    return builder


def restore_fashion_mnist(source_dir: str, target_dir: str) -> None:
    """Writes the four Fashion-MNIST files with the headers of the originals.

    Debian's package removes name and time from the gzip headers, and the checksums
    that tensorflow-datasets checks are those of the originals. The compressed data
    are equal; files that have the header are copied.

    Raises:
        SystemExit: one of the files is missing or not a gzip file.
    """
    for name, seconds in _FASHION_MNIST_TIMES.items():
        path = os.path.join(source_dir, f"{name}.gz")
        if not os.path.exists(path):
            raise SystemExit(
                f"{path} is missing; put the four files "
                f"{', '.join(f'{file}.gz' for file in _FASHION_MNIST_TIMES)} there, or "
                "run `apt-get install dataset-fashion-mnist` and leave --manual-dir out"
            )
        with open(path, "rb") as file:
            data = file.read()
        if not data.startswith(_GZIP_MAGIC):
            raise SystemExit(f"{path} is not a gzip file; get it again")
        if data[3] == 0:
            header = _GZIP_MAGIC + struct.pack("<BIBB", _GZIP_FLAG_NAME, seconds, 0, 3)
            data = header + name.encode() + b"\x00" + data[10:]
        with open(os.path.join(target_dir, f"{name}.gz"), "wb") as file:
            file.write(data)


def _download_help(builder: Any, manual_dir: str | None, error: Exception) -> str:
    # The first sentence: the rest repeats the instructions, or is a stack of causes.
    cause = " ".join(str(error).split()).split(". ")[0][:300]
    files = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
    if not files:
        infos = builder.url_infos or {}
        files = f"the files {', '.join(infos)}" if infos else "its files"
    return (
        f"the files of {builder.name} could not be obtained ({cause}); connect to the "
        f"network, or put into {manual_dir or 'a folder'} and pass it as "
        f"--manual-dir: {files}"
    )


def _overrides(name: str, data_dir: str | None) -> str:
    """The flags of a training command that choose a data set."""
    place = f" --config.data.data_dir={data_dir}" if data_dir else ""
    return f"--config.data.name={name}{place}"


def _packed(counts: dict[str, int], shards: str, overrides: str) -> str:
    lines = [f"  {split}: {count} images" for split, count in counts.items()]
    return "\n".join(
        [
            f"{shards} is ready",
            *lines,
            "look at it, and train on it, with",
            "  python -m vit_jax.data.check --config configs/CONFIG.py " + overrides,
            "  python -m vit_jax.train --config configs/CONFIG.py --workdir runs/NAME "
            + overrides,
        ]
    )


def _summary(builder: Any, args: argparse.Namespace) -> str:
    splits = builder.info.splits.values()
    return "\n".join(
        [
            f"{builder.info.full_name} is ready in {builder.data_path}",
            *(
                f"  {split.name}: {split.num_examples} examples, "
                f"{split.num_bytes / 2**20:.1f} MiB"
                for split in splits
            ),
            "train on it with",
            "  python -m vit_jax.train --config configs/CONFIG.py --workdir runs/"
            f"{builder.name} {_overrides(args.name, args.data_dir)}",
        ]
    )


if __name__ == "__main__":
    main()
