"""A ViT's training step compiled for a TPU v5e: ours against big_vision's.

    git clone https://github.com/google-research/big_vision
    python -m benchmarks.accelerators.big_vision --big-vision big_vision

Needs libtpu and no TPU; nothing runs. Their step is put together of their own model,
optimizer, loss and config `vit_i1k.py`, as their trainer does it. Rows are saved in
`docs/results/big_vision.jsonl`, where a program is compiled again only if it has
changed, and `docs/accelerators.md` shows them.
"""

import argparse
import functools
import hashlib
import importlib
import sys
import time
import types
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Before the stand-in for TensorFlow, which Flax would look into.
from flax.training import checkpoints  # noqa: F401

from benchmarks.accelerators.__main__ import kept_rows, write
from benchmarks.accelerators.rows import BIG_VISION, Row, read, save
from benchmarks.accelerators.table import comparison_table
from experiments.lab.command import hardware
from experiments.lab.tables import markdown_table
from vit_jax.cli import run_command
from vit_jax.config import resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.planning.estimate import memory_in_error
from vit_jax.planning.program import analyze
from vit_jax.planning.topology import pod
from vit_jax.training.setup import build_program

EXAMPLES, CLASSES = 1_268_356, 1000  # train[:99%] of ImageNet
P = jax.sharding.PartitionSpec


class Pair(NamedTuple):
    """Two programs that are compared.

    Attributes:
        model, batch: of both; the batch is that of all chips.
        recipe: what both have, in words.
        ours: overrides of our `imagenet.py`, without the prefix `--config.`.
        theirs: overrides of the section `model` of their `vit_i1k.py`.
        mixup: theirs; ours has none.
    """

    model: str
    batch: int
    recipe: str
    ours: tuple[str, ...]
    theirs: dict[str, Any]
    mixup: bool = False


# What both have in the rows "the same": no dropout, no MixUp, bfloat16, a first moment
# in bfloat16. Both always have class token, pre-logits layer, sigmoid loss, clipping.
SAME = ("model.dropout_rate=0", "optim.momentum_dtype=bfloat16")
HALF = {"dtype_mm": "bfloat16"}
REMAT = ("model.scan=true", "model.remat=full")
ALL = "the same, all recomputed"
PAIRS = (
    Pair("ViT-B/16", 4096, "the same", SAME, HALF),
    Pair("ViT-B/16", 4096, "its own", (), {}, mixup=True),
    Pair("ViT-L/16", 4096, ALL, (*SAME, *REMAT), HALF | {"scan": True}),
)


def our_program(pair: Pair, devices: list[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Our training step and the shapes of its arguments."""
    overrides = (*pair.ours, f"data.batch_size={pair.batch}")
    flags = [f"--config.{override}" for override in overrides]
    config = read_config(f"configs/imagenet.py:{pair.model}", flags)
    lengths = resolve_lengths(config, EXAMPLES)
    program = build_program(
        config, num_classes=CLASSES, lengths=lengths, devices=devices
    )
    return program.train_step, (program.state, program.batch, program.keys)


def their_program(
    pair: Pair, mesh: jax.sharding.Mesh, path: Path
) -> tuple[Any, tuple[Any, ...]]:
    """Their training step and the shapes of its arguments."""
    theirs = functools.partial(their_module, path)
    config = theirs("configs.vit_i1k").get_config(pair.model.removeprefix("ViT-"))
    config.model.update(pair.theirs)
    helpers, optimizers = theirs("utils"), theirs("optax")
    model = theirs("models.vit").Model(num_classes=CLASSES, **config.model)
    size = (pair.batch, 224, 224, 3)
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(size))["params"], jax.random.key(0)
    )
    lengths = {"batch_size": pair.batch, "data_size": EXAMPLES}
    lengths["total_steps"] = config.total_epochs * EXAMPLES // pair.batch
    optimizer, _ = optimizers.make(config, shapes, sched_kw=lengths)

    def step(state: Any, key: jax.Array, batch: dict[str, jax.Array]) -> Any:
        params, moments = state
        key = jax.random.fold_in(key, optimizers.get_count(moments, jittable=True))
        examples = batch["image"], batch["labels"]
        if pair.mixup:
            mix = jax.shard_map(
                helpers.get_mixup(key, config.mixup.p),
                mesh=mesh,
                in_specs=P("data"),
                out_specs=(P(), P("data"), P("data")),
            )
            key, examples, _ = mix(*examples)
        key, dropout = jax.random.split(key)

        def loss(params: Any) -> jax.Array:
            images, labels = examples
            logits, _ = model.apply(
                {"params": params}, images, train=True, rngs={"dropout": dropout}
            )
            return helpers.sigmoid_xent(logits=logits, labels=labels)

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        norms = [optax.tree.norm(tree) for tree in (grads, params, updates)]
        return (params, moments), (value, norms)

    def placed(tree: Any, spec: jax.sharding.PartitionSpec) -> Any:
        place = jax.sharding.NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
        )

    state = placed((shapes, jax.eval_shape(optimizer.init, shapes)), P())
    key = placed(jax.eval_shape(jax.random.PRNGKey, 0), P())
    images = jax.ShapeDtypeStruct(size, jnp.float32)
    labels = jax.ShapeDtypeStruct((pair.batch, CLASSES), jnp.float32)
    batch = placed({"image": images, "labels": labels}, P("data"))
    everywhere = jax.sharding.NamedSharding(mesh, P())
    jitted = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
    return jitted, (state, key, batch)


def their_module(path: Path, name: str) -> Any:
    """A module of big_vision.

    Reading files by TensorFlow, and a package of metrics, are what their helpers import
    and a step does not need.
    """
    absent = ("tensorflow", "tensorflow.io", "tensorflow.io.gfile")
    stand_ins = {name: types.ModuleType(name) for name in absent}
    stand_ins["tensorflow"].io = stand_ins["tensorflow.io"]
    stand_ins["tensorflow.io"].gfile = stand_ins["tensorflow.io.gfile"]
    with (
        mock.patch.object(sys, "path", [str(path), *sys.path]),
        mock.patch.dict(sys.modules, stand_ins),
    ):
        module = importlib.import_module(f"big_vision.{name}")
        kept = {k: m for k, m in sys.modules.items() if k.startswith("big_vision")}
    sys.modules.update(kept)
    return module


def compiled_figures(
    step: Any, arguments: tuple[Any, ...], mesh: jax.sharding.Mesh, old: Row
) -> Row:
    """Bytes and seconds of a program, or how much memory it would need.

    Args:
        old: the figures of an earlier call, which are returned if nothing has changed.
    """
    lowered = step.lower(*arguments)
    row = {
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16],
        "versions": {name: metadata.version(name) for name in ("jax", "libtpu")},
    }
    if row.items() <= old.items():
        return old
    row |= {"date": time.strftime("%Y-%m-%d", time.gmtime()), "hardware": hardware()}
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed, _ = memory_in_error(error)
        return row | {"needed": needed}
    seconds = time.perf_counter() - start
    sizes, costs = compiled.memory_analysis(), analyze(compiled, mesh)
    return row | {
        "hbm": costs.hbm_bytes,
        "accessed": costs.bytes_accessed,
        "flops": costs.flops,
        "temporaries": sizes.temp_size_in_bytes,
        "peak": sizes.peak_memory_in_bytes,
        "seconds": seconds,
    }


def compared(pair: Pair, devices: list[Any], path: Path, old: Row) -> Row:
    """Both programs of a pair, compiled one after the other."""
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    row: Row = {"model": pair.model, "batch": pair.batch, "recipe": pair.recipe}
    for name, program in (
        ("ours", our_program(pair, devices)),
        ("theirs", their_program(pair, mesh, path)),
    ):
        row[name] = compiled_figures(*program, mesh, old.get(name, {}))
        print(f"{pair.model}, {pair.batch}, {pair.recipe}, {name}: {row[name]}")
        jax.clear_caches()
    return row


def main(arguments: argparse.Namespace) -> None:
    """The command: compiles what has changed, saves the rows, prints the table."""
    # Without the cache, so that the time of compilation is real.
    jax.config.update("jax_enable_compilation_cache", False)
    devices = pod("v5e:4x8")
    rows = {key_of(row): row for row in read(BIG_VISION)}
    for pair in PAIRS:
        key = pair.model, pair.batch, pair.recipe
        if pair.model in arguments.models:
            old = rows.get(key, {})
            rows[key] = compared(pair, devices, arguments.big_vision, old)
            save(BIG_VISION, [rows[pair[:3]] for pair in PAIRS if pair[:3] in rows])
    write(kept_rows())
    print(markdown_table(comparison_table(list(rows.values()))))


def key_of(row: Row) -> tuple[str, int, str]:
    """What tells a row from the others: the first fields of its `Pair`."""
    return row["model"], row["batch"], row["recipe"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerators.big_vision",
        description="A ViT's training step compiled for a TPU: ours and big_vision's.",
    )
    parser.add_argument("--big-vision", type=Path, required=True, help="their code")
    parser.add_argument("--models", nargs="+", default=["ViT-B/16", "ViT-L/16"])
    run_command(parser, main)
