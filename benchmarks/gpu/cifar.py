"""Phase 5: CIFAR-10 from scratch by configs/cifar.py, for the remaining time.

The data is a zip file with `train/class/*.jpg` and `test/class/*.jpg`, or such a
folder. Stopped at the deadline, the training is resumed by the next start.
"""

import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import start
from benchmarks.gpu.results import Spec, run_phase
from vit_jax.storage.run_files import read_metrics

ROOT = Path(__file__).parents[2]


def image_folder(given: Path, work: Path) -> Path:
    """The folder of images; a zip file is unpacked, once.

    Raises:
        FileNotFoundError: it holds no train/ and test/.
    """
    folder = given
    if given.is_file():
        stat = given.stat()
        folder = work / f"images-{stat.st_size}-{stat.st_mtime_ns}"
        if not folder.exists():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            with zipfile.ZipFile(given) as archive:
                archive.extractall(partial)
            partial.rename(folder)
    for candidate in (folder, *folder.iterdir()):
        if all((candidate / split).is_dir() for split in ("train", "test")):
            return candidate
    raise FileNotFoundError(f"{given} holds no train/class/*.jpg and test/class/*.jpg")


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The metrics of the test split that a run has written."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [row for row in rows if row["split"].startswith("test")]


def train(spec: Spec, _: str, values: dict[str, Any]) -> None:
    """Trains, and writes a row for each evaluation at once.

    Raises:
        RuntimeError: the training failed or was stopped.
        OSError: the images are missing.
    """
    images = image_folder(Path(spec.options["images"]), Path(spec.work))
    folder = Path(spec.work) / "cifar"
    size, duration = spec.options["size"], spec.options["duration"]
    command = [sys.executable, "-m", "vit_jax.train", "--workdir", str(folder)]
    command += ["--config", f"configs/cifar.py:size={size}"]
    command += [f"--config.data.name={images}", f"--config.train.duration={duration}"]
    command += spec.options["overrides"]
    # A signal to the group reaches the training, which saves and ends meanwhile.
    signal.signal(signal.SIGTERM, lambda *_: None)
    begun, written = time.monotonic(), len(evaluations(folder))
    process = start(command, own_group=False, cwd=ROOT)
    code = None
    while code is None:
        time.sleep(0.2)
        code = process.poll()
        rows = evaluations(folder)
        for row in rows[written:]:
            seconds = time.monotonic() - begun
            name = f"{row['split']} at step {row['step']}"
            spec.journal.write(spec.phase, name, row, seconds)
        written = len(rows)
        if rows:
            values |= rows[-1]
    if code:
        raise RuntimeError(f"the training ended with exit code {code}; see the log")


if __name__ == "__main__":
    run_phase(train)
