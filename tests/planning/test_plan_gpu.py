"""Plans for absent NVIDIA GPUs: cards, their memory, the real program."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from vit_jax.planning.chips import CHIPS
from vit_jax.planning.target import find_target
from vit_jax.planning.topology import CARDS, CUDA_PLUGINS

DIGITS = ("--config", "configs/digits.py", "--config.data.batch_size=256")


def plan(*arguments, environment=None):
    command = [sys.executable, "-m", "vit_jax.plan", *arguments]
    environment = os.environ | (environment or {})
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )


needs_cuda = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in CUDA_PLUGINS),
    reason="the CUDA wheels of jax are not installed",
)


@needs_cuda
def test_a_plan_for_two_hosts_of_gpus(tmp_path):
    """The real program: its memory, kernels, and what leaves a host."""
    path = tmp_path / "plan.json"
    mesh = ("--config.mesh.fsdp=2", "--config.mesh.data=2")
    arguments = (*DIGITS, *mesh, "--num-examples", "5000", "--num-classes", "7")
    result = plan(*arguments, "--devices", "2x2xH100", "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert "cuPTI" not in result.stderr and "E0000" not in result.stderr
    values = json.loads(path.read_text())
    assert values["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert values["device_kind"] == "NVIDIA H100 80GB HBM3"
    assert values["dtype"] == "bfloat16" and values["num_classes"] == 7
    memory = values["memory"]
    whole = 4 * values["parameters"]
    assert whole / 2 <= memory["parameters"] < whole / 1.5
    assert memory["batch"] == 256 / 4 * (16 * 16 * 3 + 4)
    # Three quarters of what the driver has, not of 80 GiB.
    assert memory["available"] == int(0.75 * 84942979072) and memory["fits"] is True
    assert memory["peak"] == memory["total"] > 2 * memory["parameters"]
    program = values["program"]
    assert values["model_flops"] < program["flops"] < 1.2 * values["model_flops"]
    assert program["kernels"]["__cublas$lt$matmul"] > 10
    # A class token and 16 patches: an odd number, which cuDNN has padded.
    layers = program["kernels"]["__cudnn$fmhaSoftmax"]
    assert program["kernels"]["__cudnn$fmhaSoftmaxBackward"] == layers > 1
    assert program["uncounted"] == [] and program["unknown_loops"] == 0
    network = {tuple(row["axes"]): row["network"] > 0 for row in program["collectives"]}
    assert network[("data",)] and not network[("fsdp",)]
    least = values["roofline"]
    assert least["memory"] > 0 and least["network"] > 0
    assert least["images/s"] == pytest.approx(256 / least["step"])
    assert "jax takes 75%" in result.stdout and "  fits" in result.stdout
    assert "between hosts at 50 GB/s" in result.stdout


@needs_cuda
def test_the_largest_batch_for_a_gpu(tmp_path):
    path = tmp_path / "plan.json"
    share = {"XLA_CLIENT_MEM_FRACTION": "0.0004"}
    arguments = (*DIGITS, "--devices", "1xH200", "--largest-batch")
    result = plan(*arguments, "--json", str(path), environment=share)
    assert result.returncode == 0, result.stderr
    values = json.loads(path.read_text())
    tried = dict(
        re.findall(r"batch +([\d,]+): .*, (fits|does not fit);", result.stdout)
    )
    sizes = {int(size.replace(",", "")): fits == "fits" for size, fits in tried.items()}
    assert values["batch_size"] == max(size for size, fits in sizes.items() if fits)
    assert values["batch_size"] > 64 and len(sizes) < 8
    memory = values["memory"]
    assert 0.9 < memory["peak"] / memory["available"] <= 1


@needs_cuda
@pytest.mark.parametrize("card", sorted(CARDS.glob("*.txtpb")), ids=lambda p: p.stem)
def test_cards_that_are_described(card):
    """XLA reads each, and finds the card whose figures are in `chips.py`."""
    code = (
        "import sys; from vit_jax.planning.target import find_target;"
        "t = find_target(None, '2x' + sys.argv[1]);"
        "print(len(t.devices), t.chip and t.chip.memory, t.memory)"
    )
    command = [sys.executable, "-c", code, card.stem]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    devices, memory, usable = map(int, result.stdout.split()[-3:])
    assert devices == 2 and memory == CHIPS[card.stem].memory
    # Drivers keep a little, and vendors say 80 GB of what is 80 or 79 GiB.
    assert 0.97 < usable / 0.75 / memory < 1.01


@pytest.mark.parametrize("text", ["8", "0xH100", "H100", "2x0xH100", "8 H100"])
def test_wrong_devices(text):
    with pytest.raises(ValueError, match="as 8xH100 or 2x8xH100"):
        find_target(None, text)


@pytest.mark.parametrize("card", ["V100", "H1000", "A100"])
def test_cards_without_a_description(card):
    with pytest.raises(ValueError, match=f"no description of '{card}'.*B200, H100"):
        find_target(None, f"8x{card}")


@pytest.mark.parametrize("text", ["1.5", "0", "half"])
def test_a_share_of_memory_that_is_none(monkeypatch, text):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", text)
    with pytest.raises(ValueError, match=f"XLA_CLIENT_MEM_FRACTION={text}: wanted"):
        find_target(None, "8xH100")
