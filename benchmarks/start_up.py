"""How long from the command to the first step of training?

    python -m benchmarks.start_up --model ViT-B/16 --batch 8 --runs 3

`vit_jax.train` on generated photos of 224 px, each time in a new process and a new run
folder. The first run fills an empty cache of compiled programs, which the others find.
The first step begins when the program has said "compiled in".
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARKS = {"run folder": "set up", "compiled in": "first step begins"}


def marks(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """When each of MARKS was first said, in seconds after the start of the command.

    Raises:
        SystemExit: the command failed.
    """
    begin, found = time.perf_counter(), {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout or ():
            for start, name in MARKS.items():
                if line.startswith(start):
                    found.setdefault(name, time.perf_counter() - begin)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B/16")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--runs", type=int, default=3, help="with a filled cache")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = str(Path(folder, "photos"))
        python = [sys.executable, "-u", "-m"]
        subprocess.run([*python, "vit_jax.data.sample_photos", photos], check=True)
        config = f"folder:data={photos},model={flags.model},size=224"
        options = {
            "train.duration": "2steps",
            "data.batch_size": flags.batch,
            "eval.batch_size": flags.batch,
        }
        command = [*python, "vit_jax.train", "--config", config]
        command += [f"--config.{key}={value}" for key, value in options.items()]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        for number in range(flags.runs + 1):
            run = ["--workdir", f"{folder}/{number}"]
            found = marks([*command, *run], environment)
            text = ", ".join(f"{name} {value:.1f} s" for name, value in found.items())
            print(f"{'warm' if number else 'empty'} cache: {text}", flush=True)


if __name__ == "__main__":
    main()
