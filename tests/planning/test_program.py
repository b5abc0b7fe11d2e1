"""Costs of compiled programs: loops, collectives, products, bytes.

The pieces of text are what XLA prints for CPU, GPU and TPU, shortened.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.planning.collectives import (
    collectives,
    device_groups,
    mesh_axes,
    share_sent,
)
from vit_jax.planning.hlo import Array, arrays, parse, trip_count, walk
from vit_jax.planning.program import (
    analyze,
    moved,
    product_flops,
    starts_kernel,
)

DEVICES = np.array([SimpleNamespace(platform="tpu") for _ in range(16)])
MESH = SimpleNamespace(
    devices=DEVICES.reshape(4, 2, 2), axis_names=("data", "fsdp", "tensor")
)

# On TPU: no trip counts, products are convolutions, a reduce-scatter is a fusion, an
# asynchronous all-gather is in all of the fusions that it overlaps with.
TPU = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%x, %y)
}

%cond (p.0: (s32[], f32[64,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p.0 = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.0), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%all-reduce-scatter.1 (input.1: bf16[8,4]) -> bf16[4,4] {
  %input.1 = bf16[8,4]{1,0} parameter(0)
  %all-reduce.1 = bf16[8,4]{1,0} all-reduce(%input.1), channel_id=1, \
replica_groups=[8,2]<=[4,2,2]T(0,2,1), to_apply=%add
  %place = s32[] constant(0)
  ROOT %piece = bf16[4,4]{1,0} dynamic-slice(%all-reduce.1, %place, %place), \
dynamic_slice_sizes={4,4}
}

%start (q.0: bf16[4,4]) -> bf16[8,4] {
  %q.0 = bf16[4,4]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,4]{1,0} all-gather(%q.0), channel_id=2, \
replica_groups=mesh['data'=4,'fsdp'=2,'tensor'=2] {'fsdp'}, dimensions={0}
}

%overlap (q.1: bf16[4,4]) -> bf16[8,4] {
  %q.1 = bf16[4,4]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,4]{1,0} all-gather(%q.1), channel_id=2, \
replica_groups=mesh['data'=4,'fsdp'=2,'tensor'=2] {'fsdp'}, dimensions={0}
}

%body (p.1: (s32[], f32[64,128])) -> (s32[], f32[64,128]) {
  %p.1 = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %one = s32[]{:T(128)} constant(1)
  %k = s32[]{:T(128)} add(%j, %one)
  %h = f32[64,128]{1,0:T(8,128)S(1)} get-tuple-element(%p.1), index=1
  %w = f32[128,128]{1,0:T(8,128)} constant({...})
  %product = f32[64,128]{1,0:T(8,128)} convolution(%h, %w), dim_labels=bf_io->bf
  %g = bf16[8,4]{1,0} constant({...})
  %scattered = bf16[4,4]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %gathered = bf16[8,4]{1,0} fusion(%scattered), kind=kCustom, calls=%start
  %done = bf16[8,4]{1,0} fusion(%scattered), kind=kCustom, calls=%overlap
  ROOT %next = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) tuple(%k, %product)
}

ENTRY %main (a: f32[64,128]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %first = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[64,128]{1,0:T(8,128)}) while(%first), \
condition=%cond, body=%body
  ROOT %result = f32[64,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_loops_of_a_tpu_count():
    module = parse(TPU)
    loop = module.computations["main"]["loop"]
    assert trip_count(module, loop) == 12
    known = loop._replace(text=loop.text + ', {"known_trip_count":{"n":"5"}}')
    assert trip_count(module, known) == 5
    # XLA unrolls two rounds where it overlaps products with gathering their operands.
    two_at_once = parse(TPU.replace("constant(1)", "constant(2)"))
    assert trip_count(two_at_once, loop) == 6
    module.computations["cond"]["lt"] = module.computations["cond"]["lt"]._replace(
        text="compare(%i, %limit), direction=NE"
    )
    assert trip_count(module, loop) is None
    module = parse(TPU)
    flops = sum(step.times * product_flops(step) for step in walk(module))
    assert flops == 12 * 2 * 64 * 128 * 128
    once = sum(step.times * product_flops(step) for step in walk(module, loops=False))
    assert once == 2 * 64 * 128 * 128


def test_collectives_of_a_tpu():
    gather, scatter = sorted(collectives(parse(TPU), MESH))
    assert gather[:5] == ("all-gather", ("fsdp",), "bf16", 12, 12 * 64)
    assert scatter[:5] == ("reduce-scatter", ("fsdp",), "bf16", 12, 12 * 64)
    assert gather.sent == scatter.sent == 12 * 32


def test_no_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups=[2,8]<=[16], x", np.arange(16).reshape(2, 8)),
        ("replica_groups=[2,8]<=[8,2]T(1,0), x", np.arange(16).reshape(8, 2).T),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
        ("replica_groups={}, x", [range(16)]),
        ("replica_groups=mesh['axis_0'=16], x", [range(16)]),
        (
            "replica_groups=mesh['data'=4,'fsdp'=2,'tensor'=2] {'data','tensor'}, x",
            [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]],
        ),
    ],
)
def test_groups_of_devices(text, groups):
    np.testing.assert_array_equal(device_groups(text, MESH), np.array(groups))


def test_unknown_groups_are_an_error():
    with pytest.raises(ValueError, match="unknown way to write groups"):
        device_groups("replica_groups=V9", MESH)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ([[0, 1], [2, 3]], ("tensor",)),
        ([[0, 2], [1, 3]], ("fsdp",)),
        ([[0, 4, 8, 12]], ("data",)),
        ([[0, 4]], ("data",)),
        ([[0, 2, 4, 6, 8, 10, 12, 14]], ("data", "fsdp")),
        ([[0], [1]], ()),
    ],
)
def test_axes_of_groups(groups, axes):
    assert mesh_axes(np.array(groups), MESH) == axes


def test_what_the_ring_algorithms_send():
    assert share_sent("all-reduce", 4) == 1.5
    assert share_sent("all-gather", 4) == share_sent("all-to-all", 4) == 0.75
    assert share_sent("collective-permute", 4) == 1
    assert share_sent("all-reduce", 1) == 0


def test_arrays_of_a_shape():
    text = "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s4[8]{0}, pred[], token[])"
    assert arrays(text) == (
        Array("bf16", (2, 3), False),
        Array("s4", (8,), True),
        Array("pred", (), True),
        Array("token", (), True),
    )
    assert [array.size for array in arrays(text)] == [12, 4, 1, 0]


# A batched product as a TPU has it: the batch is a spatial dimension whose dilation
# leaves one element of the kernel to each place. Printed for a (3, 5, 7) x (3, 7, 11).
BATCHED = """
ENTRY %main (a: f32[3,5,7], b: f32[3,7,11]) -> f32[3,5,11] {
  %a = f32[3,5,7]{2,1,0} parameter(0)
  %b = f32[3,7,11]{2,1,0} parameter(1)
  ROOT %c = f32[3,5,11]{2,1,0} convolution(%a, %b), \
window={size=3 stride=2 pad=0_0 lhs_dilate=3}, dim_labels=0bf_0io->0bf
}
"""


def test_products_with_batches_as_dilated_convolutions():
    assert (
        sum(product_flops(step) for step in walk(parse(BATCHED))) == 2 * 3 * 5 * 7 * 11
    )


def cost_of(function, *shapes):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*shapes).compile()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (jnp.matmul, [(64, 96), (96, 128)]),
        (lambda a, b: jnp.einsum("bqe,bke->bqk", a, b), [(4, 32, 64), (4, 48, 64)]),
        (
            lambda x, k: jax.lax.conv_general_dilated(
                x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            [(2, 17, 17, 8), (3, 3, 8, 16)],
        ),
        (
            lambda x, k: jax.lax.conv_general_dilated(
                x,
                k,
                (1, 1),
                [(1, 2), (0, 0)],
                lhs_dilation=(2, 1),
                rhs_dilation=(1, 2),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            [(2, 9, 9, 8), (3, 3, 8, 16)],
        ),
    ],
)
def test_products_are_those_that_xla_counts(function, shapes):
    compiled = cost_of(function, *shapes)
    flops = sum(product_flops(step) for step in walk(parse(compiled.as_text())))
    assert flops == compiled.cost_analysis()["flops"]


def test_a_loop_counts_as_often_as_it_runs():
    """Nested: five rounds of three products each."""

    def inner(x, w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, None, length=3)[0]

    def nested(x, ws):
        return jax.lax.scan(lambda x, w: (inner(x, w), None), x, ws)[0]

    compiled = cost_of(nested, (64, 64), (5, 64, 64))
    costs = analyze(compiled, jax.make_mesh((1,), ("d",), devices=jax.devices()[:1]))
    products = 15 * 2 * 64**3
    assert products <= costs.flops < 1.02 * products
    assert costs.unknown_loops == 0 and costs.collectives == []
    # Each round reads x, one w of the five and writes x: not the stack of all five.
    round_bytes = 3 * 64 * 64 * 4
    assert 15 * round_bytes < costs.hbm_bytes < 15 * 3 * round_bytes


def test_slices_and_updates_move_what_they_are_about():
    def update(stack, x, i):
        return jax.lax.dynamic_update_index_in_dim(stack, 2 * x, i, 0)

    shapes = (
        jax.ShapeDtypeStruct((1000, 64), jnp.float32),
        jax.ShapeDtypeStruct((64,), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    module = parse(jax.jit(update, donate_argnums=0).lower(*shapes).compile().as_text())
    sizes = sum(
        array.size
        for step in walk(module)
        if step.instruction.op in ("fusion", "dynamic-update-slice")
        if not step.fused
        for array in moved(step, module)
    )
    assert 2 * 64 * 4 <= sizes < 3 * 64 * 4


def test_an_update_of_what_the_fusion_computes_moves_all_of_it():
    module = parse("""HloModule jit_update, is_scheduled=true

%fused (p.0: f32[8,64], p.1: f32[1,64]) -> f32[8,64] {
  %p.0 = f32[8,64]{1,0} parameter(0)
  %p.1 = f32[1,64]{1,0} parameter(1)
  %sum = f32[8,64]{1,0} add(%p.0, %p.0)
  %zero = s32[] constant(0)
  ROOT %update = f32[8,64]{1,0} dynamic-update-slice(%sum, %p.1, %zero, %zero)
}

ENTRY %main (a: f32[8,64], b: f32[1,64]) -> f32[8,64] {
  %a = f32[8,64]{1,0} parameter(0)
  %b = f32[1,64]{1,0} parameter(1)
  ROOT %fusion = f32[8,64]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused
}
""")
    (step,) = (s for s in walk(module) if s.instruction.op == "fusion")
    assert sum(array.size for array in moved(step, module)) == 4 * (2 * 8 * 64 + 64)


def test_an_updated_array_that_is_summed_is_read():
    """Nothing is written in place there: the update is a part of the sum."""
    module = parse("""HloModule jit_sum, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%fused (p.0: f32[8,64], p.1: f32[1,64]) -> f32[64] {
  %p.0 = f32[8,64]{1,0} parameter(0)
  %p.1 = f32[1,64]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %update = f32[8,64]{1,0} dynamic-update-slice(%p.0, %p.1, %zero, %zero)
  %none = f32[] constant(0)
  ROOT %sum = f32[64]{0} reduce(%update, %none), dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[8,64], b: f32[1,64]) -> f32[64] {
  %a = f32[8,64]{1,0} parameter(0)
  %b = f32[1,64]{1,0} parameter(1)
  ROOT %fusion = f32[64]{0} fusion(%a, %b), kind=kInput, calls=%fused
}
""")
    (step,) = (s for s in walk(module) if s.instruction.op == "fusion")
    assert sum(array.size for array in moved(step, module)) == 4 * (8 * 64 + 2 * 64)


def test_the_scratch_space_of_a_library_is_no_result():
    module = parse("""HloModule jit_product, is_scheduled=true

ENTRY %main (a: bf16[8,64], b: bf16[64,64]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %b = bf16[64,64]{1,0} parameter(1)
  %product = (bf16[8,64]{1,0}, s8[4194304]{0}) custom-call(%a, %b), \
custom_call_target="__cublas$lt$matmul"
  %copy = bf16[8,64]{1,0} copy(%a)
  ROOT %result = bf16[8,64]{1,0} get-tuple-element(%product), index=0
}
""")
    (step,) = (s for s in walk(module) if s.instruction.op == "custom-call")
    assert sum(array.size for array in moved(step, module)) == 2 * (2 * 512 + 4096)
    started = [s.instruction.name for s in walk(module) if starts_kernel(s)]
    assert started == ["product", "copy"]


@pytest.mark.parametrize(
    ("use", "rows"),
    [("negate(%same)", 8), ("slice(%same), slice={[0:1], [0:64]}", 1)],
)
def test_what_an_inner_fusion_passes_on_is_read(use, rows):
    """As it is on TPU, where such a fusion is put around an operand of a product."""
    module = parse(f"""HloModule jit_pass, is_scheduled=true

%inner (p.0: f32[512]) -> f32[8,64] {{
  %p.0 = f32[512]{{0}} parameter(0)
  ROOT %shaped = f32[8,64]{{1,0}} bitcast(%p.0)
}}

%outer (p.1: f32[512]) -> f32[{rows},64] {{
  %p.1 = f32[512]{{0}} parameter(0)
  %same = f32[8,64]{{1,0}} fusion(%p.1), kind=kLoop, calls=%inner
  ROOT %used = f32[{rows},64]{{1,0}} {use}
}}

ENTRY %main (a: f32[512]) -> f32[{rows},64] {{
  %a = f32[512]{{0}} parameter(0)
  ROOT %fusion = f32[{rows},64]{{1,0}} fusion(%a), kind=kLoop, calls=%outer
}}
""")
    (step,) = (s for s in walk(module) if s.instruction.name == "fusion")
    assert sum(array.size for array in moved(step, module)) == 4 * 2 * rows * 64


WORKER = """
import json, sys, jax
from vit_jax.training.setup import build_program
from vit_jax.config_file import read_config
from vit_jax.config import resolve_lengths
from vit_jax.planning.program import analyze

rows = []
for mesh in ((8, 1, 1), (2, 2, 2)):
    for scan in ("false", "true"):
        config = read_config("configs/imagenet.py:ViT-S/16", [
            "--config.data.batch_size=16", "--config.eval.batch_size=16",
            "--config.data.image_size=64,64", "--config.model.scan=" + scan])
        config.model.depth = 4
        config.mesh.update(dict(zip(("data", "fsdp", "tensor"), mesh)))
        program = build_program(
            config, num_classes=10, lengths=resolve_lengths(config, 1000000))
        compiled = program.train_step.lower(
            program.state, program.batch, program.keys).compile()
        costs = analyze(compiled, program.mesh)
        rows.append({**costs._asdict(), "xla": compiled.cost_analysis()["flops"]})
print(json.dumps(rows))
"""


@pytest.mark.full
def test_scanned_and_unrolled_models_cost_the_same():
    """A training step on eight fake devices: arithmetic, and what is communicated."""
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", WORKER],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout.splitlines()[-1])
    for unrolled, scanned in (rows[:2], rows[2:]):
        assert unrolled["flops"] == unrolled["xla"]
        assert scanned["flops"] == pytest.approx(unrolled["flops"], rel=0.1)
        assert scanned["xla"] < 0.4 * scanned["flops"]
        # The loop copies each layer's parameters out of the stack, and gradients into
        # it; were the whole stack counted in each round, it would be twice as much.
        assert 1 < scanned["hbm_bytes"] / unrolled["hbm_bytes"] < 1.4
        pair = [
            {tuple(map(str, row[:3])): row[4] for row in costs["collectives"]}
            for costs in (unrolled, scanned)
        ]
        assert pair[0] == {
            key: pytest.approx(size, rel=1e-3, abs=1024)
            for key, size in pair[1].items()
        }
    axes = {tuple(row[1]) for row in rows[2]["collectives"]}
    assert {("tensor",), ("fsdp",), ("data",)} <= axes
    assert {tuple(row[1]) for row in rows[0]["collectives"]} == {("data",)}
