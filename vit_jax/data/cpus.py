"""How many CPUs this process may use, which can be far fewer than the machine has."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

# Raise them for a machine that stands more worker processes.
WORKERS_PER_CPU = 4
WORKER_MEMORY = 256 << 20  # bytes that a worker takes at least
# Set by srun: the tasks on each node of a step, such as "8(x2),4".
_SLURM_TASKS = "SLURM_STEP_TASKS_PER_NODE"


def usable_cpus(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> int:
    """CPUs that this process may keep busy; at least 1.

    The least of: its affinity (cpusets, `taskset`, `docker --cpuset-cpus`, SLURM's and
    Open MPI's binding); the quota of its cgroups, rounded up (`docker --cpus`, limits
    of Kubernetes, versions 1 and 2); its share of a node under srun and mpirun, where
    the tasks are not bound to CPUs of their own. Several processes that were started
    by hand on one machine do not know of each other: each counts all CPUs.

    Args:
        root: root of the file system, with `proc` and `sys`.
        environment: environment variables of the process.
    """
    allowed = _affinity()
    limits = [allowed, _share(allowed, environment)]
    limits += [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min(limits))


def check_workers(workers: int, root: Path = Path("/")) -> None:
    """Raises ValueError for more worker processes than CPUs or memory stand."""
    cpus = usable_cpus(root)
    if workers > WORKERS_PER_CPU * cpus:
        raise ValueError(
            f"data.workers={workers} is more than {WORKERS_PER_CPU} for each of the "
            f"{cpus} CPUs of this process: give at most {WORKERS_PER_CPU * cpus}"
        )
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"))
    if found and workers * WORKER_MEMORY > (free := int(found[1]) << 10):
        raise ValueError(
            f"data.workers={workers} needs {WORKER_MEMORY >> 20} MiB of memory for each"
            f", and {free >> 20:,} MiB are free: give at most {free // WORKER_MEMORY}"
        )


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13; heeds PYTHON_CPU_COUNT too
        return os.process_cpu_count() or 1  # pyright: ignore[reportAttributeAccessIssue]
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _share(allowed: int, environment: Mapping[str, str]) -> int:
    """This process's share of a node's CPUs, by the variables of its launcher."""
    if _SLURM_TASKS in environment:
        if own := _number(environment, "SLURM_CPUS_PER_TASK"):
            return own
        node = _number(environment, "SLURM_CPUS_ON_NODE") or os.cpu_count() or 1
        tasks = _tasks_of_node(environment)
    else:
        node = os.cpu_count() or 1
        tasks = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    # An affinity of less than the node is that of one task: nothing to divide.
    return allowed if allowed < node else node // tasks


def _tasks_of_node(environment: Mapping[str, str]) -> int:
    """Tasks on this node, by a list such as "8(x2),4": 8 on two nodes, 4 on a third."""
    counts: list[int] = []
    for part in environment[_SLURM_TASKS].split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return 1
        counts += [int(match[1])] * int(match[2] or 1)
    return max(1, counts[min(_number(environment, "SLURM_NODEID"), len(counts) - 1)])


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0


def _quotas(root: Path) -> Iterator[float]:
    """The limits of all cgroups that the process is in, in CPUs."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
            # Systems with both versions mount version 2 there.
            mount = mount / "unified" if (mount / "unified").is_dir() else mount
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            mount = mount if mount.is_dir() else root / "sys/fs/cgroup/cpu"
        else:
            continue
        # The enclosing groups limit the process too. In a container the path may be
        # the host's, of which only the end, or nothing, is mounted.
        group = Path(place.lstrip("/"))
        for part in (group, *group.parents):
            yield from _quota(mount / part)


def _quota(folder: Path) -> Iterator[float]:
    if text := _read(folder / "cpu.max"):
        quota, period = text.split()
        if quota != "max":
            yield int(quota) / int(period)
    if text := _read(folder / "cpu.cfs_quota_us"):
        period = _read(folder / "cpu.cfs_period_us")
        if int(text) > 0 and period:
            yield int(text) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
