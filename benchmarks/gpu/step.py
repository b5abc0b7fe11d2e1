"""Our training step and forward pass as `make gpu` measures them, also as a worker.

The worker reads lines such as `train 10` from stdin and answers with the seconds that
the steps took, as `benchmarks/peers/timm_worker.py` does.
"""

import itertools
import json
import math
import sys
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.gpu import vit
from vit_jax.models import AnyModel
from vit_jax.parallel import determinism
from vit_jax.planning.chips import peak_flops
from vit_jax.planning.flops import model_flops, model_macs
from vit_jax.planning.timing import (
    RepeatedStep,
    compile_program,
    repeated_forward,
    repeated_training,
    run_steps,
)


def programs(spec: dict[str, Any]) -> tuple[AnyModel, dict[str, RepeatedStep]]:
    """The model, and its programs `train` and `forward` on a random batch.

    Args:
        spec: `model`, `batch`, `image_size`, `dtype`; `triton` for programs without
            the options that leave products to cuBLASLt.
    """
    config = vit.get_config(spec["model"], str(spec["batch"]), str(spec["image_size"]))
    config.model.dtype = spec["dtype"]
    options = {} if spec.get("triton") else determinism.PRODUCTS
    with mock.patch.object(determinism, "PRODUCTS", options):
        model, train = repeated_training(config, num_classes=1000)
        forward = repeated_forward(model, spec["batch"])
    return model, {"train": train, "forward": forward._replace(batch=train.batch)}


class Timed:
    """A compiled program with its state, to be timed."""

    def __init__(self, program: RepeatedStep) -> None:
        self.program = program
        self.compiled, self.state = compile_program(program)

    def run(self, steps: int) -> float:
        """Takes steps as the training loop does; returns the seconds."""
        batches = itertools.repeat(self.program.batch)
        step, keys = self.compiled.step, self.program.keys
        self.state, seconds = run_steps(step, self.state, keys, batches, steps)
        return seconds * steps


def peak_bytes() -> int | None:
    """The peak of the device's allocator; None where it is not known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def facts(model: AnyModel, timed: dict[str, Timed]) -> dict[str, Any]:
    """The first line of a worker's output: versions, sizes, compute, device."""
    device = jax.devices()[0].device_kind
    macs, params = model_macs(model), timed["train"].state.params
    return {
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        "version": f"jax {jax.__version__}",
        "hardware": device,
        "macs": macs,
        "flops": {mode: model_flops(model, mode) for mode in timed},
        "peak_flops": peak_flops(device, np.dtype(model.dtype).name),
        "compile_seconds": {
            mode: round(one.compiled.compile_seconds, 2) for mode, one in timed.items()
        },
    }


def main() -> None:
    """Prints the facts, then answers until stdin ends."""
    model, parts = programs(json.loads(sys.argv[1]))
    timed = {mode: Timed(program) for mode, program in parts.items()}
    print(json.dumps(facts(model, timed)), flush=True)
    for line in sys.stdin:
        mode, steps = line.split()
        print(json.dumps(timed[mode].run(int(steps))), flush=True)


if __name__ == "__main__":
    main()
