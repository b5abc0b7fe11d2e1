"""Does a killed and resumed run end with the bits of an uninterrupted one?

    python -m benchmarks.exact_resume --kills 20

One run is uninterrupted. Others, each in its own folder, are killed by SIGKILL at a
random moment between start and end, whatever they are doing then (import, compile,
train, save, evaluate), and are started again by the same command. Parameters,
averaged parameters and optimizer state must be the same bits. Worker processes,
augmentation, MixUp, dropout and stochastic depth are on.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

COMMAND = (
    sys.executable,
    "-m",
    "vit_jax.train",
    "--config=configs/digits.py",
    "--config.train.duration=150steps",
    "--config.train.ema_decay=0.99",
    "--config.checkpoint.every=5steps",
    "--config.eval.every=50steps",
    "--config.model.depth=2",
    "--config.model.dropout_rate=0.1",
    "--config.mix.mixup_alpha=0.2",
    "--config.data.batch_size=64",
    "--config.data.randaug_layers=2",
    "--config.data.workers=2",
)


def run(workdir: Path, *overrides: str, kill_after: float | None = None) -> int:
    """Runs the training; returns its exit code, -9 if it was killed before its end."""
    command = [*COMMAND, *overrides, "--workdir", str(workdir)]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            return process.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return process.wait()


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint by its path, as raw bits."""
    folders = (workdir / "checkpoints").absolute().iterdir()
    last = max((f for f in folders if f.name.isdigit()), key=lambda f: int(f.name))
    with warnings.catch_warnings():
        # Orbax warns that it restores the shardings of the checkpoint.
        warnings.simplefilter("ignore", UserWarning)
        tree = ocp.load_checkpointables(last)["state"]
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def differences(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> list[str]:
    """Paths of the arrays that do not have the same bits."""
    return sorted(
        path
        for path in first.keys() | second.keys()
        if path not in first
        or path not in second
        or first[path].tobytes() != second[path].tobytes()
    )


def killed_run(
    folder: Path, reference: dict[str, np.ndarray], after: float
) -> list[str]:
    """Kills a run after some seconds, resumes it, and compares its final state."""
    first_exit = run(folder, kill_after=after)
    if first_exit not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run failed by itself, see {folder}.log")
    if run(folder) != 0:
        raise RuntimeError(f"the run did not finish when started again: {folder}.log")
    return differences(reference, final_state(folder))


def resumed_at(folder: Path) -> str:
    """The line of the log that says where the killed run was resumed."""
    lines = Path(f"{folder}.log").read_text().splitlines()
    lines = [line for line in lines if line.startswith("Going on from step")]
    return lines[0].lower() if lines else "began again, since nothing was saved yet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        if run(Path(folder) / "reference") != 0:
            sys.exit((Path(folder) / "reference.log").read_text())
        seconds = time.perf_counter() - started
        # Twice, because the first run also compiled.
        started = time.perf_counter()
        run(Path(folder) / "again")
        seconds = time.perf_counter() - started
        reference = final_state(Path(folder) / "reference")
        failed = bool(differences(reference, final_state(Path(folder) / "again")))
        print(f"uninterrupted: {seconds:.0f} s, {len(reference)} arrays", flush=True)
        for kill in range(arguments.kills):
            after = rng.uniform(1, seconds)
            run_folder = Path(folder) / f"kill_{kill}"
            differing = killed_run(run_folder, reference, after)
            verdict = f"{len(differing)} arrays differ" if differing else "identical"
            where = resumed_at(run_folder)
            print(f"kill {kill + 1} at {after:4.1f} s, {where}: {verdict}", flush=True)
            failed |= bool(differing)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
