"""The benchmark measures what it says, and refuses what it would not read."""

import json
import subprocess
import sys

import jax.numpy as jnp
import pytest

from configs import base
from vit_jax.models import create_model
from vit_jax.planning import timing


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vit_jax.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_synthetic_step_is_a_training_step():
    config = base.get_config()
    config.model.name = "ViT-mu/8"
    config.data.update(batch_size=4, image_size=(16, 16))
    config.train.accumulate_steps = 2
    _, program = timing.repeated_training(config, num_classes=10)
    compiled, state = timing.compile_program(program)
    assert compiled.program_bytes > 0
    batches = iter([program.batch] * 9)
    state, seconds = timing.run_steps(compiled.step, state, program.keys, batches, 3)
    assert int(state.step) == 4 and seconds > 0


def test_forward_leaves_the_parameters():
    model = create_model("ViT-mu/8", num_classes=10, image_size=16)
    program = timing.repeated_forward(model, 4)
    before = program.init_state()
    kernel = jnp.copy(before["embedding"]["kernel"])
    after, metrics = program.step(before, program.batch, program.keys)
    assert (after["embedding"]["kernel"] == kernel).all()
    assert metrics["logit"].shape == ()


@pytest.mark.full
def test_real_input(tmp_path):
    path = tmp_path / "out.json"
    smaller = (
        "model.depth=1",
        "model.width=16",
        "model.mlp_dim=16",
        "model.num_heads=2",
    )
    overrides = [f"--config.{text}" for text in (*smaller, "data.batch_size=32")]
    command = ("--config", "configs/digits.py", "--steps", "5", "--json", str(path))
    done = run(*command, *overrides)
    assert done.returncode == 0, done.stderr
    assert "the input adds" in done.stdout
    (row,) = json.loads(path.read_text())["results"]
    assert row["batch_size"] == 32
    assert 0 < row["input_min"] <= row["input"] <= row["input_max"]
    least, most = row["both_min"] / row["step_max"], row["both_max"] / row["step_min"]
    assert least <= 1 + row["added"] <= most


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "configs/digits.py", "--batch", "8"], "--batch goes with"),
        (["--model", "ViT-Ti/16", "--config.seed=1"], "--config.seed=1 goes with"),
        (["--model", "ViT-Ti/16", "--batch", "8,x"], "--batch=8,x: wanted"),
        (["--model", "ViT-Ti/16", "--steps", "1"], "--steps must be at least"),
        (
            ["--model=ViT-Ti/16", "--mode=forward", "--accumulate-steps=2"],
            "--accumulate-steps goes with --mode train",
        ),
    ],
)
def test_arguments_that_nothing_would_read(arguments, message):
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
