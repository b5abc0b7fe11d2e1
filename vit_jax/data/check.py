"""Looks at the data of a config before a run is paid for.

    python -m vit_jax.data.check --config configs/imagenet.py:ViT-B/16 [--picture b.png]

Opens every split that the config names, those of its evaluators too, decodes a sample
of each, measures the input pipeline of this host, and exits with 1 if something is
wrong. Data in a bucket is copied to `data.stage` by that. No accelerator is touched.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import os
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import ml_collections
import numpy as np

from vit_jax.cli import add_config_arguments, command_parser, run_command
from vit_jax.config import EVALUATORS, check_config
from vit_jax.config_file import read_config
from vit_jax.data.decode import ImageError
from vit_jax.data.listing import describe_left_out
from vit_jax.data.pipeline import Data
from vit_jax.data.source_types import CachedSource, Source, label_numbers, read_many
from vit_jax.evaluation.features import own_data
from vit_jax.figures.tiles import image_tiles
from vit_jax.flags import Positive, flag
from vit_jax.storage import output
from vit_jax.storage.output import printable
from vit_jax.training.sections import config_sections
from vit_jax.values import Range

SHOWN = 5  # classes, broken records
TILES = 32
BATCH = 256  # images at a time, where the rate is measured
CHUNK = 32
Seconds = Annotated[float, Range(0, 3600)]


def splits_of(
    config: ml_collections.ConfigDict, data: Data
) -> Iterator[tuple[str, Data, str]]:
    """(what it is for, data, split) of each split that a config names, once each."""
    yield "train", data, data.split
    for split in dict.fromkeys(config.eval.splits):
        yield "eval", data, split
    for key in ("train_split", "dev_split"):
        if config.sweep[key]:
            yield "sweep", data, config.sweep[key]
    for name in EVALUATORS:
        if config[name].every:
            keys = ("name", "classes", "data_dir", "crop")
            options = {key: config[name][key] for key in keys}
            own = own_data(data, split=config[name].train_split, **options)
            yield name, own, config[name].train_split
            yield name, own, config[name].test_split


@dataclasses.dataclass
class Sample:
    """What a sample of a split's records is like.

    Attributes:
        count: records that were read.
        broken: messages of the records that cannot be used.
        sizes: (height, width) in pixels of the usable records.
        labels: labels of the usable records.
    """

    count: int
    broken: list[str]
    sizes: list[tuple[int, int]]
    labels: set[int]


def read_sample(source: Source, count: int) -> Sample:
    """Reads and decodes records that are evenly spread over a split."""
    places = np.unique(
        np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    ).tolist()
    chunks = [places[i : i + CHUNK] for i in range(0, len(places), CHUNK)]
    sample = Sample(len(places), [], [], set())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for records in pool.map(functools.partial(read_many, source), chunks):
            for record in records:
                if isinstance(record, ImageError):
                    sample.broken.append(str(record))
                else:
                    sample.sizes.append(record["image"].shape[:2])
                    sample.labels.update(label_numbers(record["label"]))
    return sample


def report_split(title: str, data: Data, split: str, count: int) -> list[str]:
    """Opens a split, reads a sample, prints what was found; returns what is wrong."""
    start = time.perf_counter()
    try:
        source = data.source(split)
    except (ValueError, OSError, ImportError) as error:
        print(f"{title:8}{split}: cannot be opened")
        return [str(error)]
    seconds = time.perf_counter() - start
    names = source.label_names
    first = ", ".join(map(printable, names[:SHOWN]))
    first += ", ..." if len(names) > SHOWN else ""
    print(f"{title:8}{split} of {data.name}: {len(source):,} images")
    print(f"        opened in {seconds:.1f} s; {len(names):,} classes: {first}")
    for counts in filter(None, getattr(source, "left_out", {}).values()):
        print(f"        {describe_left_out(counts)}")
    sample = read_sample(source, count)
    if sample.sizes:
        height, width = np.median(sample.sizes, axis=0)
        print(
            f"        {sample.count} records read: {len(sample.labels):,} classes, "
            f"{height:.0f} x {width:.0f} pixels (median), {len(sample.broken)} broken"
        )
    if isinstance(source, CachedSource) and sample.sizes:
        each = np.mean([3 * height * width for height, width in sample.sizes])
        size = each * len(source) / 2**20
        print(f"        kept in memory, decoded: some {size:,.0f} MiB (data.cache)")
    for message in sample.broken[:SHOWN]:
        print(f"        {message}")
    return judge(data, len(source), sample)


def judge(data: Data, total: int, sample: Sample) -> list[str]:
    """The reasons why this sample would stop the training; empty if there are none."""
    broken = len(sample.broken)
    if not broken:
        return []
    cause = f"{broken} of {sample.count} records are broken, such as {sample.broken[0]}"
    if data.on_error == "raise":
        return [f'{cause}; mend or remove them, or set data.on_error="skip"']
    expected = round(broken / sample.count * total)
    if expected > data.max_errors:
        return [
            f"{cause}; of all {total:,} that is some {expected:,}, more than "
            f"data.max_errors={data.max_errors} allows"
        ]
    return []


class Speed(NamedTuple):
    """Speed and memory of the training's input pipeline on this host.

    Attributes:
        rate: images/s.
        per_cpu: images per second of CPU time of this process, which other programs
            on the host hardly change.
        workers: memory of each worker process in MiB.
    """

    rate: float
    per_cpu: float
    workers: list[float]


def measure(data: Data, seed: int, seconds: float) -> Speed:
    """Takes batches as fast as they come, for `seconds`."""
    size = min(BATCH, data.batch_size)
    data = dataclasses.replace(data, batch_size=size)
    with data.train_batches(seed=seed) as batches:
        # The batches that were read ahead before the clock starts.
        for _ in range(3):
            next(batches)
        count, start, cpu = 0, time.perf_counter(), time.process_time()
        while count < 2 or time.perf_counter() - start < seconds:
            next(batches)
            count += 1
        images = count * size
        rate = images / (time.perf_counter() - start)
        per_cpu = images / (time.process_time() - cpu)
        workers = [mebibytes(child.pid) for child in active_children() if child.pid]
        return Speed(rate, per_cpu, workers)


def mebibytes(process: int | str = "self") -> float:
    """Memory of a process; what several of them share is divided among them."""
    with open(f"/proc/{process}/smaps_rollup") as file:
        (size,) = (line.split()[1] for line in file if line.startswith("Pss:"))
    return int(size) / 2**10


def report_speed(data: Data, seed: int, seconds: float) -> None:
    """Prints the rate with threads and with worker processes, and the memory."""
    cores = len(os.sched_getaffinity(0))
    height, width = data.image_size
    print(f"input at {height} x {width} on {cores} CPUs, crop {data.crop}:")
    for workers in (0, data.workers or cores):
        speed = measure(dataclasses.replace(data, workers=workers), seed, seconds)
        name = f"{workers} worker processes" if workers else "threads"
        more = f"{speed.per_cpu:,.0f} for a second of one CPU"
        if workers:
            more = f"{max(speed.workers):,.0f} MiB each"
        print(f"  {name:20} {speed.rate:8,.0f} images/s, {more}")
    waiting = 2 * data.batch_size * height * width * 3 / 2**20
    print(
        f"  memory of this process {mebibytes():,.0f} MiB; two waiting batches take "
        f"{waiting:,.0f} MiB over all hosts"
    )


def draw(data: Data, seed: int, path: Path) -> None:
    """Draws the first images that the training will get."""
    size = min(TILES, data.batch_size)
    with dataclasses.replace(data, batch_size=size, workers=0).train_batches(
        seed=seed
    ) as batches:
        batch = next(batches)
    known = data.label_names()
    names = [
        ", ".join(known[number] for number in label_numbers(label)) or "of no class"
        for label in batch["label"]
    ]
    print(f"{image_tiles(batch['image'], names, path)}: the first {size} images")


def main(arguments: argparse.Namespace) -> None:
    """Checks, prints, and raises ValueError if something is wrong."""
    # Set before anything asks for devices: those of this host may be in use.
    jax.config.update("jax_platforms", "cpu")
    config = read_config(arguments.config, arguments.overrides)
    check_config(config, config_sections())
    data = Data(**config.data)
    if arguments.picture:
        output.check(Path(arguments.picture), [data.name])
    wrong = []
    for title, own, split in splits_of(config, data):
        wrong += report_split(title, own, split, arguments.sample)
    try:
        data.check_splits(())
        tolerant = dataclasses.replace(data, on_error="skip", max_errors=1 << 30)
        if arguments.seconds:
            report_speed(tolerant, config.seed, arguments.seconds)
        if arguments.picture:
            draw(tolerant, config.seed, Path(arguments.picture))
    except (ValueError, OSError, ImportError) as error:
        if str(error) not in wrong:
            wrong.append(str(error))
    if data.stage:
        print(f"{data.stage}: {folder_bytes(Path(data.stage)) / 2**30:.2f} GiB staged")
    if wrong:
        raise ValueError("\nerror: ".join(wrong))
    print("nothing wrong was found")


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("vit_jax.data.check", __doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--seconds",
        type=flag(Seconds),
        default=5.0,
        help="for each measured rate (5); 0 measures none",
    )
    parser.add_argument(
        "--sample",
        type=flag(Positive),
        default=512,
        help="records read of each split (512)",
    )
    parser.add_argument("--picture", help="file.png for the first training images")
    return parser


if __name__ == "__main__":
    run_command(_parser(), main)
