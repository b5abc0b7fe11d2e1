"""Speed and memory of forward passes: saved measurements, and the largest batch."""

import json

import jax
import pytest

from experiments.lab import throughput
from experiments.lab.throughput import Forward, fastest, image_bytes, largest_batch
from vit_jax.models import create_model

ROW = {"bytes": [(8, 999), (16, 500 + 16 * 25), (32, 500 + 32 * 25)]}


def test_an_image_more_is_judged_by_the_two_largest_batches():
    assert image_bytes(ROW) == 25


@pytest.mark.parametrize(
    ("memory", "batch"), [(500 + 64 * 25, 64), (499 + 64 * 25, 32), (510, 0)]
)
def test_largest_batch_is_the_power_of_two_that_fits(memory, batch):
    assert largest_batch(ROW, memory) == batch


def test_measurements_are_kept(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(throughput, "fastest", lambda *x: calls.append(x) or {"a": 1})
    path = tmp_path / "measurements.json"
    assert Forward(path)("one", "model", (2, 1)) == {"a": 1}
    assert calls == [("model", [1, 2])]
    assert Forward(path)("one", "model", (1, 2)) == {"a": 1}
    assert len(calls) == 1
    # Measurements of another machine are ignored.
    path.write_text(json.dumps({"abacus x 1": {"one": {"a": 2}}}))
    assert Forward(path)("one", "model", (1, 2)) == {"a": 1}


def test_batches_that_do_not_fit_are_left_out(monkeypatch):
    def measure(program, **_):
        batch = len(program.batch["label"])
        if batch > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        step = {1: 1.0, 2: 4.0}[batch]
        times = {"step": step, "step_min": step / 2, "step_max": 2 * step}
        return times | {"program_bytes": 100 * batch}

    monkeypatch.setattr(throughput, "measure", measure)
    model = create_model("ViT-mu/16", num_classes=2, image_size=16)
    row = fastest(model, (1, 2, 4))
    assert (row["batch"], row["images/s"]) == (1, 1.0)
    assert (row["least"], row["most"]) == (0.5, 2.0)
    assert row["bytes"] == [(1, 100), (2, 200)]
