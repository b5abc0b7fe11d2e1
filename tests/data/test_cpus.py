"""How many CPUs a process may use: affinity, quotas of cgroups, launchers."""

import os
import shutil
import subprocess
import sys

import pytest

from vit_jax.data import cpus, sources
from vit_jax.data.pipeline import Data

V1 = {"cpu.cfs_quota_us": "{quota}", "cpu.cfs_period_us": "{period}"}
V2 = {"cpu.max": "{quota} {period}"}


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight CPUs, all of them allowed."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cpus, "_affinity", lambda: 8)


def group(folder, files, quota, period=100_000):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text.format(quota=quota, period=period) + "\n")


def cpus_of(root, lines=None, **environment):
    if lines:
        path = root / "proc/self/cgroup"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))
    return cpus.usable_cpus(root, environment)


@pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset")
def test_a_process_that_is_bound_to_one_cpu_uses_one():
    code = "from vit_jax.data.cpus import usable_cpus; print(usable_cpus())"
    first = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "-c", first, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert cpus.usable_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("mount", "files", "line"),
    [
        ("", V2, "0::/kubepods/pod7/box"),
        ("unified", V2, "0::/kubepods/pod7/box"),
        ("cpu,cpuacct", V1, "4:cpu,cpuacct:/kubepods/pod7/box"),
        ("cpu", V1, "4:cpuacct,cpu:/kubepods/pod7/box"),
    ],
)
def test_quotas_of_cgroups_hold_for_all_below_them(tmp_path, mount, files, line):
    top = tmp_path / "sys/fs/cgroup" / mount
    box = top / "kubepods/pod7/box"
    box.mkdir(parents=True)
    lines = ["12:memory:/elsewhere", line]
    assert cpus_of(tmp_path, lines) == 8
    group(box.parent, files, 250_000)
    assert cpus_of(tmp_path, lines) == 3  # two and a half
    group(box, files, 50_000)
    assert cpus_of(tmp_path, lines) == 1
    group(box, files, "max" if files is V2 else -1)
    assert cpus_of(tmp_path, lines) == 3
    group(box, files, 100_000, period=50_000)
    assert cpus_of(tmp_path, lines) == 2


@pytest.mark.usefixtures("eight")
def test_the_path_of_the_host_is_not_there_in_a_container(tmp_path):
    group(tmp_path / "sys/fs/cgroup/cpu", V1, 300_000)
    assert cpus_of(tmp_path, ["1:cpu:/docker/0123"]) == 3


@pytest.mark.usefixtures("eight")
def test_a_system_without_cgroups(tmp_path):
    assert cpus_of(tmp_path) == 8


@pytest.mark.usefixtures("eight")
def test_tasks_of_srun_share_a_node_unless_they_are_bound(tmp_path, monkeypatch):
    step = {"SLURM_STEP_TASKS_PER_NODE": "2(x2),4", "SLURM_CPUS_ON_NODE": "8"}
    shares = [cpus_of(tmp_path, SLURM_NODEID=str(n), **step) for n in range(3)]
    assert shares == [4, 4, 2]
    assert cpus_of(tmp_path, SLURM_CPUS_PER_TASK="3", **step) == 3
    # In the batch script itself, which is no task of a step.
    assert cpus_of(tmp_path, SLURM_CPUS_PER_TASK="3", SLURM_CPUS_ON_NODE="8") == 8
    assert cpus_of(tmp_path, **(step | {"SLURM_STEP_TASKS_PER_NODE": "many"})) == 8
    monkeypatch.setattr(cpus, "_affinity", lambda: 3)
    assert cpus_of(tmp_path, SLURM_NODEID="2", **step) == 3
    assert cpus_of(tmp_path, SLURM_CPUS_PER_TASK="6", **step) == 3


@pytest.mark.usefixtures("eight")
def test_tasks_of_mpirun_share_a_machine_unless_they_are_bound(tmp_path, monkeypatch):
    assert cpus_of(tmp_path, OMPI_COMM_WORLD_LOCAL_SIZE="4") == 2
    assert cpus_of(tmp_path, OMPI_COMM_WORLD_LOCAL_SIZE="16") == 1
    monkeypatch.setattr(cpus, "_affinity", lambda: 1)
    assert cpus_of(tmp_path, OMPI_COMM_WORLD_LOCAL_SIZE="4") == 1


def test_threads_that_read_are_so_many(monkeypatch):
    monkeypatch.setattr("vit_jax.data.pipeline.usable_cpus", lambda: 5)
    data = Data(name="digits", batch_size=8, image_size=(80, 80))
    reading = data._reading(data.source("train"), workers=0)
    assert reading["num_threads"] == 5
    assert data._reading(data.source("train"), workers=2)["workers"] == 2


def test_threads_that_fill_the_cache_are_so_many(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (130, 130)).save(tmp_path / "train" / name / "0.png")
    asked = []
    monkeypatch.setattr(sources, "usable_cpus", lambda: asked.append(1) or 3)
    monkeypatch.setattr(
        sources, "CachedSource", lambda _, threads: asked.append(threads)
    )
    sources.make_source(str(tmp_path), "train")
    assert asked == [1, 3]
