"""The same numbers on any devices, mesh and number of processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from parallel_worker import run

from vit_jax.interop.trained import load_trained
from vit_jax.models import init_params
from vit_jax.storage.run_files import read_metrics
from vit_jax.training.step import named_keys

STEPS = 20
# Everything that is random is on: RandAugment, CutMix, dropout, stochastic depth.
TINY = (
    *("model.depth=2", "model.width=64", "model.mlp_dim=128", "model.num_heads=4"),
    *("model.dropout_rate=0.1", "model.stochastic_depth_rate=0.1"),
    *("data.batch_size=32", "data.randaug_layers=1", "mix.cutmix_alpha=1"),
    *(f"train.duration={STEPS}steps", "optim.warmup=2steps", "train.ema_decay=0.9"),
    *("eval.every=100%", "eval.batch_size=64", "checkpoint.every=100%"),
    *("log.every=1steps", "log.tensorboard=false"),
)
OPTIMIZERS = {
    "sgd": ("optim.name=sgd", "optim.learning_rate=0.05"),
    "adamw": ("optim.learning_rate=0.0005",),
}
MESHES = {
    "data": (8, 1, 1),
    "fsdp": (1, 8, 1),
    "tensor": (4, 1, 2),
    "data_fsdp": (2, 4, 1),
    "all": (2, 2, 2),
}
# Of Adam, whose division amplifies rounding where gradients are near zero.
TOLERANCE = {"sgd": 1e-6, "adamw": 1e-4}


def job(workdir: Path, optimizer: str, *overrides: str, stop_at: int = 0) -> dict:
    overrides = [*TINY, *OPTIMIZERS[optimizer], *overrides]
    return {"workdir": str(workdir), "overrides": overrides, "stop_at": stop_at}


def mesh_overrides(mesh: tuple[int, int, int]) -> list[str]:
    names = ("data", "fsdp", "tensor")
    return [f"mesh.{n}={size}" for n, size in zip(names, mesh, strict=True)]


def launch(
    folder: Path,
    jobs: list[dict],
    *,
    devices: int,
    processes: int = 1,
    nodes: bool = False,
) -> None:
    """Runs the jobs one after the other in `processes` of `devices` devices each.

    Args:
        nodes: each process is one of a machine of its own, as XLA sees it.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"jobs-{devices}-{processes}.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, str(Path(__file__).parent / "parallel_worker.py"), path]
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()}
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += [f"--coordinator=127.0.0.1:{port}", f"--num-processes={processes}"]
    running = [
        subprocess.Popen(
            [
                *(as_on_another_machine(folder, i) if nodes else []),
                *command,
                *([f"--process-id={i}"] if processes > 1 else []),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output


def as_on_another_machine(folder: Path, number: int) -> list[str]:
    """What to write before a command, so that it finds another boot id.

    By that id XLA tells machines apart: devices of each are a slice.
    """
    path = folder / f"boot_id_{number}"
    path.write_text(f"{number:08}-0000-4000-8000-000000000000\n")
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(path)]


def losses(workdir: Path) -> dict[int, float]:
    rows = read_metrics(workdir / "metrics.jsonl")
    return {row["step"]: row["loss"] for row in rows if row["split"] == "train"}


def facts(workdir: Path) -> dict:
    return json.loads((workdir / "facts.json").read_text())


def assert_same_run(
    workdir: Path, reference: Path, optimizer: str, stops: int = 0
) -> None:
    found, wanted = losses(workdir), losses(reference)
    # The last two steps before each stop are not written.
    assert len(found) >= STEPS - 3 * (1 + stops)
    for step, loss in found.items():
        assert abs(loss - wanted[step]) < 1e-5
    for ema in (False, True):
        ours, theirs = (
            load_trained(path, ema=ema).params for path in (workdir, reference)
        )
        for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            np.testing.assert_allclose(a, b, atol=TOLERANCE[optimizer], rtol=0)
    results, expected = (facts(path)["results"] for path in (workdir, reference))
    for split in ("test", "test_ema"):
        assert results[split]["count"] == expected[split]["count"] == 359
        # An example at the boundary may fall to the other side.
        assert abs(results[split]["accuracy"] - expected[split]["accuracy"]) < 0.005
        assert abs(results[split]["loss"] - expected[split]["loss"]) < 1e-4


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> Path:
    """The runs on one device."""
    folder = tmp_path_factory.mktemp("one_device")
    for name in OPTIMIZERS:
        (folder / name).mkdir()
        run(**job(folder / name, name))
    start = init_params(load_trained(folder / "sgd").model, named_keys(0).params)
    for name in OPTIMIZERS:
        end = load_trained(folder / name).params
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start, end)
        assert moved["encoder"]["block_00"]["mlp"]["hidden"]["kernel"] > 1e-3
    return folder


# With SGD, the sharper test, all of them; with Adam the two that divide most.
SOME = (("all", "sgd"), ("fsdp", "adamw"))
OTHERS = *((mesh, "sgd") for mesh in MESHES if mesh != "all"), ("all", "adamw")


@pytest.mark.parametrize("runs", [SOME, pytest.param(OTHERS, marks=pytest.mark.full)])
def test_meshes_of_eight_devices(references, tmp_path, runs):
    jobs = [
        job(tmp_path / f"{mesh}-{name}", name, *mesh_overrides(MESHES[mesh]))
        for mesh, name in runs
    ]
    launch(tmp_path, jobs, devices=8)
    share = {}
    for mesh, name in runs:
        run = tmp_path / f"{mesh}-{name}"
        assert_same_run(run, references / name, name)
        held, whole = facts(run), facts(references / name)
        for part in ("params", "opt_state"):
            share[mesh, name, part] = held[part] / whole[part]
    # An eighth of what is large enough to be divided.
    most = {"data": 1, "fsdp": 0.22, "tensor": 0.6, "data_fsdp": 0.35, "all": 0.4}
    for (mesh, _, _), found in share.items():
        assert most[mesh] / 2 < found <= most[mesh]


@pytest.mark.full
@pytest.mark.parametrize("what", ["muon", "distillation"])
def test_other_runs_on_eight_devices(tmp_path, digits_run, what):
    """Muon's matrices are divided, and a teacher's parameters."""
    options = {
        "muon": ["optim.name=muon", "optim.momentum=0.95"],
        "distillation": [
            "objective.name=distillation",
            f"objective.teacher={digits_run}",
            "objective.distillation=soft",
            "model.pooling=token",
            "model.distillation_token=true",
        ],
    }[what]
    alone, divided = tmp_path / "alone", tmp_path / "divided"
    alone.mkdir()
    run(**job(alone, "adamw", *options))
    mesh = mesh_overrides(MESHES["all"])
    launch(tmp_path, [job(divided, "adamw", *options, *mesh)], devices=8)
    assert_same_run(divided, alone, "adamw")
    held, whole = facts(divided), facts(alone)
    assert held["opt_state"] < 0.4 * whole["opt_state"]
    assert held["teacher"] <= 0.7 * whole["teacher"]  # by `tensor` alone, so small
    assert (whole["teacher"] > 0) == (what == "distillation")


@pytest.mark.full
@pytest.mark.parametrize("processes", [2, 4])
def test_real_processes(references, tmp_path, processes):
    """Two or four, of four devices in all; fsdp and tensor cross processes too."""
    meshes = {2: ((4, 1, 1), (1, 2, 2)), 4: ((1, 4, 1), (2, 1, 2))}[processes]
    runs = dict(zip(OPTIMIZERS, meshes, strict=True))
    jobs = [
        job(tmp_path / optimizer, optimizer, *mesh_overrides(mesh))
        for optimizer, mesh in runs.items()
    ]
    launch(tmp_path, jobs, devices=4 // processes, processes=processes)
    for optimizer in OPTIMIZERS:
        assert_same_run(tmp_path / optimizer, references / optimizer, optimizer)


@pytest.mark.full
def test_two_machines(references, tmp_path):
    """A slice each: data between them, fsdp or tensor within, and fsdp across."""
    probe = [*as_on_another_machine(tmp_path, 0), "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a file can be mounted over the boot id by root only")
    runs = {
        "data": ("sgd", (-1, 1, 1)),
        "data_fsdp": ("adamw", (2, 2, 1)),
        "data_tensor": ("sgd", (2, 1, 2)),
        "fsdp": ("adamw", (1, 4, 1)),
    }
    jobs = [
        job(tmp_path / name, optimizer, *mesh_overrides(mesh))
        for name, (optimizer, mesh) in runs.items()
    ]
    launch(tmp_path, jobs, devices=2, processes=2, nodes=True)
    for name, (optimizer, _) in runs.items():
        assert facts(tmp_path / name)["slices"] == 2
        assert_same_run(tmp_path / name, references / optimizer, optimizer)


# Where a run stops, devices a process, processes, mesh, and what else is changed.
STAGES = (
    (5, 8, 1, (1, 8, 1), ()),
    (9, 4, 1, (2, 2, 1), ()),
    (13, 2, 2, (1, 2, 2), ()),
    (17, 1, 1, (1, 1, 1), ("model.remat=full",)),
    (0, 8, 1, (8, 1, 1), ()),
)


@pytest.mark.full
def test_a_run_moves_between_devices_processes_and_layouts(references, tmp_path):
    """One run, no example lost or twice."""
    run = tmp_path / "run"
    for stop_at, devices, processes, mesh, overrides in STAGES:
        overrides = [*mesh_overrides(mesh), *overrides]
        stage = job(run, "adamw", *overrides, stop_at=stop_at)
        launch(tmp_path, [stage], devices=devices, processes=processes)
        if stop_at:
            assert "SIGTERM at step" in facts(run)["stopped"]
    assert_same_run(run, references / "adamw", "adamw", stops=len(STAGES) - 1)
