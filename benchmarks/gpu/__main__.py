"""All measurements on an NVIDIA card, in nine minutes.

    make gpu                         or    python3 -m benchmarks.gpu
    make gpu CIFAR=cifar10.zip RESULTS=folder
    make gpu DRY=1                   tiny sizes on the CPU, without a card

Needs Python alone: the first phase installs the rest. Each result is appended to
`results.jsonl` at once, and `results.md` shows all of them. Started again, it measures
the missing and failed ones. docs/gpu.md says how to read the results.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.jobs import Machine, all_jobs
from benchmarks.gpu.processes import Job, start
from benchmarks.gpu.report import TITLES, write_report
from benchmarks.gpu.results import Journal, Spec
from benchmarks.gpu.schedule import Launch, Schedule

ROOT = Path(__file__).parents[2]
# Results are valid for one state of this code.
MEASURED = ("vit_jax", "configs", "experiments", "benchmarks", "requirements.txt")
FORMAT = "--format=csv,noheader,nounits"
QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", FORMAT]


def find_card() -> tuple[str, str, float]:
    """Name, driver and memory in GiB of the first NVIDIA card.

    Raises:
        OSError: there is no card.
    """
    try:
        lines = subprocess.check_output(QUERY, text=True).splitlines()
        name, driver, mebibytes = (part.strip() for part in lines[0].split(","))
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError) as error:
        raise OSError(
            f"nvidia-smi shows no NVIDIA card ({error}); without one, try all of this "
            "with tiny sizes on the CPU: make gpu DRY=1"
        ) from None
    return name, driver, float(mebibytes) / 1024


def code_checksum() -> str:
    """A checksum of the measured code, which need not be committed."""
    digest = hashlib.sha256()
    for name in MEASURED:
        paths = [ROOT / name] if "." in name else sorted((ROOT / name).rglob("*.py"))
        for path in paths:
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit as text for the report; "" outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.check_output(
            command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def settings(work: Path, dry: bool) -> dict[str, str]:
    """The environment of all phases: one card, its memory shared, caches kept."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        # Without this, JAX would fall back to the CPU with only a warning.
        "JAX_PLATFORMS": "cpu" if dry else "cuda,cpu",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(work / "cache/jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "cache/inductor"),
        "TRITON_CACHE_DIR": str(work / "cache/triton"),
    }


def locked(path: Path) -> Any:
    """A lock that the system releases when the process ends, however it ends.

    Raises:
        OSError: another process holds it.
    """
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"another `make gpu` is at work: {path} is locked") from None
    return file


def measure(arguments: argparse.Namespace, until: float) -> int:
    """Runs all phases; returns how many rows failed or are missing.

    Raises:
        OSError: there is no card, or another `make gpu` is at work.
    """
    results, work = arguments.results.absolute(), arguments.work.absolute()
    card, driver, gib = ("CPU, dry run", "", 0.0) if arguments.dry else find_card()
    cifar = arguments.cifar.absolute() if arguments.cifar else None
    if cifar and not cifar.exists():
        raise FileNotFoundError(f"--cifar={cifar}: there is no such file or folder")
    for folder in (results, work):
        folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "card": card,
        "driver": driver,
        "gib": gib,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "commit": commit(),
    }
    machine = Machine(
        sys.executable, arguments.peers_python, work, driver, facts, str(cifar or "")
    )
    key = {"card": card, "code": code_checksum()}
    journal = Journal(str(results / "results.jsonl"), key)
    jobs = [
        job
        for job in all_jobs(machine)
        if not arguments.only or job.phase in ("install", *arguments.only.split(","))
    ]

    def report() -> None:
        write_report(results / "results.md", journal, jobs, facts)

    with locked(work / "lock"), (results / "log.txt").open("a") as log:
        schedule = Schedule(
            jobs,
            journal,
            launcher(machine, journal, log),
            parallel=arguments.parallel or max(1, min(4, facts["cpus"] // 4)),
            gib=0.92 * gib,
            until=until,
        )
        try:
            schedule.run(report)
        finally:
            schedule.stop("the command was ended")
            report()
    print(f"Results: {results / 'results.md'}")
    return sum(not journal.measured(row) for job in jobs for row in job.rows)


def launcher(machine: Machine, journal: Journal, log: IO[str]) -> Launch:
    """The function that starts the process of a job for some of its rows."""
    environment = settings(machine.work, machine.dry)

    def launch(job: Job, names: list[str]) -> subprocess.Popen:
        print(f"{job.phase}: {', '.join(names)}", flush=True)
        work = str(machine.work)
        spec = Spec(journal, job.phase, names, work, machine.dry, job.options)
        command = [*job.command, spec.text()]
        return start(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    return launch


def main() -> None:
    """The command; its exit code is 1 if anything failed or is missing."""
    started = time.monotonic()
    if sys.version_info < (3, 11):  # noqa: UP036  Whatever Python starts it.
        sys.exit(f"error: wanted Python 3.11 or later, found {sys.version.split()[0]}")
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--budget", type=float, default=540, help="seconds in all")
    parser.add_argument("--results", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--work", type=Path, default=Path(".venv-gpu"))
    parser.add_argument("--only", help="phases beside install, such as checks,speed")
    parser.add_argument("--cifar", type=Path, help="zip or folder of JPEG files")
    parser.add_argument("--parallel", type=int, help="processes that are not timed")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="one that has torch and timm"
    )
    arguments = parser.parse_args()
    unknown = set((arguments.only or "checks").split(",")) - set(TITLES)
    if unknown:
        parser.error(f"--only={arguments.only}: wanted some of {', '.join(TITLES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # The last seconds are for ending the processes, and for the report.
        failed = measure(arguments, started + arguments.budget - 8)
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        sys.exit(f"{failed} rows failed or are missing; the same command goes on")


if __name__ == "__main__":
    main()
