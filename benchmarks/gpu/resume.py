"""Phase 4: a training killed by SIGKILL ends with the bits of an uninterrupted one.

The runs and their comparison are those of `benchmarks/exact_resume.py`.
"""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.exact_resume import differences, final_state
from benchmarks.gpu.processes import start
from benchmarks.gpu.results import Spec, run_phase
from benchmarks.killed_training import COMMAND
from configs import base
from vit_jax.checkpoints.integrity import steps

ROOT = Path(__file__).parents[2]


def train(folder: Path, options: list[str]) -> subprocess.Popen:
    """Starts or resumes the training in a folder."""
    command = [*COMMAND, *options, "--workdir", str(folder)]
    return start(command, own_group=False, cwd=ROOT)


def finish(folder: Path, options: list[str]) -> None:
    """Trains to the end.

    Raises:
        RuntimeError: it failed.
    """
    code = train(folder, options).wait()
    if code:
        raise RuntimeError(f"the training ended with exit code {code}; see the log")


def kill_in_the_middle(folder: Path, options: list[str], step: int) -> int:
    """Trains until there is a checkpoint of `step` or later, then kills the training.

    Returns:
        The step of the newest checkpoint.

    Raises:
        RuntimeError: it ended before that.
    """
    process = train(folder, options)
    while not any(saved >= step for saved in steps(folder / "checkpoints")):
        if process.poll() is not None:
            raise RuntimeError(f"the training ended before step {step}; see the log")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return steps(folder / "checkpoints")[-1]


def compare(spec: Spec, name: str, values: dict[str, Any]) -> None:
    """Compares an uninterrupted run with a second one and with a killed one.

    Args:
        name: `deterministic`, for `train.deterministic`, or `as it comes`.

    Raises:
        RuntimeError: a run failed, or bits differ where they must not.
    """
    on = name == "deterministic"
    if on and "deterministic" not in base.get_config().train:
        raise RuntimeError("configs/base.py has no train.deterministic")
    duration = spec.options["steps"]
    options = [f"--config.train.duration={duration}steps"]
    options += [f"--config.eval.every={duration}steps"]
    options += ["--config.train.deterministic=true"] if on else []
    parent = Path(spec.work) / "resume" / name.replace(" ", "_")
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    finish(parent / "alone", options)
    finish(parent / "again", options)
    step = kill_in_the_middle(parent / "killed", options, duration // 3)
    finish(parent / "killed", options)
    ends = {run: final_state(parent / run) for run in ("alone", "again", "killed")}
    differing = {
        run: len(differences(ends["alone"], ends[run])) for run in ("again", "killed")
    }
    values |= {
        "steps": duration,
        "killed_after_step": step,
        "arrays": len(ends["alone"]),
        "arrays_that_differ": differing,
        "promised": on or spec.dry,
    }
    if values["promised"] and any(differing.values()):
        raise RuntimeError(f"the ends have not the same bits: {differing}")


if __name__ == "__main__":
    run_phase(compare)
