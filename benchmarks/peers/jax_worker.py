"""Takes training steps of a JAX model on demand: a worker of `speed_vs_peers`.

Reads lines such as `train 10` from stdin and answers with the seconds they took.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import vit
from benchmarks.peers.linen import PlainViT, make_linen_step
from vit_jax.models.variants import parse_name
from vit_jax.planning.timing import repeated_training


def ours(spec: dict):
    """A closure that takes one step of vit_jax's training, and the parameters."""
    config = vit.get_config(spec["model"], str(spec["batch"]))
    config.model.dtype = spec["dtype"]
    _, program = repeated_training(config, num_classes=1000)
    state = program.init_state()

    def step():
        nonlocal state
        state, metrics = program.step(state, program.batch, program.keys)
        return metrics["loss"]

    return step, state.params


def linen(spec: dict):
    """A closure that takes one step of the plain Linen ViT, and the parameters."""
    _, sizes = parse_name(spec["model"])
    dtype = jnp.dtype(spec["dtype"])
    model = PlainViT(1000, **sizes, dtype=dtype)
    rng = np.random.default_rng(0)
    batch = jax.device_put(
        {
            "image": rng.integers(0, 256, (spec["batch"], 224, 224, 3), np.uint8),
            "label": rng.integers(0, 1000, spec["batch"], np.int32),
        }
    )
    train_step, state = make_linen_step(model, batch)

    def step():
        nonlocal state
        state, loss = train_step(state, batch)
        return loss

    return step, state[0]


def main() -> None:
    """Prints facts of the model, then answers until stdin ends."""
    spec = json.loads(sys.argv[1])
    if spec["device"] == "gpu" and jax.default_backend() != "gpu":
        sys.exit(f"--device gpu, but JAX has {jax.default_backend()} only")
    step, params = {"ours": ours, "linen": linen}[spec["peer"]](spec)
    answer = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "version": f"jax {jax.__version__}",
        "hardware": jax.devices()[0].device_kind,
    }
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        _, count = line.split()
        start = time.perf_counter()
        for _ in range(int(count)):
            loss = step()
        # Each step needs the state of the one before: the last ends last.
        jax.block_until_ready(loss)
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
