"""The cost of each attention implementation on an NVIDIA card, from compiled programs.

    python -m vit_jax.planning.attention --models ViT-B/16 --tokens 197 256

Compiles the gradient of the model, two and three layers deep, for a card that this
machine need not have; the difference is the cost of a layer. Nothing runs, so nothing
is timed. Results: docs/attention.md. Needs the CUDA wheels of jax, but no GPU.
"""

import argparse
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vit_jax.cli import run_command
from vit_jax.flags import BatchSize, flag
from vit_jax.models import attention, create_model, init_params
from vit_jax.models.softmax_attention import _HEADS_FIRST, _TOKENS_FIRST, _attention
from vit_jax.parallel import sharding
from vit_jax.planning.deviceless import cudnn_for
from vit_jax.planning.program import analyze
from vit_jax.planning.topology import cards

GIB = 2**30
# Options of the model that give a number of tokens, with patches of 16 pixels.
TOKENS = {
    196: {"image_size": 224, "pooling": "gap"},
    197: {"image_size": 224},
    198: {"image_size": 224, "num_registers": 1},
    200: {"image_size": 224, "num_registers": 3},
    256: {"image_size": 256, "pooling": "gap"},
    576: {"image_size": 384, "pooling": "gap"},
    577: {"image_size": 384},
    578: {"image_size": 384, "num_registers": 1},
}


def library(implementation: str, hidden: int = 0, padding: int = 1) -> Callable:
    """jax.nn.dot_product_attention, the last `hidden` tokens masked as keys.

    Args:
        padding: the number of tokens is padded to a multiple of this.
    """

    def attend(query: Array, key: Array, value: Array) -> Array:
        number = query.shape[1]
        more = ((0, 0), (0, -number % padding), (0, 0), (0, 0))
        inputs = [jnp.pad(x, more) for x in (query, key, value)]
        lengths = jnp.full(len(query), number - hidden, jnp.int32)
        options: dict[str, Any] = {"implementation": implementation}
        if hidden or number % padding:
            options["key_value_seq_lengths"] = lengths
        return jax.nn.dot_product_attention(*inputs, **options)[:, :number]

    return attend


def heads_first(*inputs: Array) -> Array:
    moved = (jnp.swapaxes(x, 1, 2) for x in inputs)
    return jnp.swapaxes(_attention(_HEADS_FIRST, *moved), 1, 2)


def tokens_first(*inputs: Array) -> Array:
    return _attention(_TOKENS_FIRST, *inputs)


def autodiff(query: Array, key: Array, value: Array) -> Array:
    scores, total = attention.attention_scores(query, key)
    return attention.attend(scores.astype(value.dtype), total, value)


def pallas(query: Array, key: Array, value: Array) -> Array:
    from jax.experimental.pallas.ops.gpu import attention_mgpu as mosaic

    blocks: dict[str, Any] = {"block_q_dkv": 64, "block_kv_dkv": 64, "block_q_dq": 64}
    config = mosaic.TuningConfig(64, 64, 2, block_kv_dq=64, **blocks)
    # This kernel does not scale the scores.
    return mosaic.attention(query * query.shape[-1] ** -0.5, key, value, config)


# Replacements of `softmax_attention`; None is the model's own.
PATHS: dict[str, Callable | None] = {
    "cuDNN (ours)": None,
    "cuDNN, q k v padded": library("cudnn", padding=2),
    "cuDNN, last token masked": library("cudnn", hidden=1),
    "own gradient, heads first": heads_first,
    "own gradient, tokens first": tokens_first,
    "jax.nn xla": library("xla"),
    "autodiff": autodiff,
    "Pallas, Mosaic GPU": pallas,
}


def instead(path: Callable | None) -> contextlib.AbstractContextManager[Any]:
    """Replaces the model's attention, unless the path is None."""
    if path is None:
        return contextlib.nullcontext()
    return mock.patch.multiple(
        attention,
        choose_kernel=lambda *_, **__: "softmax",
        softmax_attention=path,
    )


class Figures(NamedTuple):
    """GiB moved, GiB of temporaries and calls of cuDNN, of a program or a layer."""

    moved: float
    temporaries: float
    calls: int


def figures(model: Any, batch_size: int, path: str, mesh: Any) -> Figures:
    """Compiles the gradient of a mean over logits.

    Raises:
        NotImplementedError, ValueError: the implementation does not support it.
    """

    def loss(params: Any, images: Array) -> Array:
        logits, _ = model.apply({"params": params}, images, train=True)
        return jax.nn.logsumexp(logits, axis=-1).mean()

    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    whole = jax.tree.map(lambda _: sharding.replicated(mesh), params)
    images = jax.ShapeDtypeStruct((batch_size, *model.image_size, 3), jnp.float32)
    step = jax.jit(sharding.on_mesh(jax.grad(loss), mesh))
    with cudnn_for(mesh.devices.flat), instead(PATHS[path]):
        lowered = step.lower(
            sharding.abstract(params, whole),
            sharding.abstract(images, sharding.batch_sharding(mesh)),
        )
        compiled = lowered.compile()
    costs = analyze(compiled, mesh)
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    calls = sum(n for kind, n in costs.kernels.items() if "fmha" in kind)
    return Figures(costs.hbm_bytes / GIB, temporaries / GIB, calls)


def row(name: str, tokens: int, path: str, arguments: argparse.Namespace) -> str:
    """A line of the table: the costs that the third layer adds."""
    mesh = sharding.make_mesh(
        data=1, fsdp=1, tensor=1, devices=cards(f"1x{arguments.card}")
    )

    def compiled(depth: int) -> Figures:
        model = create_model(
            name,
            num_classes=1000,
            depth=depth,
            dtype=arguments.dtype,
            attention_implementation="xla" if PATHS[path] else "cudnn",
            **TOKENS[tokens],
        )
        return figures(model, arguments.batch_size, path, mesh)

    try:
        two, three = compiled(2), compiled(3)
    except (NotImplementedError, ValueError) as error:
        return f"| {name} | {tokens} | {path} | refused: {error} | | |"
    moved, kept, calls = (a - b for a, b in zip(three, two, strict=True))
    return f"| {name} | {tokens} | {path} | {moved:.2f} | {kept:.3f} | {calls} |"


def main(arguments: argparse.Namespace) -> None:
    """The command: a line of Markdown for each implementation."""
    print("| model | tokens | way | GiB moved | GiB kept | calls of cuDNN |")
    print("|---|---|---|---|---|---|")
    for name in arguments.models:
        for tokens in arguments.tokens:
            for path in arguments.paths:
                print(row(name, tokens, path, arguments), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m vit_jax.planning.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["ViT-B/16", "ViT-L/16"])
    parser.add_argument(
        "--tokens", nargs="+", type=int, choices=TOKENS, default=[197, 200, 256, 577]
    )
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=flag(BatchSize), default=64)
    parser.add_argument("--card", default="H100", help="of vit_jax/planning/cards")
    run_command(parser, main)
