"""`make gpu` without a card: rows, order, kills, hangs, restarts; a whole dry run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import checks, install, speed, vit
from benchmarks.gpu.__main__ import locked
from benchmarks.gpu.jobs import MODELS, Machine, all_jobs
from benchmarks.gpu.processes import Job, start
from benchmarks.gpu.report import TITLES, write_report
from benchmarks.gpu.results import Journal, Spec
from benchmarks.gpu.schedule import Schedule
from vit_jax.config import check_config
from vit_jax.training.sections import config_sections

KEY = {"card": "none", "code": "1"}
FACTS = {"card": "none", "driver": "", "python": "3", "cpus": 2, "commit": ""}
HEAD = """
import os, signal, subprocess, sys, time
from benchmarks.gpu.results import Spec
spec = Spec.parse(sys.argv[1])
"""
WRITES = "for name in spec.names:\n with spec.row(name) as values: values['x'] = 1\n"


def job(name: str, code: str, seconds: float = 20, **options) -> Job:
    command = (sys.executable, "-c", HEAD + code)
    return Job("phase", (name,), command, seconds, **options)


def run(folder: Path, *jobs: Job, parallel: int = 3, seconds: float = 60) -> Journal:
    journal = Journal(str(folder / "results.jsonl"), KEY)

    def launch(one, names):
        spec = Spec(journal, one.phase, names, str(folder), True, one.options)
        environment = os.environ | {"PYTHONPATH": "."}
        return start([*one.command, spec.text()], env=environment)

    until = time.monotonic() + seconds
    Schedule(jobs, journal, launch, parallel=parallel, gib=10, until=until).run(
        lambda: write_report(folder / "results.md", journal, jobs, FACTS)
    )
    write_report(folder / "results.md", journal, jobs, FACTS)
    return journal


def errors(journal: Journal) -> dict[str, str]:
    return {name: row["error"] for (_, name), row in journal.rows().items()}


def test_a_phase_that_fails_is_killed_or_hangs_does_not_hurt_the_rest(tmp_path):
    later = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    child = f"subprocess.Popen([sys.executable, '-c', {later!r}])\n"
    journal = run(
        tmp_path,
        job("killed", "os.kill(os.getpid(), signal.SIGKILL)"),
        job("hangs", child + "time.sleep(60)", seconds=1.5),
        job("raises", "with spec.row('raises'): raise ValueError('no such thing')"),
        job("exits", "sys.exit(3)"),
        job("works", WRITES),
        job("lacks", WRITES, needs=(("phase", "exits"),)),
        job("waits", WRITES, after=(("phase", "exits"),)),
    )
    assert errors(journal) == {
        "killed": "killed by SIGKILL; see the log",
        "hangs": "killed at its limit of 2 s",
        "raises": "ValueError: no such thing",
        "exits": "ended with exit code 3; see the log",
        "works": "",
        "lacks": "not started, since phase exits failed",
        "waits": "",
    }
    time.sleep(2)
    assert not (tmp_path / "late").exists()  # What it had started was ended too.
    report = (tmp_path / "results.md").read_text()
    assert "2 of 7 measured" in report
    assert "- failed: phase exits: ended with exit code 3" in report


def test_a_second_start_measures_what_is_missing_or_failed(tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write(spec.names[0] + ' ')\n"
    flaky = f"if not os.path.exists({str(tmp_path / 'count')!r}): sys.exit(1)\n"
    jobs = [job("flaky", flaky + count + WRITES), job("fine", count + WRITES)]
    assert errors(run(tmp_path, *jobs, parallel=1))["flaky"]
    assert not any(errors(run(tmp_path, *jobs, parallel=1)).values())
    assert (tmp_path / "count").read_text() == "fine flaky "
    # A file made on another machine does not exist here, and is made again.
    proven = job("fine", count + WRITES, proof=str(tmp_path / "installed"))
    run(tmp_path, proven)
    assert (tmp_path / "count").read_text() == "fine flaky fine "


def test_what_is_timed_runs_alone_and_in_order(tmp_path):
    log = str(tmp_path / "log")
    code = (
        f"""
name = spec.names[0]
open({log!r}, 'a').write(f'+{{name}} ')
time.sleep(0.5)
open({log!r}, 'a').write(f'-{{name}} ')
"""
        + WRITES
    )
    run(
        tmp_path,
        job("a", code, gib=6),
        job("big", code, gib=6),
        job("timed", code, alone=True),
        job("b", code),
    )
    order = "+a -a +big -big +timed -timed +b -b "
    assert (tmp_path / "log").read_text() == order


def test_the_time_is_kept(tmp_path):
    begun = time.monotonic()
    journal = run(
        tmp_path,
        job("long", "time.sleep(60)", least=1),
        job("no time", WRITES, least=50),
        seconds=2,
    )
    assert time.monotonic() - begun < 15
    assert errors(journal) == {"long": "the time was over"}
    assert "- not reached: phase no time" in (tmp_path / "results.md").read_text()


def test_rows_survive_a_torn_line_and_other_code(tmp_path):
    journal = Journal(str(tmp_path / "results.jsonl"), KEY)
    journal.write("phase", "a", {}, 1.0, "failed at first")
    Journal(journal.path, KEY | {"code": "2"}).write("phase", "b", {}, 1.0)
    with open(journal.path, "a") as file:
        file.write('{"phase": "phase", "name": "torn", "ok": tr')
    journal.write("phase", "a", {"x": 1}, 1.0)
    assert errors(journal) == {"a": ""}
    assert len(Path(journal.path).read_text().splitlines()) == 4


def command(folder: Path, *options: str) -> list[str]:
    line = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--work"]
    return [*line, str(folder / "work"), "--results", str(folder / "out"), *options]


def processes_of(folder: Path) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended.
        if str(folder) in words and "benchmarks.gpu" in words:
            commands.append(words)
    return commands


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_is_ended_and_started_again(tmp_path, number):
    only = ("--only", "install")
    process = subprocess.Popen(command(tmp_path, *only), stdout=subprocess.DEVNULL)
    while not any(tmp_path.glob("work/ours/pyvenv.cfg")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.wait()
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(tmp_path)
    assert (tmp_path / "out/results.md").exists()
    again = subprocess.run(command(tmp_path, *only), capture_output=True, text=True)
    rows = [json.loads(s) for s in (tmp_path / "out/results.jsonl").open()]
    last = {row["name"]: row for row in rows}
    assert last["ours"]["ok"], last["ours"]["error"]
    assert last["ours"]["values"]["platform"] == "cpu"
    # Without torch, both the row and the exit code say so.
    assert last["peers"]["ok"] or "not installed" in last["peers"]["error"]
    assert again.returncode == (0 if last["peers"]["ok"] else 1)


def test_one_start_at_a_time(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(OSError, match="at work"):
        locked(tmp_path / "lock")


def test_without_a_card_nothing_is_started(tmp_path):
    line = [word for word in command(tmp_path) if word != "--dry"]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": "."}
    result = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.startswith("error: nvidia-smi shows no NVIDIA card")
    assert not (tmp_path / "out").exists()


def test_wheels_by_the_driver():
    assert "jax[cuda13]" in install.packages("ours", "580.65.06", False)
    assert "jax[cuda12]" in install.packages("ours", "570.10", False)
    assert "torch" in install.packages("peers", "580.65.06", False)
    assert "torch<2.11" in install.packages("peers", "570.10", False)


def test_jobs_of_a_card():
    machine = Machine("python", "python", Path("work"), "580.1", {}, "cifar.zip")
    jobs = all_jobs(machine)
    rows = [row for one in jobs for row in one.rows]
    assert len(rows) == len(set(rows))
    for one in jobs:
        assert {*one.needs, *one.after} <= set(rows)
    assert {one.phase for one in jobs if one.alone} == {"speed"}
    assert jobs[-1].phase == "cifar"
    # Two processes of a model, ours and timm's, fit into 80 GB.
    assert all(2 * model.gib <= 0.92 * 79.6 for model in MODELS)


def test_a_check_can_fail(monkeypatch):
    values = {}
    checks.check_attention("xla", 5, "bfloat16", values)
    assert 0 < values["logits"] <= 2e-2
    monkeypatch.setitem(checks.TOLERANCES, "bfloat16", (1e-5, 1e-5))
    with pytest.raises(RuntimeError, match="more than the tolerance"):
        checks.check_attention("xla", 5, "bfloat16", {})
    assert not checks.distance([np.array(np.nan)], [np.array(1.0)]) <= 1


class Turns:
    """A worker whose steps take a fixed time."""

    def __init__(self, peer: str, seconds: float, order: list[str]) -> None:
        self.peer, self.seconds, self.order = peer, seconds, order

    def run(self, steps: int, _mode: str) -> tuple[float, float]:
        self.order.append(self.peer)
        return steps * self.seconds, 0.0


def test_speed_is_compared_in_turns_with_the_best_of_the_others():
    order = []
    workers = [
        Turns("ours", 0.1, order),
        Turns("ours Triton", 0.05, order),
        Turns("timm default", 0.4, order),
        Turns("timm reduce-overhead", 0.2, order),
    ]
    options = {"turn_seconds": 1.0, "rounds": 3, "batch": 8}
    values = speed.compare(workers, "train", options)
    assert values["against"] == "timm reduce-overhead"
    assert values["ratio"]["median"] == pytest.approx(2)
    assert values["images/s"]["ours"]["median"] == pytest.approx(80)
    assert order[8:] == [one.peer for one in workers] * 3
    assert values["images/s"]["ours Triton"]["median"] == pytest.approx(160)
    facts = {"flops": {"train": 10}, "peak_flops": 1600}
    mfu = speed.utilisation(values, facts, "train")
    assert mfu["ours"] == pytest.approx(0.5)


@pytest.mark.parametrize("model", MODELS)
def test_the_configs_can_be_planned(model):
    """By the command that says how much memory a step takes."""
    config = vit.get_config(model.name, str(model.batch))
    check_config(config, config_sections())


@pytest.mark.slow
def test_a_whole_dry_run(tmp_path):
    """All phases, some five minutes; with timm where PEERS names a Python with it."""
    from PIL import Image

    for path in (
        f"{s}/{c}/{i}.jpg" for s in ("train", "test") for c in "ab" for i in "12345678"
    ):
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / path)
    peers = os.environ.get("PEERS", sys.executable)
    options = ("--cifar", str(tmp_path / "images"), "--budget", "900", "--peers-python")
    subprocess.run(command(tmp_path, *options, peers))
    rows = [json.loads(s) for s in (tmp_path / "out/results.jsonl").open()]
    failed = {(row["phase"], row["name"]) for row in rows if not row["ok"]}
    without_timm = {("install", "peers"), ("prepare", "ViT-Ti/16")}
    without_timm |= {("speed", f"ViT-Ti/16 {m}") for m in ("training", "inference")}
    assert failed in (set(), without_timm)
    assert {row["phase"] for row in rows} == set(TITLES)
    timed = [row for row in rows if row["phase"] == "speed"]
    assert all(row["values"]["images/s"]["ours"]["median"] > 0 for row in timed)
