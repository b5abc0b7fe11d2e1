"""Phase 1: attention on the card against float32 on the CPU.

Two blocks of a ViT, forward and gradient, at several numbers of tokens; then the losses
of a training on scikit-learn's digits with the same batches and random draws.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.results import Spec, run_phase
from configs import digits
from vit_jax.config import resolve_lengths
from vit_jax.data.pipeline import Data
from vit_jax.models import create_model, init_params
from vit_jax.training.setup import build_program

# Largest ||difference|| / ||float32 on the CPU||, of logits and of the whole gradient.
# Half precision rounds to 2^-9; float32 is multiplied in TF32 on NVIDIA cards, 2^-11.
# bfloat16 on the CPU gives at most 0.004 and 0.014 at the numbers of tokens below.
TOLERANCES = {"float32": (5e-3, 5e-3), "bfloat16": (2e-2, 3e-2)}
# Largest difference of losses, as means of 20 steps; the loss starts at 2.3. Rounding
# errors grow where it falls fast: bfloat16 on the CPU differs by 0.11 there.
LOSS_TOLERANCES = {"float32": 0.1, "bfloat16": 0.25}
WINDOW = 20
# Image size and pooling for each number of tokens, with patches of 16 pixels.
TOKENS = {
    4: (32, "gap"),
    5: (32, "token"),
    196: (224, "gap"),
    197: (224, "token"),
    257: (256, "token"),
    577: (384, "token"),
}


def gradient_of(implementation: str, tokens: int, dtype: str, device: jax.Device):
    """Logits and gradients of a small ViT in training mode, as host arrays."""
    size, pooling = TOKENS[tokens]
    model = create_model(
        "ViT-Ti/16",
        depth=2,
        num_classes=10,
        image_size=size,
        pooling=pooling,
        dtype=dtype,
        attention_implementation=implementation,
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    # Large enough that attention is not uniform, and nonzero also in the head.
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.08, x.shape).astype(np.float32), shapes
    )
    images = rng.uniform(-1, 1, (8, size, size, 3)).astype(np.float32)
    weights = rng.normal(size=(8, 10)).astype(np.float32)

    def loss(params):
        logits, _ = model.apply({"params": params}, jnp.asarray(images), train=True)
        return (logits.astype(jnp.float32) * weights).sum(), logits

    with jax.default_device(device):
        placed = jax.device_put(params, device)
        gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(placed)
        return jax.device_get((logits, gradients))


def distance(tree: Any, reference: Any) -> float:
    """||tree - reference|| / ||reference|| over all arrays of two trees."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    squares = [
        (np.square(a.astype(np.float64) - b).sum(), np.square(b, dtype=float).sum())
        for a, b in pairs
    ]
    difference, size = np.sum(squares, axis=0)
    return float(np.sqrt(difference / size))


def check_attention(
    implementation: str, tokens: int, dtype: str, values: dict[str, Any]
) -> None:
    """Compares forward pass and gradient.

    Raises:
        RuntimeError: they differ by more than `TOLERANCES`.
    """
    reference = gradient_of("xla", tokens, "float32", jax.devices("cpu")[0])
    result = gradient_of(implementation, tokens, dtype, jax.devices()[0])
    names = ("logits", "gradient")
    for name, one, other, most in zip(
        names, result, reference, TOLERANCES[dtype], strict=True
    ):
        values |= {name: distance(one, other), f"{name}_at_most": most}
    # Written so that NaN fails too.
    if not all(values[name] <= values[f"{name}_at_most"] for name in names):
        raise RuntimeError("forward or gradient differ by more than the tolerance")


def training_losses(
    implementation: str, dtype: str, steps: int, device: jax.Device
) -> np.ndarray:
    """Losses of the first steps of a training on digits."""
    config = digits.get_config()
    config.model.update(
        depth=2, dtype=dtype, attention_implementation=implementation, pooling="token"
    )
    config.optim.warmup = "20steps"
    config.train.duration = f"{steps}steps"
    config.eval.update(every=f"{steps}steps", batch_size=128)
    config.checkpoint.every = f"{steps}steps"
    data = Data(**config.data)
    program = build_program(
        config,
        num_classes=len(data.label_names()),
        lengths=resolve_lengths(config, data.num_examples()),
        devices=[device],
    )
    with jax.default_device(device):
        state, keys, losses = program.init_state(), program.make_keys(), []
        batches = data.train_batches(seed=config.seed)
        try:
            for batch in itertools.islice(batches, steps):
                placed = {
                    k: jax.device_put(batch[k], v.sharding)
                    for k, v in program.batch.items()
                }
                state, metrics = program.train_step(state, placed, keys)
                losses.append(float(metrics["loss"]))
        finally:
            batches.close()
    return np.array(losses)


def check_losses(
    implementation: str, dtype: str, steps: int, values: dict[str, Any]
) -> None:
    """Compares the losses of a training.

    Raises:
        RuntimeError: they differ by more than `LOSS_TOLERANCES`, or did not fall.
    """
    reference = training_losses("xla", "float32", steps, jax.devices("cpu")[0])
    result = training_losses(implementation, dtype, steps, jax.devices()[0])
    means = [one.reshape(-1, WINDOW).mean(1) for one in (result, reference)]
    values |= {
        "steps": steps,
        "first_step": float(abs(result[0] - reference[0])),
        "largest_difference": float(np.abs(means[0] - means[1]).max()),
        "at_most": LOSS_TOLERANCES[dtype],
        "last_loss": float(means[0][-1]),
        "last_loss_cpu": float(means[1][-1]),
    }
    if not values["largest_difference"] <= values["at_most"]:
        raise RuntimeError("the losses differ by more than the tolerance")
    if not means[0][-1] < result[0]:
        raise RuntimeError("the loss did not fall")


def check(spec: Spec, name: str, values: dict[str, Any]) -> None:
    """Runs a check named `cudnn 197 bfloat16` or `cudnn losses bfloat16`."""
    implementation, what, dtype = name.split()
    values |= {"device": jax.devices()[0].device_kind}
    if what == "losses":
        check_losses(implementation, dtype, spec.options["steps"], values)
    else:
        check_attention(implementation, int(what), dtype, values)


if __name__ == "__main__":
    run_phase(check)
