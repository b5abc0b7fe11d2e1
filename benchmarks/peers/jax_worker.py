"""Runs a model in JAX on demand: ours, or that of another project.

Reads lines such as `train 10` from stdin and answers with the seconds they took. The
folder `code` of the specification, if any, is searched first for packages: a checkout
of another project, of which one has a package `vit_jax` too, or another commit of ours.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Seconds of so many steps.
Run = Callable[[int], float]


def ours(spec: dict[str, Any]) -> tuple[Run, Any]:
    """The step of `vit_jax.train`, or the forward pass of a model; the parameters."""
    from benchmarks.gpu import vit
    from benchmarks.gpu.step import Timed
    from configs import cifar
    from vit_jax.planning.timing import repeated_forward, repeated_training

    # As the commands do; commits before it have no such file.
    with contextlib.suppress(ImportError):
        from vit_jax.parallel.host_memory import keep_freed_memory

        keep_freed_memory()
    if spec["model"] == "mini":
        config = cifar.get_config(size="mini")
        config.data.batch_size = spec["batch"]
    else:
        config = vit.get_config(spec["model"], str(spec["batch"]))
    config.model.dtype = spec["dtype"]
    model, program = repeated_training(config, num_classes=spec["num_classes"])
    if spec["mode"] == "train":
        timed = Timed(program)
        return timed.run, timed.state.params
    forward = repeated_forward(model, spec["batch"])
    timed = Timed(forward._replace(batch=program.batch))
    return timed.run, timed.state


def of_others(spec: dict[str, Any]) -> tuple[Run, Any]:
    """The same of another project's model."""
    from benchmarks.peers.others import make_program

    rng = np.random.default_rng(0)
    n, size = spec["batch"], spec["image_size"]
    batch = jax.device_put(
        {
            "image": rng.integers(0, 256, (n, size, size, 3), np.uint8),
            "label": rng.integers(0, spec["num_classes"], n, np.int32),
        }
    )
    program, state = make_program(spec, batch)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state[0])

    def run(steps: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            state, number = program(state, batch)
        # The results of one program come in the order of its calls.
        jax.block_until_ready(number)
        return time.perf_counter() - start

    return run, params


def main() -> None:
    """Prints facts of the model, then answers until stdin ends."""
    spec = json.loads(sys.argv[1])
    if spec["code"]:
        sys.path.insert(0, spec["code"])
    if spec["device"] == "gpu" and jax.default_backend() != "gpu":
        sys.exit(f"--device gpu, but JAX has {jax.default_backend()} only")
    run, params = (ours if spec["peer"] == "ours" else of_others)(spec)
    answer = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "version": f"jax {jax.__version__}",
        "hardware": jax.devices()[0].device_kind,
    }
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        _, steps = line.split()
        print(json.dumps(run(int(steps))), flush=True)


if __name__ == "__main__":
    main()
