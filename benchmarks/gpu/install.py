"""Phase 0: environments for vit_jax and for its peers; with Python alone.

Each is a virtual environment in the work folder. If the Python that makes it has JAX or
PyTorch for NVIDIA cards already, its packages are visible in the environment, and only
missing ones are fetched. pip's own settings apply (`PIP_INDEX_URL`, or without a
registry `PIP_FIND_LINKS` and `PIP_NO_INDEX=1`).
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.processes import start
from benchmarks.gpu.results import Spec, run_phase

ROOT = Path(__file__).parents[2]
# The first driver that runs CUDA 13, by NVIDIA's release notes; before it, CUDA 12.
CUDA_13_DRIVER = 580
# Later wheels on PyPI are for CUDA 13.
CUDA_12_TORCH = "torch<2.11"

FACTS = {
    "ours": """
import json, jax, jaxlib, flax
print(json.dumps({"jax": jax.__version__, "jaxlib": jaxlib.__version__,
    "flax": flax.__version__, "platform": jax.default_backend(),
    "device": jax.devices()[0].device_kind}))
""",
    "peers": """
import sys; sys.path.insert(0, "benchmarks/peers")
import timm_worker
torch, timm = timm_worker.import_timm()
import json
on_gpu = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "timm": timm.__version__,
    "cuda": torch.version.cuda, "platform": "gpu" if on_gpu else "cpu",
    "device": torch.cuda.get_device_name() if on_gpu else "cpu"}))
""",
}


def packages(which: str, driver: str, dry: bool) -> list[str]:
    """The arguments of `pip install` for an environment."""
    if which == "peers":
        old = driver and int(driver.split(".")[0]) < CUDA_13_DRIVER
        return [CUDA_12_TORCH if old else "torch", "torchvision", "timm"]
    requirements = ["-r", str(ROOT / "requirements.txt")]
    if dry:
        return requirements
    cuda = 13 if int(driver.split(".")[0]) >= CUDA_13_DRIVER else 12
    return [*requirements, f"jax[cuda{cuda}]"]


class Starting(NamedTuple):
    """The Python that an environment is made from.

    Attributes:
        python: its path.
        has: the names in `MODULES` that it can import.
        folders: its package folders, if they hold JAX or PyTorch as needed.
    """

    python: str
    has: list[str]
    folders: list[str]


MODULES = ("venv", "ensurepip", "pip", "jax", "torch")


def look_at(python: str, which: str) -> Starting:
    """Inspects a Python.

    On a machine with an NVIDIA card, JAX only counts with its plugin for such cards.
    """
    code = (
        "import importlib.util as u, json, sys; print(json.dumps(["
        f"[name for name in {MODULES} if u.find_spec(name)], sys.path]))"
    )
    has, path = json.loads(subprocess.check_output([python, "-c", code], text=True))
    folders = [f for f in path if f.endswith(("site-packages", "dist-packages"))]
    plugins = [p for f in folders for p in Path(f).glob("jax_cuda1*_plugin*")]
    useful = "torch" in has
    if which == "ours":
        useful = "jax" in has and bool(plugins or not shutil.which("nvidia-smi"))
    return Starting(python, has, folders if useful else [])


def make_environment(folder: Path, starting: Starting) -> list[str]:
    """Makes a virtual environment; returns the command of pip for it.

    The modules `venv` and `ensurepip` are packages of their own on some systems.

    Raises:
        RuntimeError: this Python has no pip and cannot install it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    python = str(folder / "bin/python")
    venv = [starting.python, "-m", "venv", str(folder)]
    if {"venv", "pip"} <= set(starting.has):
        # The fastest way, as pip need not be unpacked.
        run([*venv, "--without-pip"])
        pip = [starting.python, "-m", "pip", "--python", python]
    elif {"venv", "ensurepip"} <= set(starting.has):
        run(venv)
        pip = [python, "-m", "pip"]
    elif uv := shutil.which("uv"):
        run([uv, "venv", "--python", starting.python, str(folder)])
        # uv ignores packages outside of the environment, and installs all.
        return [uv, "pip", "install", "--python", python]
    else:
        raise RuntimeError(
            f"{starting.python} cannot make an environment: it has neither pip nor "
            "ensurepip, and there is no uv; install one of them (apt-get install "
            "python3-venv), then start again"
        )
    (packages_of_it,) = folder.glob("lib/python3*/site-packages")
    seen = "\n".join(starting.folders) + "\n"
    (packages_of_it / "starting_python.pth").write_text(seen)
    return [*pip, "install", "--no-input", "--progress-bar=off", "--no-cache-dir"]


def run(command: list[str]) -> None:
    """Runs a command, which is killed if this process ends.

    Raises:
        RuntimeError: it failed; its output is in the log.
    """
    print("$", " ".join(command), flush=True)
    code = start(command, own_group=False, cwd=ROOT).wait()
    if code:
        raise RuntimeError(f"{' '.join(command)[:200]}: exit code {code}; see the log")


def install(spec: Spec, which: str, values: dict[str, Any]) -> None:
    """Makes an environment, and records its versions and device.

    Raises:
        RuntimeError: it could not be made, or does not see the card.
    """
    values |= spec.options["facts"]
    folder = Path(spec.work) / which
    starting = look_at(spec.options["python"], which)
    driver = spec.options["driver"]
    if spec.dry and which == "peers" and not starting.folders:
        raise RuntimeError(
            f"not installed: {starting.python} has no torch, and a dry run fetches "
            "none; name a Python that has torch and timm by --peers-python"
        )
    arguments = packages(which, driver, spec.dry)
    started = time.monotonic()
    pip = make_environment(folder, starting)
    if not (spec.dry and which == "peers"):
        run([*pip, *arguments])
    values["install_seconds"] = round(time.monotonic() - started, 1)
    values["on top of"] = starting.python if starting.folders else ""
    python = str(folder / "bin/python")
    result = subprocess.run(
        [python, "-c", FACTS[which]], capture_output=True, text=True, cwd=ROOT
    )
    print(result.stderr, file=sys.stderr)
    if result.returncode:
        last = (result.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{python} cannot use what was installed: {last}")
    values |= json.loads(result.stdout.splitlines()[-1])
    if not spec.dry and values["platform"] != "gpu":
        raise RuntimeError(f"{python} sees no NVIDIA card, driver {driver}")
    proof(Path(spec.work), which, driver, spec.dry).touch()


def proof(work: Path, which: str, driver: str, dry: bool) -> Path:
    """The file that marks an environment as complete, named after its packages."""
    texts = [*packages(which, driver, dry), (ROOT / "requirements.txt").read_text()]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    return work / which / f"installed.{digest}"


if __name__ == "__main__":
    run_phase(install)
