"""Tries every reader of foreign bytes for a share of some minutes; prints a table.

    PYTHONPATH=tests python -m fuzz --minutes 60

Each reader has a process of its own, so that a crash or a hang is found too. What was
found is in the folder of `--out`, as small as it could be made; exits with code 1 if
there is anything. Errors of one kind that arise in one place are one finding.
"""

import argparse
import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from fuzz.reader import HANGS, Finding, Reader, run
from fuzz.readers import READERS

ROUND = 200  # examples, after which the clock is looked at
MOST_MEMORY = 8 << 30  # of a process, so that no reader harms the machine


def place_of(error: BaseException) -> str:
    """The kind of an error, and the last line of the library that it came through."""
    kind = type(error).__name__
    if isinstance(error, Finding) and error.__context__ is not None:
        error, kind = error.__context__, f"bad {type(error.__context__).__name__}"
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.name != run.__name__]
    library = [
        frame for frame in frames if f"{os.sep}vit_jax{os.sep}" in frame.filename
    ]
    checks = [frame for frame in frames if Path(frame.filename).name != "reader.py"]
    frame = (library or checks or frames)[-1]
    return f"{kind} at {Path(frame.filename).name}:{frame.lineno}"


class Worker:
    """The trying of one reader, in the process of its own."""

    def __init__(self, reader: Reader, out: Path) -> None:
        self.reader, self.out = reader, out
        self.cases = reader.cases()
        self.examples, self.known = 0, set[str]()

    def work(self, seconds: float) -> None:
        limit = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, limit))
        end = time.monotonic() + seconds
        with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
            while time.monotonic() < end:
                self.round(Path(folder), end)
                (self.out / "count").write_text(str(self.examples))

    def round(self, folder: Path, end: float) -> None:
        """Tries some examples; one that fails is made small, and kept."""
        smallest: dict[str, tuple[object, BaseException]] = {}

        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(self.cases)
        def holds(case: object) -> None:
            self.examples += 1
            if time.monotonic() > end + HANGS:
                return  # the time is over, though a case is still being made smaller
            (self.out / "last").write_text(repr(case), errors="backslashreplace")
            try:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    run(self.reader, case, Path(place))
            except Exception as error:
                if (where := place_of(error)) not in self.known:
                    smallest[where] = case, error
                    raise

        try:
            holds()
        except BaseException as error:
            if not smallest:
                raise
            del error
        for where, (case, error) in smallest.items():
            self.known.add(where)
            self.keep(where, case, error)

    def keep(self, where: str, case: object, error: BaseException) -> None:
        name = hashlib.sha256(where.encode()).hexdigest()[:8]
        text = "".join(traceback.format_exception(error))
        content = f"{where}\n\n{case!r}\n\n{text}"
        (self.out / f"{name}.txt").write_text(content, errors="backslashreplace")


def memory_folder() -> str | None:
    """A folder in memory, where there is one: disks would be most of the time."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def try_reader(name: str, seconds: float, out: Path) -> tuple[int, list[str]]:
    """The examples of a reader, and what was found."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz", f"--reader={name}", "--out", str(out)]
    command += ["--minutes", str(seconds / 60)]
    ended = ""
    with (out / "log").open("w") as log:
        try:
            done = subprocess.run(
                command, stdout=log, stderr=log, timeout=seconds + 3 * HANGS
            )
            if done.returncode:
                ended = f"the process ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = "the process did not end"
    if ended:
        last = (out / "last").read_text() if (out / "last").exists() else ""
        (out / "ended.txt").write_text(f"{ended}\n\n{last}")
    count = out / "count"
    found = sorted(path.read_text().split("\n")[0] for path in out.glob("*.txt"))
    return int(count.read_text()) if count.exists() else 0, found


def main(parser: argparse.ArgumentParser) -> None:
    arguments = parser.parse_args()
    out = Path(arguments.out or tempfile.mkdtemp(prefix="fuzz-"))
    if arguments.reader:
        Worker(READERS[arguments.reader], out).work(60 * arguments.minutes)
        return
    names = [name for name in READERS if arguments.only in name]
    if not names:
        parser.error(f"--only {arguments.only}: wanted a part of {', '.join(READERS)}")
    share = 60 * arguments.minutes / len(names)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{'reader':<28}{'examples':>10}{'minutes':>9}  findings", flush=True)
    total, kinds = 0, Counter[str]()
    for name in names:
        start = time.monotonic()
        place = out / re.sub(r"\W+", "-", name).strip("-")
        count, found = try_reader(name, share, place)
        minutes = (time.monotonic() - start) / 60
        total, kinds = total + count, kinds + Counter(found)
        print(f"{name:<28}{count:>10,}{minutes:>9.1f}  {len(found)}", flush=True)
        print("".join(f"    {text}\n" for text in found), end="", flush=True)
    print(f"{len(names)} readers, {total:,} examples, {len(kinds)} findings: {out}")
    sys.exit(bool(kinds))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="for all readers")
    parser.add_argument("--only", default="", help="readers with this in their name")
    parser.add_argument("--out", help="folder of what is found")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(make_parser())
