"""Costs of programs compiled for NVIDIA GPUs: libraries, Triton, two kinds of links.

The text is that of real programs, shortened: see its first lines.
"""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.planning.chips import CHIPS
from vit_jax.planning.collectives import collectives, share_between
from vit_jax.planning.deviceless import cudnn_for
from vit_jax.planning.estimate import roofline
from vit_jax.planning.hlo import parse, walk
from vit_jax.planning.products import product_flops
from vit_jax.planning.program import analyze

TEXT = (Path(__file__).parent.parent / "golden" / "h100_program.txt").read_text()
DEVICES = np.array(
    [SimpleNamespace(platform="gpu", process_index=i // 8) for i in range(16)]
)
MESH = SimpleNamespace(
    devices=DEVICES.reshape(2, 8, 1), axis_names=("data", "fsdp", "tensor")
)
ATTENTION = 64 * 12 * 50 * 50 * 64


def costs_of(text):
    compiled = SimpleNamespace(as_text=lambda: text, cost_analysis=lambda: None)
    return analyze(compiled, MESH)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("dot.787", 2 * 12608 * 768 * 2304),
        ("dot_product_attention_fwd.60", 4 * ATTENTION),
        ("dot_product_attention_bwd.96", 10 * ATTENTION),
        ("cudnn-conv.104", 2 * 64 * 112**2 * 7**2 * 3 * 64),
        ("cudnn-conv-bw-filter.67", 2 * 64 * (3 * 28) ** 2 * 128 * 128),
        ("cudnn-conv-bw-input.33", 2 * 64 * (3 * 28) ** 2 * 128 * 128),
        ("cudnn-conv-bias-activation.48", 2 * 64 * 14**2 * 256 * 1024),
        ("custom-call.3", 2 * 4 * 64 * 96 * 32),
    ],
)
def test_products_of_libraries_and_triton(name, flops):
    counts = {s.instruction.name: product_flops(s) for s in walk(parse(TEXT))}
    assert counts[name] == flops
    assert costs_of(TEXT).flops == sum(counts.values())


def test_kernels_are_named():
    costs = costs_of(TEXT)
    assert costs.kernels == {
        "fusion": 24,
        "__triton_nested_gemm_fusion": 1,
        "__cudnn$fmhaSoftmax": 1,
        "__cudnn$fmhaSoftmaxBackward": 1,
        "__cudnn$convForward": 1,
        "__cudnn$convBackwardFilter": 1,
        "__cudnn$convBackwardInput": 1,
        "__cudnn$convBiasActivationForward": 1,
        "__cublas$lt$matmul": 1,
    }
    assert costs.uncounted == [] and costs.unknown_loops == 0


def test_calls_of_unknown_arithmetic_are_named():
    costs = costs_of(TEXT.replace("__cublas$lt$matmul", "mosaic_gpu_v2"))
    assert costs.uncounted == ["mosaic_gpu_v2"]
    assert costs.flops == costs_of(TEXT).flops - 2 * 4 * 64 * 96 * 32


def test_collectives_in_a_loop():
    """Within hosts over fsdp, between the two over data; each round counts."""
    rows = {row[:3]: row for row in collectives(parse(TEXT), MESH)}
    gather = rows["all-gather", ("fsdp",), "bf16"]
    assert gather.size == 24 * 2 * 1024 * (1024 + 3072 + 50)
    assert gather.sent == gather.size * 7 / 8 and gather.network == 0
    scatter = rows["reduce-scatter", ("fsdp",), "bf16"]
    assert scatter.size == 24 * 2 * 1024 * (3072 + 50 + 1024) and scatter.network == 0
    between = rows["all-reduce", ("data",), "bf16"]
    # Two hosts: all of it, each device its own piece.
    assert between.sent == between.network == between.size == 24 * 2 * 1572864
    # All 16: of what 8 devices of a host have reduced, each sends an eighth.
    everyone = rows["all-reduce", ("data", "fsdp"), "bf16"]
    assert everyone.size == 24 * 2 * 9216
    assert everyone.sent == everyone.size * 2 * 15 / 16
    assert everyone.network == everyone.size / 8


def test_what_is_sent_between_hosts():
    one_host, two_hosts = np.zeros((1, 8)), np.array([[0, 1], [0, 1]])
    assert share_between("all-reduce", one_host) == 0
    assert share_between("all-reduce", two_hosts) == 1
    assert share_between("all-gather", np.arange(16)[None] // 4) == 3 / 4 / 4


def test_the_network_is_not_rated_as_nvlink():
    rows = collectives(parse(TEXT), MESH)
    chip = CHIPS["H100"]
    least = roofline(chip, "bfloat16", 0.0, 0.0, rows)
    network = sum(row.network for row in rows)
    assert least.network == network / 50e9
    assert least.links == (sum(row.sent for row in rows) - network) / 450e9
    assert least.bound == "network"
    assert roofline(CHIPS["v5e"], "bfloat16", 0.0, 0.0, rows).network is None


def test_bytes_of_what_runs_beside_other_kernels():
    """A start has operands and results in its result; the end moves nothing.

    Of the layers' activations that a scan keeps, a fusion writes those of one.
    """
    only = TEXT.replace('"n":"24"', '"n":"1"')
    twice = TEXT.replace('"n":"24"', '"n":"2"')
    one_round = costs_of(twice).hbm_bytes - costs_of(only).hbm_bytes
    gathered = 128 * (2 * (1024 + 3072 + 50) + 4 * 1000) * (1 + 8)
    reduced = 2 * 2 * (9216 + 1572864)
    scattered = 2 * 1024 * (3072 + 50 + 1024) * (1 + 1 / 8)
    kept = 2 * (2 * 800 * 4096) + 4
    assert one_round == gathered + reduced + scattered + kept


def lower_attention(tokens):
    """With heads of 256, which cuDNN has from Hopper on.

    JAX keeps what it has traced: another number of tokens is another program.
    """

    def attention(x):
        return jax.nn.dot_product_attention(x, x, x, implementation="cudnn")

    x = jax.ShapeDtypeStruct((2, tokens, 4, 256), jnp.bfloat16)
    return jax.jit(attention).trace(x).lower(lowering_platforms=("cuda",))


def test_cudnn_answers_for_cards_that_are_not_there():
    """Lowering for CUDA needs no CUDA wheels."""
    card = SimpleNamespace(platform="gpu", compute_capability="9.0")
    with cudnn_for([card]):
        assert "__cudnn$fmhaSoftmax" in lower_attention(64).as_text()
    old = SimpleNamespace(platform="gpu", compute_capability="8.0")
    with cudnn_for([old]), pytest.raises(NotImplementedError, match="128"):
        lower_attention(66)
    # This machine's devices: there is no cuDNN, or only that of the wheels.
    refused = pytest.raises(RuntimeError, match="cuDNN|head dim")
    with cudnn_for(jax.devices()), refused:
        lower_attention(68)
