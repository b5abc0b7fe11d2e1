"""Phase 2: memory of the real training step against the prediction of `vit_jax.plan`.

The programs of the step and of the forward pass stay in the compilation cache for the
speed phase.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu.processes import start
from benchmarks.gpu.results import Spec, run_phase
from benchmarks.gpu.step import Timed, peak_bytes, programs
from vit_jax.planning.chips import CHIPS, GIB
from vit_jax.planning.timing import IMAGENET_EXAMPLES

ROOT = Path(__file__).parents[2]
# The range of measured over planned memory in which a plan is right.
AGREES = (0.85, 1.15)


def start_plan(options: dict[str, Any], path: Path, device_kind: str):
    """Starts `vit_jax.plan` for the same step on the CPU; it writes JSON to `path`."""
    chips = [name for name, chip in CHIPS.items() if device_kind in chip.kinds]
    config = "benchmarks/gpu/vit.py:model={model},batch={batch},size={image_size}"
    command = [sys.executable, "-m", "vit_jax.plan", "--json", str(path)]
    command += ["--config", config.format(**options)]
    command += [f"--config.model.dtype={options['dtype']}"]
    command += ["--num-examples", str(IMAGENET_EXAMPLES), "--num-classes", "1000"]
    if chips:
        command += ["--devices", f"1x{chips[0]}"]
    path.unlink(missing_ok=True)
    settings = os.environ | {"JAX_PLATFORMS": "cpu"}
    return start(command, own_group=False, env=settings, cwd=ROOT)


def measure(spec: Spec, _: str, values: dict[str, Any]) -> None:
    """Takes three steps, and compares their memory with the plan.

    Raises:
        RuntimeError: there is no plan, or the measured memory differs from it.
    """
    options = spec.options
    path = Path(spec.work) / f"plan-{options['model'].replace('/', '_')}.json"
    planning = start_plan(options, path, jax.devices()[0].device_kind)
    _, parts = programs(options)
    timed = Timed(parts["train"])
    timed.run(3)
    # The CPU's allocator does not count its bytes.
    needed = peak_bytes() or timed.compiled.program_bytes
    values |= {
        "batch": options["batch"],
        "dtype": options["dtype"],
        "measured_gib": needed / GIB,
        "counted_by": "allocator" if peak_bytes() else "compiled program",
        "program_gib": timed.compiled.program_bytes / GIB,
        "compile_seconds": timed.compiled.compile_seconds,
    }
    values["forward_compile_seconds"] = Timed(parts["forward"]).compiled.compile_seconds
    planning.wait()
    if not path.exists():
        raise RuntimeError("vit_jax.plan gave no plan; its message is in the log")
    plan = json.loads(path.read_text())
    values |= {
        "planned_for": plan["target"],
        "planned_gib": plan["memory"]["peak"] / GIB,
        "ratio": needed / plan["memory"]["peak"],
    }
    if not AGREES[0] <= values["ratio"] <= AGREES[1]:
        raise RuntimeError(f"the step takes {values['ratio']:.2f} of what was planned")


if __name__ == "__main__":
    run_phase(measure)
